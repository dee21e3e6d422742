//! Decisions, one scenario a test.

mod choices;
mod full_disk;
mod upkeep;
