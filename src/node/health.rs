//! Whether this process lives and is ready, with the reason.
//!
//! Ready: every shard is whole, and this process has caught up with a leader once (or led). It never goes
//! back for want of a leader: readiness is for rollouts and routing, not for failover. Alive: the engine has
//! not failed; recovery of any length is life.

use crate::node::replica::Replica;
use crate::topology::message::DataState;

/// A probe's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub ok: bool,
    pub reason: String,
}

impl Verdict {
    pub(crate) fn yes(reason: impl Into<String>) -> Self {
        Self { ok: true, reason: reason.into() }
    }

    pub(crate) fn no(reason: impl Into<String>) -> Self {
        Self { ok: false, reason: reason.into() }
    }
}

/// Whether the member lives.
pub(crate) fn live(replica: &dyn Replica) -> Verdict {
    match replica.engine().failure() {
        None => Verdict::yes("alive"),
        Some(reason) => Verdict::no(format!("the engine has stopped after a failure: {reason}")),
    }
}

/// Whether the member is ready.
pub(crate) fn ready(replica: &dyn Replica) -> Verdict {
    let alive = live(replica);
    if !alive.ok {
        return alive;
    }
    let health = replica.health();
    let unready = health
        .shards
        .iter()
        .enumerate()
        .find(|(_, shard)| !matches!(shard.state, DataState::Ready | DataState::Damaged));
    if let Some((id, shard)) = unready {
        let why = match shard.state {
            DataState::Blank => "has no data yet: it waits to be initialised or to join as a learner",
            DataState::Syncing => "is being copied from another member",
            DataState::Amnesic => "may miss acknowledged entries: it waits to catch up",
            DataState::Quarantined => "is unsound and waits to be rebuilt from another member",
            DataState::Ready | DataState::Damaged => "is ready",
        };
        let trouble = if health.trouble.is_empty() { String::new() } else { format!(" ({})", health.trouble) };
        return Verdict::no(format!("shard {id} {why}{trouble}"));
    }
    if !health.caught_up && !health.serving {
        return Verdict::no("it has not caught up with a leader since it started");
    }
    if health.draining {
        return Verdict::no("it is stopping");
    }
    Verdict::yes(if health.serving { "leads and serves" } else { "follows and has caught up" })
}
