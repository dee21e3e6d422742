//! Sleeping until an atomic says so: a futex that counts wake-ups.
//!
//! Waiters re-check their own condition (an atomic) and never take a lock, so that a sync that ends wakes
//! sixty-four writers without a queue at a mutex.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// See the module's comment.
#[derive(Debug, Default)]
pub(crate) struct WaitCell {
    wakes: AtomicU32,
    sleepers: AtomicU32,
}

impl WaitCell {
    /// Returns once `done`, re-checked after every wake; `false` if `timeout` passed first.
    pub(crate) fn wait(&self, timeout: Option<Duration>, done: impl Fn() -> bool) -> bool {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            // Counted before the condition is checked: a waker changes the condition first, so it either sees
            // the sleeper, or the sleeper sees the condition.
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let seen = self.wakes.load(Ordering::SeqCst);
            let done = done();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if !done && left != Some(Duration::ZERO) {
                futex_wait(&self.wakes, seen, left);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            if done {
                return true;
            }
            if left == Some(Duration::ZERO) {
                return false;
            }
        }
    }

    /// Wakes every waiter.
    pub(crate) fn wake_all(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            futex_wake(&self.wakes);
        }
    }
}

fn futex_wait(cell: &AtomicU32, seen: u32, timeout: Option<Duration>) {
    let spec = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: t.subsec_nanos() as _,
    });
    let spec = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the address is that of a live, aligned u32; the timespec is null or lives across the call.
    // Spurious returns and errors are harmless: the caller re-checks.
    unsafe {
        libc::syscall(libc::SYS_futex, cell.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, seen, spec);
    }
}

fn futex_wake(cell: &AtomicU32) {
    // SAFETY: the address is that of a live, aligned u32; waking changes no memory.
    unsafe {
        libc::syscall(libc::SYS_futex, cell.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_waiter_returns_when_its_condition_holds_and_not_before() {
        let cell = WaitCell::default();
        assert!(!cell.wait(Some(Duration::from_millis(1)), || false));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiters: Vec<_> =
                (0..4).map(|_| scope.spawn(|| cell.wait(None, || done.load(Ordering::SeqCst)))).collect();
            cell.wake_all();
            done.store(true, Ordering::SeqCst);
            cell.wake_all();
            assert!(waiters.into_iter().all(|w| w.join().expect("no panic")));
        });
    }
}
