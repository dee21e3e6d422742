//! The controller's copy of the register, and the one operation on it that may be under way.
//!
//! Invariants: one operation at a time; after a conflict, or a swap of which nobody knows whether it was done,
//! the copy is in doubt and is read again before anything is decided from it.

use std::sync::Arc;
use std::time::Duration;

use super::Action;
use crate::ident::AttemptId;
use crate::position::Epoch;
use crate::topology::register::{CasOutcome, Phase, ReadOutcome, Register, Version};

/// Without any news the register is read again after this long: somebody else may have written it.
const REREAD: Duration = Duration::from_secs(5);
/// Between attempts to read a register that cannot be read.
const RETRY: Duration = Duration::from_millis(200);

/// What is known of the register.
#[derive(Debug)]
pub(super) enum Known {
    /// Never read so far.
    Unread,
    /// There is none.
    Absent,
    /// This.
    Found(Arc<Register>, Version),
}

#[derive(Debug)]
enum Operation {
    Read { since: Duration },
    Swap { register: Box<Register> },
}

/// See the module.
#[derive(Debug)]
pub(super) struct RegisterCopy {
    known: Known,
    under_way: Option<Operation>,
    in_doubt: bool,
    /// Somebody said that it changed; a swap would notice by itself.
    refresh: bool,
    /// Reads fail until this is None again.
    failure: Option<String>,
    retry_at: Duration,
    /// The copy is at least as new as the register was then.
    as_of: Duration,
    /// Since when epoch, phase and attempt have been as they are.
    since: Duration,
}

impl RegisterCopy {
    pub(super) fn new() -> Self {
        Self {
            known: Known::Unread,
            under_way: None,
            in_doubt: true,
            refresh: false,
            failure: None,
            retry_at: Duration::ZERO,
            as_of: Duration::ZERO,
            since: Duration::ZERO,
        }
    }

    /// What is known, even if it is in doubt: for pictures.
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// The register, even if it is in doubt: for pictures, and for what is safe with an old copy.
    pub(super) fn found(&self) -> Option<&Arc<Register>> {
        match &self.known {
            Known::Found(register, _) => Some(register),
            Known::Unread | Known::Absent => None,
        }
    }

    /// Whether something may be decided from the copy and written.
    pub(super) fn settled(&self) -> bool {
        self.under_way.is_none() && !self.in_doubt
    }

    /// Why it cannot be read.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The copy is at least as new as the register was at this time.
    pub(super) fn as_of(&self) -> Duration {
        self.as_of
    }

    /// Since when epoch, phase and attempt are as they are, as far as this controller saw.
    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// Read it again before anything is decided.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Somebody may have changed it: read it when there is time. Nothing waits for that, because whatever is
    /// decided from an old copy is a swap that finds out.
    pub(super) fn refresh(&mut self) {
        self.refresh = true;
    }

    /// Reads if that is due; says when to look again otherwise. `idle`: no change is running here.
    pub(super) fn pump(&mut self, now: Duration, idle: bool, actions: &mut Vec<Action>) -> Option<Duration> {
        if self.under_way.is_some() {
            return None;
        }
        let due = if self.in_doubt {
            self.retry_at
        } else if idle {
            if self.refresh { now } else { self.as_of + REREAD }
        } else {
            return None;
        };
        if now < due {
            return Some(due);
        }
        // What is doubted from now on is doubted after this read.
        self.in_doubt = false;
        self.refresh = false;
        self.under_way = Some(Operation::Read { since: now });
        actions.push(Action::ReadRegister);
        None
    }

    /// Writes `register` over what is known. Only when [`Self::settled`].
    pub(super) fn swap(&mut self, register: Register, actions: &mut Vec<Action>) {
        debug_assert!(self.settled());
        let expected = match &self.known {
            Known::Found(_, version) => Some(version.clone()),
            Known::Unread | Known::Absent => None,
        };
        let register = Box::new(register);
        actions.push(Action::CompareAndSwap { expected, register: register.clone() });
        self.under_way = Some(Operation::Swap { register });
    }

    /// A read came back.
    pub(super) fn read_done(&mut self, outcome: ReadOutcome, now: Duration) {
        let Some(Operation::Read { since }) = self.under_way.take() else { return };
        match outcome {
            ReadOutcome::Found(register, version) => self.replace(Known::Found(register.into(), version), since, now),
            ReadOutcome::Absent => self.replace(Known::Absent, since, now),
            ReadOutcome::Failed(why) => {
                self.failure = Some(why);
                self.in_doubt = true;
                self.retry_at = now + RETRY;
            }
        }
    }

    /// A swap came back. The error is for humans.
    pub(super) fn swap_done(&mut self, outcome: CasOutcome, now: Duration) -> Result<(), String> {
        let Some(Operation::Swap { register }) = self.under_way.take() else { return Ok(()) };
        match outcome {
            CasOutcome::Written(version) => {
                self.replace(Known::Found(register.into(), version), now, now);
                Ok(())
            }
            CasOutcome::Conflict => {
                self.in_doubt = true;
                self.retry_at = now;
                Ok(())
            }
            CasOutcome::Unknown(why) => {
                self.in_doubt = true;
                self.retry_at = now;
                Err(why)
            }
        }
    }

    fn replace(&mut self, known: Known, as_of: Duration, now: Duration) {
        fn mark(known: &Known) -> Option<(Epoch, Phase, Option<AttemptId>)> {
            match known {
                Known::Found(r, _) => Some((r.epoch, r.phase, r.attempt)),
                Known::Unread | Known::Absent => None,
            }
        }
        if matches!(self.known, Known::Unread) || mark(&self.known) != mark(&known) {
            self.since = now;
        }
        self.known = known;
        self.as_of = as_of;
        self.failure = None;
    }
}
