//! What the acting replica remembers of a cluster between two looks.
//!
//! Nothing here is needed to be right: a replica that takes over begins with nothing, and waits the longer for it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::apply::Compared;
use super::build::Identity;
use crate::position::Gsn;
use crate::topology::view::{MemberState, MemberView};

/// Secrets are not watched: they are looked at again after this long.
const SECRETS_AGAIN: Duration = Duration::from_secs(300);

/// How a member got on.
#[derive(Debug)]
struct Track {
    pod: String,
    mark: (MemberState, Gsn),
    since: Instant,
    in_sync_since: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    /// The object that this is about.
    uid: String,
    identity: Option<(Identity, Instant)>,
    secrets_applied: bool,
    /// See there.
    pub compared: Compared,
    tracks: BTreeMap<String, Track>,
    safe_since: BTreeMap<i32, Instant>,
    status_written: Option<Instant>,
    /// The requests that were handed to a driver last, by annotation.
    pub asked: BTreeMap<&'static str, String>,
    handovers: BTreeMap<i32, (String, u32, Instant)>,
}

impl Memory {
    /// About the object `uid`; what was known of another one of its name is forgotten.
    pub fn about(&mut self, uid: &str) {
        if self.uid != uid {
            *self = Self { uid: uid.to_owned(), ..Self::default() };
        }
    }

    /// The cluster's identity, if it was read not long ago.
    pub fn identity(&self, now: Instant) -> Option<Identity> {
        let (identity, read) = self.identity.as_ref()?;
        (now < *read + SECRETS_AGAIN).then(|| identity.clone())
    }

    /// It was read now: Secrets are brought about from what was just read, never from what was read long ago, or an
    /// authority that was deleted to have a new one would come back.
    pub fn set_identity(&mut self, identity: Identity, now: Instant) {
        self.identity = Some((identity, now));
        self.secrets_applied = false;
    }

    /// Whether Secrets are to be brought about.
    pub fn secrets_due(&self) -> bool {
        !self.secrets_applied
    }

    /// They were.
    pub fn secrets_applied(&mut self) {
        self.secrets_applied = true;
    }

    /// Takes how a member is now; for how long it has been in sync, and for how long it has not got on.
    pub fn track(&mut self, member: &MemberView, pod: &str, now: Instant) -> (Option<Duration>, Duration) {
        let mark = (member.state, member.tail);
        let fresh = || Track { pod: pod.to_owned(), mark, since: now, in_sync_since: None };
        let track = self.tracks.entry(member.name.clone()).or_insert_with(fresh);
        if track.pod != pod {
            *track = fresh();
        }
        if track.mark != mark {
            (track.mark, track.since) = (mark, now);
        }
        let in_sync = member.state == MemberState::InSync;
        track.in_sync_since = in_sync.then(|| track.in_sync_since.unwrap_or(now));
        (track.in_sync_since.map(|since| now - since), now - track.since)
    }

    /// Takes whether a member of the partition may be missed now; for how long that has been so.
    pub fn safe_for(&mut self, partition: i32, safe: bool, now: Instant) -> Option<Duration> {
        if safe {
            return Some(now - *self.safe_since.entry(partition).or_insert(now));
        }
        self.safe_since.remove(&partition);
        None
    }

    /// How long ago the status was written.
    pub fn status_age(&self, now: Instant) -> Option<Duration> {
        self.status_written.map(|written| now - written)
    }

    /// It was written now.
    pub fn status_written(&mut self, now: Instant) {
        self.status_written = Some(now);
    }

    /// The id of a request that somebody else than the pod `uid` shall lead: a new one when the last came to nothing.
    pub fn handover(&mut self, partition: i32, uid: &str, again: Duration, now: Instant) -> String {
        let entry = self.handovers.entry(partition).or_insert_with(|| (uid.to_owned(), 0, now));
        if entry.0 != uid {
            *entry = (uid.to_owned(), 0, now);
        } else if now >= entry.2 + again {
            *entry = (uid.to_owned(), entry.1 + 1, now);
        }
        format!("rollout-{uid}-{}", entry.1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::view;
    use super::*;

    #[test]
    fn a_member_gets_on_when_its_state_or_its_log_does() {
        let mut memory = Memory::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut member = view(&[1, 2, 3], 3).members[1].clone();
        member.state = MemberState::Syncing;
        assert_eq!(memory.track(&member, "p1", at(0)), (None, Duration::ZERO));
        assert_eq!(memory.track(&member, "p1", at(50)), (None, Duration::from_secs(50)));
        member.tail += 1;
        assert_eq!(memory.track(&member, "p1", at(60)), (None, Duration::ZERO));
        member.state = MemberState::InSync;
        memory.track(&member, "p1", at(70));
        member.tail += 1;
        assert_eq!(memory.track(&member, "p1", at(80)).0, Some(Duration::from_secs(10)));
        assert_eq!(memory.track(&member, "p2", at(90)).0, Some(Duration::ZERO), "another pod begins anew");
    }

    #[test]
    fn a_handover_that_came_to_nothing_is_asked_for_again_under_another_id() {
        let mut memory = Memory::default();
        let (now, again) = (Instant::now(), Duration::from_secs(30));
        let first = memory.handover(0, "a", again, now);
        assert_eq!(memory.handover(0, "a", again, now + Duration::from_secs(29)), first);
        assert_ne!(memory.handover(0, "a", again, now + Duration::from_secs(30)), first);
        assert_ne!(memory.handover(0, "b", again, now), first);
    }

    #[test]
    fn another_object_of_the_same_name_is_another_cluster() {
        let mut memory = Memory::default();
        memory.about("u1");
        memory.asked.insert("annotation", "x".into());
        memory.about("u1");
        assert!(!memory.asked.is_empty());
        memory.about("u2");
        assert!(memory.asked.is_empty() && memory.identity(Instant::now()).is_none());
    }
}
