//! Decisions, one scenario a test.

mod choices;
