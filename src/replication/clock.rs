//! The clock that leases and silences are measured by: time since boot, suspension included.
//!
//! Durations only; two members' clocks are never compared.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine booted, on a clock that goes on while it sleeps.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Unix milliseconds.
pub(crate) fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
