//! The checker is checked: by hand, by injected faults, by an independent checker over random histories, by size.

mod faults;
mod independent;
mod random;
mod sentences;
mod size;
