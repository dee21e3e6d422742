//! Decisions, one scenario a test.

mod choices;
mod upkeep;
