//! A value that several threads tell of figures which change under them.
//!
//! Invariant: what was told last is what was read last. The figures are read while nobody else can tell: with the reading
//! before the telling, a thread that loses the processor in between would tell old figures over newer ones, and whoever
//! waits for those would wait until the next change, for ever where nothing changes.

use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub(crate) struct Told<T>(watch::Sender<T>);

impl<T> Told<T> {
    /// Told before anything is read.
    pub(crate) fn new(first: T) -> Self {
        Self(watch::Sender::new(first))
    }

    /// Tells what `read` finds; wakes whoever watches if that `is_news` beside what was told before. `read` is called
    /// under this value's lock: it may take others, none of which is held where this value is told or looked at.
    pub(crate) fn tell(&self, read: impl FnOnce() -> T, is_news: impl FnOnce(&T, &T) -> bool) {
        self.0.send_if_modified(|told| {
            let now = read();
            let news = is_news(told, &now);
            *told = now;
            news
        });
    }

    /// Watches it.
    pub(crate) fn watch(&self) -> watch::Receiver<T> {
        self.0.subscribe()
    }

    /// Looks at it.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.borrow())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_reads_first_and_tells_last_tells_nothing_old() {
        let (told, figure) = (Told::new(0), AtomicU64::new(1));
        let (has_read, may_rise) = mpsc::channel();
        let (has_told, told_by_other) = mpsc::channel();
        std::thread::scope(|scope| {
            let (told, figure) = (&told, &figure);
            scope.spawn(move || {
                let slow = || {
                    let read = figure.load(Ordering::SeqCst);
                    has_read.send(()).expect("the other waits for it");
                    // It loses the processor: long enough for the other to tell, unless it has to wait for us.
                    let _ = told_by_other.recv_timeout(Duration::from_millis(100));
                    read
                };
                told.tell(slow, |old, new| old != new);
            });
            may_rise.recv().expect("it reads");
            figure.store(2, Ordering::SeqCst);
            told.tell(|| figure.load(Ordering::SeqCst), |old, new| old != new);
            let _ = has_told.send(());
        });
        assert_eq!(told.look(|it| *it), 2);
    }

    #[test]
    fn only_news_wakes() {
        let told = Told::new((0, 0));
        let mut watch = told.watch();
        told.tell(|| (0, 1), |old, new| old.0 != new.0);
        assert!(!watch.has_changed().expect("it is there"));
        assert_eq!(*watch.borrow_and_update(), (0, 1));
        told.tell(|| (1, 1), |old, new| old.0 != new.0);
        assert!(watch.has_changed().expect("it is there"));
    }
}
