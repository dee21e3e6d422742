//! Sleeping until an atomic says so: futexes that count wake-ups.
//!
//! Waiters re-check their own condition (an atomic) and never take a lock, so that a sync that ends wakes sixty-four
//! writers without a queue at a mutex. Waking a thread costs microseconds: the waker wakes one, who wakes the next before it
//! looks at its condition, and so on. The thread that syncs goes on to the next sync meanwhile. (Two or four at a time made
//! fewer durable puts a second on two processors: they take turns with the thread that syncs.)

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where threads sleep, and how often they were woken.
#[derive(Debug, Default)]
struct Bed {
    wakes: AtomicU32,
    sleepers: AtomicU32,
}

impl Bed {
    fn wake(&self, threads: i32) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            futex_wake(&self.wakes, threads);
        }
    }
}

/// See the module's comment.
#[derive(Debug, Default)]
pub(crate) struct WaitCell {
    /// Counts wakings; its parity says in which bed who comes now lies down. Who is woken and whose turn it is not lies
    /// down in another bed than the one that is being woken: nobody is woken in circles.
    rounds: AtomicU32,
    beds: [Bed; 2],
}

impl WaitCell {
    /// Returns once `done`, re-checked after every wake; `false` if `timeout` passed first.
    pub(crate) fn wait(&self, timeout: Option<Duration>, done: impl Fn() -> bool) -> bool {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let bed = self.bed();
            // Counted before the condition is checked: a waker changes the condition first, so it either sees
            // the sleeper, or the sleeper sees the condition.
            bed.sleepers.fetch_add(1, Ordering::SeqCst);
            let seen = bed.wakes.load(Ordering::SeqCst);
            let done = done();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let sleeps = !done && left != Some(Duration::ZERO);
            if sleeps {
                futex_wait(&bed.wakes, seen, left);
            }
            bed.sleepers.fetch_sub(1, Ordering::SeqCst);
            if sleeps {
                // Whoever was woken owes it to the others, whatever its own condition says.
                if !std::ptr::eq(bed, self.bed()) {
                    bed.wake(1);
                }
            }
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
        let round = self.rounds.fetch_add(1, Ordering::SeqCst) as usize;
        let (before, next) = (&self.beds[round % 2], &self.beds[(round + 1) % 2]);
        before.wakes.fetch_add(1, Ordering::SeqCst);
        next.wakes.fetch_add(1, Ordering::SeqCst);
        before.wake(1);
        // Seldom any: whom the last waking but one has not reached yet, or who read the round before that.
        next.wake(i32::MAX);
    }

    /// In which one lies down now.
    fn bed(&self) -> &Bed {
        &self.beds[self.rounds.load(Ordering::SeqCst) as usize % 2]
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

fn futex_wake(cell: &AtomicU32, threads: i32) {
    // SAFETY: the address is that of a live, aligned u32; waking changes no memory.
    unsafe {
        libc::syscall(libc::SYS_futex, cell.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, threads);
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

    /// Many waiters of different conditions, woken round by round: nobody is left asleep.
    #[test]
    fn nobody_sleeps_on_whose_turn_has_come() {
        use std::sync::atomic::AtomicU64;

        let (cell, reached, waiting) = (WaitCell::default(), AtomicU64::new(0), AtomicU64::new(0));
        let (threads, turns) = (16, 200);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (cell, reached, waiting) = (&cell, &reached, &waiting);
                scope.spawn(move || {
                    for turn in 1..=turns {
                        // Some wait for the next waking, others for the one after it.
                        let mine = (turn + thread % 2).min(turns);
                        waiting.fetch_add(1, Ordering::SeqCst);
                        assert!(cell.wait(None, || reached.load(Ordering::SeqCst) >= mine));
                    }
                });
            }
            for turn in 1..=turns {
                // Each has come for this turn, except those who wait for the one after the last.
                while waiting.load(Ordering::SeqCst) < threads * turn - threads / 2 * (turn - 1).min(1) {
                    std::thread::yield_now();
                }
                reached.store(turn, Ordering::SeqCst);
                cell.wake_all();
            }
        });
    }
}
