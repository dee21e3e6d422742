//! Places in `ChangeEpoch` at which a test ends the process that drives it, or holds it up.
//!
//! ```text
//! ALLOC (swap) > FENCE (calls) > TARGET, CHOOSE > ASSEMBLE (calls) > DECIDE (swap) > PROMOTE (call) > FOLLOW (calls)
//! ```
//! All that a driver's death can leave behind is told apart by what has been asked of the register and the members and
//! what has been answered, so a place lies before or after one of those: the first call of a step, or the first answer.
//! What is before ASSEMBLE is after TARGET and CHOOSE; a step that has nothing to ask has no place.
//!
//! Invariants: a place does its deed once and is forgotten; without debug assertions nothing can be armed. Owned by a
//! driver, so that one partition's test cannot meet another one's changes.

use std::str::FromStr;

use tokio::sync::watch;

use crate::topology::controller::Action;
use crate::topology::message::Request;
use crate::topology::register::Phase;

/// What a process that a place ended leaves as its exit code.
pub const EXIT_CODE: i32 = 86;

/// A step of `ChangeEpoch`, by what it asks of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The swap that takes the epoch.
    Alloc,
    /// A member is asked to promise it.
    Fence,
    /// A member is asked to fetch what it lacks.
    Assemble,
    /// The swap that names the leader.
    Decide,
    /// The leader is told.
    Promote,
    /// A follower is told.
    Follow,
}

/// Before something is asked, or after it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nobody was asked.
    Before(Step),
    /// The answer is there, and nobody has seen it.
    After(Step),
}

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// The process ends at once, as if it were killed.
    Exit,
    /// Whoever comes by waits until it is released.
    Hold,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is armed.
    Idle,
    /// Nobody came by so far.
    Armed(Place, Deed),
    /// Somebody waits there.
    Held(Place),
}

/// The place that is armed in a driver, if any.
#[derive(Debug)]
pub struct Failpoints {
    state: watch::Sender<State>,
}

impl Default for Failpoints {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::Idle) }
    }
}

impl Failpoints {
    /// Arms a place, in place of any other. Whoever is held at that one goes on.
    pub fn arm(&self, place: Place, deed: Deed) {
        if cfg!(debug_assertions) {
            tracing::warn!(?place, ?deed, "a failpoint is armed");
            self.state.send_replace(State::Armed(place, deed));
        }
    }

    /// Lets go whoever is held, and forgets what is armed.
    pub fn release(&self) {
        self.state.send_replace(State::Idle);
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Somebody comes by `place`.
    pub(super) async fn pass(&self, place: Place) {
        let mut deed = None;
        self.state.send_if_modified(|state| match *state {
            State::Armed(armed, armed_deed) if armed == place => {
                deed = Some(armed_deed);
                *state = State::Held(place);
                true
            }
            _ => false,
        });
        match deed {
            None => {}
            Some(Deed::Exit) => {
                tracing::warn!(?place, "a failpoint ends this process");
                std::process::exit(EXIT_CODE);
            }
            Some(Deed::Hold) => {
                // Never closed: it is ours.
                let _ = self.state.subscribe().wait_for(|state| *state != State::Held(place)).await;
            }
        }
    }
}

impl Step {
    /// The step that `action` is part of; `changing`: whether a `ChangeEpoch` is running.
    pub(super) fn of(action: &Action, changing: bool) -> Option<Self> {
        match action {
            Action::CompareAndSwap { register, .. } => match register.phase {
                Phase::Electing => Some(Self::Alloc),
                Phase::Leading => changing.then_some(Self::Decide),
            },
            Action::Send { request, .. } => match **request {
                Request::Fence(_) => Some(Self::Fence),
                Request::Assemble(_) => Some(Self::Assemble),
                Request::Promote(_) => Some(Self::Promote),
                Request::Follow(_) => Some(Self::Follow),
                _ => None,
            },
            Action::ReadRegister | Action::Tell(_) => None,
        }
    }
}

impl FromStr for Place {
    type Err = String;

    /// `before-alloc`, `after-decide`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (moment, step) = text.split_once('-').unwrap_or((text, ""));
        let step = match step {
            "alloc" => Step::Alloc,
            "fence" => Step::Fence,
            "assemble" => Step::Assemble,
            "decide" => Step::Decide,
            "promote" => Step::Promote,
            "follow" => Step::Follow,
            _ => return Err(format!("{text} is no place: before- or after- one of alloc, fence, assemble, decide, …")),
        };
        match moment {
            "before" => Ok(Self::Before(step)),
            "after" => Ok(Self::After(step)),
            _ => Err(format!("{text} is no place: it begins with before- or after-")),
        }
    }
}

impl FromStr for Deed {
    type Err = String;

    /// `exit`, `hold`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exit" => Ok(Self::Exit),
            "hold" => Ok(Self::Hold),
            _ => Err(format!("{text} is no deed: exit or hold")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn whoever_comes_by_an_armed_place_waits_until_it_is_released_and_nobody_else_does() {
        let points = Arc::new(Failpoints::default());
        points.pass(Place::Before(Step::Decide)).await;
        points.arm("before-decide".parse().expect("a place"), "hold".parse().expect("a deed"));
        points.pass(Place::After(Step::Decide)).await;
        let held = {
            let points = Arc::clone(&points);
            tokio::spawn(async move { points.pass(Place::Before(Step::Decide)).await })
        };
        let here = State::Held(Place::Before(Step::Decide));
        points.state.subscribe().wait_for(|state| *state == here).await.expect("it comes by");
        assert!(!held.is_finished());
        // The next one passes: a place does its deed once.
        points.pass(Place::Before(Step::Decide)).await;
        points.release();
        held.await.expect("it goes on");
        assert!("before-lunch".parse::<Place>().is_err() && "decide".parse::<Place>().is_err());
    }
}
