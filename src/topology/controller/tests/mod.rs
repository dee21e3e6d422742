//! Decisions, one scenario a test.
