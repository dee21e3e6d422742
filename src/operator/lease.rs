//! Which replica of the operator acts: leader election on a Lease.
//!
//! Time is local and monotonic: a lease counts as expired when *this* process has not seen it change for its
//! duration, whatever clocks and stamps say. It is taken and kept by compare-and-swap. A holder that could not renew
//! steps down before others may take over. What is gated by it (objects, rollouts, status, planned moves) may
//! nevertheless be done by two for a moment: everything is written with the resource version it was decided from.
//! Failover does not wait for it at all.

use std::time::Duration;

use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::Key;
use super::client::{ErrorKind, Kube, KubeError};
use super::kinds::Kind;
use super::queue::jittered;

/// Seen unchanged for this long, a lease is free.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long acts no more: well before anybody else may.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Between looks at a lease that somebody else holds, or after an error.
const RETRY: Duration = Duration::from_secs(2);

/// What is known of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    holder: String,
    version: String,
    transitions: i64,
}

impl Record {
    fn of(lease: &DynamicObject) -> Self {
        let spec = &lease.data["spec"];
        Self {
            holder: spec["holderIdentity"].as_str().unwrap_or_default().to_owned(),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            transitions: spec["leaseTransitions"].as_i64().unwrap_or(0),
        }
    }
}

/// What to do about the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Move {
    /// Make it.
    Create,
    /// It is mine, or free: write it.
    Write,
    /// Somebody holds it.
    Wait,
}

/// The decisions: pure.
#[derive(Debug)]
struct Election {
    identity: String,
    seen: Option<(Record, Instant)>,
    /// When the last renewal that went through was begun.
    held_since: Option<Instant>,
}

impl Election {
    fn new(identity: String) -> Self {
        Self { identity, seen: None, held_since: None }
    }

    /// Takes what was read.
    fn see(&mut self, record: Option<Record>, now: Instant) {
        match record {
            None => self.seen = None,
            Some(record) => match &mut self.seen {
                Some((known, _)) if *known == record => {}
                seen => *seen = Some((record, now)),
            },
        }
        if self.seen.as_ref().is_none_or(|(record, _)| record.holder != self.identity) {
            self.held_since = None;
        }
    }

    fn next(&self, now: Instant) -> Move {
        match &self.seen {
            None => Move::Create,
            Some((record, _)) if record.holder == self.identity || record.holder.is_empty() => Move::Write,
            Some((_, since)) if now >= *since + DURATION => Move::Write,
            Some(_) => Move::Wait,
        }
    }

    /// A write that was begun at `begun` went through.
    fn wrote(&mut self, record: Record, begun: Instant) {
        self.seen = Some((record, begun));
        self.held_since = Some(begun);
    }

    /// Until when this replica may act.
    fn holds_until(&self) -> Option<Instant> {
        self.held_since.map(|since| since + RENEW_DEADLINE)
    }
}

/// Takes part in the election for the lease `key` until `stop`; `holds` says whether this replica acts.
pub async fn run(kube: Kube, key: Key, identity: String, holds: watch::Sender<bool>, stop: CancellationToken) {
    let mut campaign =
        Campaign { kube: kube.within(RENEW_DEADLINE / 2), key, election: Election::new(identity), object: None };
    loop {
        let deadline = campaign.election.holds_until();
        let round = async {
            let pause = campaign.round().await;
            (pause, campaign.election.holds_until().is_some())
        };
        let (pause, holding) = tokio::select! {
            () = stop.cancelled() => break,
            done = round => done,
            () = until(deadline) => (RETRY, false),
        };
        if !holding {
            campaign.election.held_since = None;
        }
        announce(&holds, holding);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            () = until(campaign.election.holds_until()) => {
                campaign.election.held_since = None;
                announce(&holds, false);
            }
        }
    }
    let held = campaign.election.held_since.is_some();
    announce(&holds, false);
    if held && let Err(error) = campaign.release().await {
        tracing::debug!(%error, "the lease was not given back; it expires");
    }
}

fn announce(holds: &watch::Sender<bool>, holding: bool) {
    holds.send_if_modified(|known| {
        let changed = *known != holding;
        *known = holding;
        if changed {
            tracing::info!(holding, "{}", if holding { "this replica acts" } else { "this replica stands by" });
        }
        changed
    });
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Campaign {
    kube: Kube,
    key: Key,
    election: Election,
    /// As it was read or written last.
    object: Option<DynamicObject>,
}

impl Campaign {
    /// One look, and what follows from it; how long to pause.
    async fn round(&mut self) -> Duration {
        match self.look_and_write().await {
            Ok(true) => jittered(RENEW),
            Ok(false) => jittered(RETRY),
            Err(error) => {
                tracing::debug!(%error, "the lease");
                // Whoever was faster is seen at the next look.
                self.object = None;
                if error.kind == ErrorKind::Forbidden {
                    tracing::warn!(%error, "without its lease this replica stands by");
                }
                jittered(RETRY / 2)
            }
        }
    }

    async fn look_and_write(&mut self) -> Result<bool, KubeError> {
        // A holder renews from what it wrote last: one request, and a conflict tells if somebody came between.
        if self.election.held_since.is_none() || self.object.is_none() {
            self.object = self.kube.get(Kind::Lease, &self.key.namespace, &self.key.name).await?;
            self.election.see(self.object.as_ref().map(Record::of), Instant::now());
        }
        let begun = Instant::now();
        let written = match (self.election.next(begun), self.object.take()) {
            (Move::Wait, object) => {
                self.object = object;
                return Ok(false);
            }
            (Move::Write, Some(mut object)) => {
                self.fill(&mut object);
                self.kube.replace(Kind::Lease, &object, false).await?
            }
            (Move::Create | Move::Write, _) => {
                let mut object = DynamicObject::new(&self.key.name, &Kind::Lease.resource())
                    .within(&self.key.namespace)
                    .data(json!({"spec": {}}));
                self.fill(&mut object);
                self.kube.create(Kind::Lease, &object).await?
            }
        };
        self.election.wrote(Record::of(&written), begun);
        self.object = Some(written);
        Ok(true)
    }

    fn fill(&self, object: &mut DynamicObject) {
        let now = stamp();
        let before = Record::of(object);
        let spec = &mut object.data["spec"];
        if before.holder != self.election.identity {
            spec["acquireTime"] = now.clone();
            let taken = !before.holder.is_empty();
            spec["leaseTransitions"] = (before.transitions + i64::from(taken)).into();
        }
        spec["holderIdentity"] = self.election.identity.as_str().into();
        spec["leaseDurationSeconds"] = DURATION.as_secs().into();
        spec["renewTime"] = now;
    }

    async fn release(&mut self) -> Result<(), KubeError> {
        let Some(mut object) = self.object.take() else { return Ok(()) };
        object.data["spec"]["holderIdentity"] = "".into();
        object.data["spec"]["leaseDurationSeconds"] = 1.into();
        object.data["spec"]["renewTime"] = stamp();
        self.kube.replace(Kind::Lease, &object, false).await.map(drop)
    }
}

/// For people and other programs; nothing here is decided by it.
fn stamp() -> Value {
    Value::String(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, version: u64) -> Record {
        Record { holder: holder.into(), version: version.to_string(), transitions: 0 }
    }

    #[test]
    fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_duration_and_not_before() {
        let start = Instant::now();
        let mut election = Election::new("b".into());
        election.see(Some(record("a", 1)), start);
        assert_eq!(election.next(start + DURATION - Duration::from_millis(1)), Move::Wait);
        // It changed: the time begins anew, whatever stamps are in it.
        election.see(Some(record("a", 2)), start + Duration::from_secs(14));
        assert_eq!(election.next(start + DURATION), Move::Wait);
        election.see(Some(record("a", 2)), start + Duration::from_secs(20));
        assert_eq!(election.next(start + Duration::from_secs(29)), Move::Write);
    }

    #[test]
    fn a_free_lease_and_ones_own_are_written_at_once() {
        let now = Instant::now();
        let mut election = Election::new("b".into());
        assert_eq!(election.next(now), Move::Create);
        election.see(Some(record("", 1)), now);
        assert_eq!(election.next(now), Move::Write);
        election.see(Some(record("b", 2)), now);
        assert_eq!(election.next(now), Move::Write, "an earlier process of the same name");
    }

    #[test]
    fn a_holder_acts_until_its_deadline_counted_from_the_start_of_the_last_renewal() {
        let start = Instant::now();
        let mut election = Election::new("b".into());
        assert_eq!(election.holds_until(), None);
        election.wrote(record("b", 1), start);
        assert_eq!(election.holds_until(), Some(start + RENEW_DEADLINE));
        assert!(RENEW_DEADLINE + RETRY < DURATION);
        election.see(Some(record("a", 2)), start);
        assert_eq!(election.holds_until(), None, "somebody else holds it");
    }
}
