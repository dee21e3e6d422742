//! Topology's decisions carried out: what `local` and `operator` share.
//!
//! Owns the loop that feeds a controller (health streams, answers, the register, time) and does what it says, the
//! controllers' side of the peer port, the translation of a partition's wishes, and the part of a cluster's status
//! that is read off the controllers' pictures.
//!
//! Invariants: nothing is decided here; every question that a controller asks (a register operation, a call) gets
//! exactly one answer. Where the register is and who runs the members is the business of the floors above.

mod driver;
pub mod failpoint;
mod peer;
pub mod status;
mod wish;

pub use driver::{AsyncRegister, Driver, Reach, Setup};
pub use wish::partition_wish;
