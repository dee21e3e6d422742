//! How many bytes of requests are held, for one connection and for all of them.
//!
//! A message is buffered while its frames arrive, before any service sees it; so the bytes are counted
//! there. Invariant: what is taken is given back, at the latest when the request's body is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    held: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|&held| held <= self.limit)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

/// What one request holds of its connection's budget and of everybody's.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: AtomicUsize,
    connection: Arc<Budget>,
    all: Arc<Budget>,
}

impl Held {
    pub(crate) fn new(connection: Arc<Budget>, all: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), connection, all })
    }

    /// Takes `bytes` more; the error says which limit is in the way.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), String> {
        if !self.connection.take(bytes) {
            let limit = self.connection.limit();
            return Err(format!("the connection's requests hold more than {limit} bytes: wait for answers"));
        }
        if !self.all.take(bytes) {
            self.connection.give_back(bytes);
            let limit = self.all.limit();
            return Err(format!("this member's requests hold more than {limit} bytes: try again in a moment"));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back everything taken so far: the message was decoded, and is counted elsewhere from now on.
    pub(crate) fn release(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.connection.give_back(bytes);
        self.all.give_back(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_after_a_request_is_gone_or_refused() {
        let (connection, all) = (Budget::new(100), Budget::new(150));
        let (a, b) = (Held::new(connection.clone(), all.clone()), Held::new(Budget::new(100), all.clone()));
        a.take(80).expect("room");
        assert!(a.take(21).expect_err("over the connection's").contains("100"));
        b.take(70).expect("room");
        assert!(b.take(1).expect_err("over everybody's").contains("150"));
        a.release();
        b.take(20).expect("room again");
        drop((a, b));
        assert_eq!((connection.held(), all.held()), (0, 0));
    }
}
