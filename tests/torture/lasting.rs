//! Faults that last while the next ones come: each ends when its time is over.

use std::time::{Duration, Instant};

/// See the module; `F` says how a fault is undone.
pub struct Lasting<F>(Vec<(Instant, F)>);

impl<F> Lasting<F> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn begin(&mut self, time: Duration, fault: F) {
        self.0.push((Instant::now() + time, fault));
    }

    pub fn any(&self, is: impl Fn(&F) -> bool) -> bool {
        self.0.iter().any(|(_, fault)| is(fault))
    }

    /// Those whose time is over.
    pub fn due(&mut self) -> Vec<F> {
        let now = Instant::now();
        self.0.extract_if(.., |(until, _)| *until <= now).map(|(_, fault)| fault).collect()
    }

    /// Those that are meant.
    pub fn those(&mut self, are: impl Fn(&F) -> bool) -> Vec<F> {
        self.0.extract_if(.., |(_, fault)| are(fault)).map(|(_, fault)| fault).collect()
    }

    pub fn all(&mut self) -> Vec<F> {
        self.0.drain(..).map(|(_, fault)| fault).collect()
    }
}
