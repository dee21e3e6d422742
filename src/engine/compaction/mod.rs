//! Housekeeping of a shard: hints for files that no longer change, the log's floor, and compaction of what lies
//! below it.
//!
//! One thread a directory does it in *steps*, each of which leaves the shard sound wherever a crash falls into
//! it: make one hint, raise the floor, or rewrite a few files. Writers and readers never wait for it, except
//! where it replaces the manifest, as every change of the set of files does. An error costs the step: it is
//! told and tried again later. Only what nobody may survive (a manifest that may or may not be in force) ends
//! the engine's life.
//!
//! ```text
//!   cold: rewritten, merged, thinned out │ log: contiguous, as appended        │ not committed
//!   ─────────────────────────────────────┼─────────────────────────────────────┼──────────────
//!                                    log_floor                              commit          tail
//! ```

mod estimate;
mod input;
mod job;
mod output;
mod plan;
mod report;
mod retention;
mod state;
mod step;
mod switch;
mod throttle;

pub(crate) use plan::Pace;
pub use report::HousekeepingReport;
pub use retention::LogKeeper;
pub(crate) use state::Housekeeping;
pub(crate) use step::{Step, run};
