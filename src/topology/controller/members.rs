//! What is known of each member: its last word, how its health stream stands, whose storage it is.
//!
//! Members are addressed by name and identified by sid. A sid shown by two names at once, or with an open count
//! that went back, is a copy of a volume: the newcomer is refused and told, never wiped, and what was known
//! first stays. Nothing here is safety: validity is judged again on every FENCE reply.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Disconnect;
use crate::ident::{ClusterId, Sid};
use crate::position::{Epoch, Gsn};
use crate::replication::rules::{Sighting, Sightings};
use crate::topology::message::{DataState, HealthReport, InitState, MemberName, Role, ShardReport, Standing};
use crate::topology::notice::{Notice, Severity};
use crate::topology::spec::ExpectedMember;

/// A member that said nothing for this long does not answer.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// A report or a reply of an earlier process may still have been on its way when a later one was heard, and a controller
/// may have stood still before it takes it.
const OVERTAKEN: Duration = Duration::from_secs(5);
/// A follower whose oldest unacknowledged entry is older is catching up, not in sync.
const IN_SYNC_LAG_MS: u64 = 1000;

/// How a member's health stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Never opened so far.
    Unheard,
    /// Open.
    Up,
    /// Refused, reset or closed: nobody is there.
    Gone {
        /// Since when.
        at: Duration,
    },
    /// Open or not, nothing comes.
    Silent,
}

/// One member.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) expected: ExpectedMember,
    /// Its last accepted word.
    pub(super) report: Option<HealthReport>,
    /// When that came.
    pub(super) heard: Option<Duration>,
    pub(super) link: Link,
    /// It shows storage that is a copy of what is known elsewhere, or an older state of it.
    pub(super) copy_of: Option<Sid>,
    /// Since when its present promise has been known.
    pub(super) promised_since: Duration,
    /// Since when the configuration that it persisted last has been known.
    pub(super) configured_since: Duration,
    /// Since when the leader has called it in sync without a break.
    pub(super) in_sync_since: Option<Duration>,
    /// An `Init` or FOLLOW of this epoch is under way.
    pub(super) call: Option<(u64, Epoch)>,
    /// The epoch it was told to follow last, and when it may be told again.
    pub(super) told: (Epoch, Duration),
    /// Since when it has followed a leader that has no stream of it, or was told anew because of that.
    pub(super) parted_since: Option<Duration>,
}

impl Member {
    fn new(expected: ExpectedMember) -> Self {
        Self {
            expected,
            report: None,
            heard: None,
            link: Link::Unheard,
            copy_of: None,
            promised_since: Duration::ZERO,
            configured_since: Duration::ZERO,
            in_sync_since: None,
            call: None,
            told: (0, Duration::ZERO),
            parted_since: None,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &MemberName {
        &self.expected.name
    }

    /// Its storage, if it ever said.
    pub(super) fn sid(&self) -> Option<Sid> {
        self.report.as_ref().map(|r| r.standing.sid)
    }

    /// Its last word, if it is from now.
    pub(super) fn fresh(&self, now: Duration) -> Option<&HealthReport> {
        self.report.as_ref().filter(|_| self.copy_of.is_none() && self.link == Link::Up && self.silence(now) < FRESH)
    }

    /// Its last word, from whenever it is: what it promised and persisted stays so.
    pub(super) fn known(&self) -> Option<&HealthReport> {
        self.report.as_ref().filter(|_| self.copy_of.is_none())
    }

    /// How long nothing was heard of it.
    pub(super) fn silence(&self, now: Duration) -> Duration {
        self.heard.map_or(now, |heard| now.saturating_sub(heard))
    }
}

/// Whether storage is an initialised part of this cluster and lineage.
pub(super) fn belongs(standing: &Standing, cluster_id: ClusterId, lineage: u64) -> bool {
    standing.cluster_id == Some(cluster_id) && standing.lineage == lineage && standing.init == InitState::Done
}

fn same_config(a: &Standing, b: &Standing) -> bool {
    a.last_config.as_ref().map(|config| config.epoch) == b.last_config.as_ref().map(|config| config.epoch)
}

/// Whether a member's data may vote.
pub(super) fn may_vote(shards: &[ShardReport]) -> bool {
    !shards.is_empty() && shards.iter().all(|s| matches!(s.state, DataState::Ready | DataState::Damaged))
}

/// Whether a member's data may vote if every voter answers: the amnesia rule. Any one of them may have lost what it
/// had not synced, so only all together are known to hold all that is left.
pub(super) fn may_vote_with_all(shards: &[ShardReport]) -> bool {
    let whole = |s: &ShardReport| matches!(s.state, DataState::Ready | DataState::Damaged | DataState::Amnesic);
    !shards.is_empty() && shards.iter().all(whole)
}

/// Whether storage was formatted and nothing else ever happened to it.
pub(super) fn is_blank(report: &HealthReport) -> bool {
    report.standing.init == InitState::None
        && report.standing.cluster_id.is_none()
        && report.shards.iter().all(|s| s.state == DataState::Blank)
}

/// All members that shall exist, by name.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<MemberName, Member>,
    sightings: Sightings,
    /// By whom and when the process that holds a sid now was first seen, in a report or a reply.
    since: BTreeMap<Sid, (MemberName, Duration)>,
    /// Per cluster and lineage, and shard: the highest gsn that anybody ever knew to be committed.
    commits: BTreeMap<(ClusterId, u64), Vec<Gsn>>,
}

impl Members {
    /// These shall exist; what is known of them is kept.
    pub(super) fn expect(&mut self, expected: Vec<ExpectedMember>) {
        let mut known = std::mem::take(&mut self.by_name);
        for member in expected {
            let entry = match known.remove(&member.name) {
                Some(kept) => Member { expected: member, ..kept },
                None => Member::new(member),
            };
            self.by_name.insert(entry.name().clone(), entry);
        }
    }

    /// By ordinal.
    pub(super) fn in_order(&self) -> Vec<&Member> {
        let mut all: Vec<_> = self.by_name.values().collect();
        all.sort_by_key(|m| m.expected.ordinal);
        all
    }

    /// In no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Member> {
        self.by_name.values()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Member> {
        self.by_name.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Member> {
        self.by_name.get_mut(name)
    }

    /// Who holds `sid` now, or held it when last heard.
    pub(super) fn holder(&self, sid: Sid) -> Option<&Member> {
        self.by_name.values().find(|m| m.copy_of.is_none() && m.sid() == Some(sid))
    }

    /// The last word of the holder of `sid`, if it is from now.
    pub(super) fn fresh(&self, sid: Sid, now: Duration) -> Option<&HealthReport> {
        self.holder(sid).and_then(|m| m.fresh(now))
    }

    /// Takes a report. What it returns is for humans.
    pub(super) fn report(&mut self, name: &str, report: HealthReport, now: Duration) -> Option<Notice> {
        let standing = &report.standing;
        let sid = standing.sid;
        let elsewhere = self
            .by_name
            .values()
            .find(|m| m.expected.name != name && m.sid() == Some(sid) && m.fresh(now).is_some())
            .map(|m| (m.expected.name.clone(), m.report.as_ref().map(|r| r.standing.instance)));
        let member = self.by_name.get_mut(name)?;
        if let Some((other, instance)) = elsewhere
            && instance != Some(standing.instance)
        {
            return refuse_copy(member, sid, &format!("{other} runs with the same storage"));
        }
        match self.sightings.see(sid, standing.open_count, standing.instance) {
            Sighting::Clone => {
                // What is known of the member may be a reply alone, or of the volume that it had before.
                let lately = |(by, at): &(MemberName, Duration)| by == name && now.saturating_sub(*at) < OVERTAKEN;
                if self.since.get(&sid).is_some_and(lately) {
                    return None;
                }
                return refuse_copy(member, sid, "a later state of this storage was seen before");
            }
            Sighting::New | Sighting::Restart => {
                self.since.insert(sid, (name.to_owned(), now));
            }
            Sighting::Reconnect => {}
        }
        if let Some(cluster_id) = standing.cluster_id {
            let known = self.commits.entry((cluster_id, standing.lineage)).or_default();
            known.resize(known.len().max(report.shards.len()), 0);
            for (known, shard) in known.iter_mut().zip(&report.shards) {
                *known = (*known).max(shard.commit).max(shard.known_commit);
            }
        }
        let same = member.report.as_ref().filter(|r| r.standing.instance == standing.instance);
        // Promises never fall: an older word of the same process that was overtaken by a reply says nothing new.
        let newer = |known: &Standing| {
            (known.promised, known.led, known.live_led) > (standing.promised, standing.led, standing.live_led)
        };
        if same.is_some_and(|r| newer(&r.standing)) {
            member.heard = Some(now);
            member.link = Link::Up;
            return None;
        }
        if member.report.as_ref().is_none_or(|r| r.standing.promised != standing.promised || r.standing.sid != sid) {
            member.promised_since = now;
        }
        if member.report.as_ref().is_none_or(|r| !same_config(&r.standing, standing) || r.standing.sid != sid) {
            member.configured_since = now;
        }
        member.copy_of = None;
        member.heard = Some(now);
        member.link = Link::Up;
        member.report = Some(report);
        None
    }

    /// The highest gsn of `shard` that anybody ever knew to be committed in this cluster and lineage.
    pub(super) fn known_commit(&self, cluster_id: ClusterId, lineage: u64, shard: usize) -> Gsn {
        self.commits.get(&(cluster_id, lineage)).and_then(|known| known.get(shard)).copied().unwrap_or(0)
    }

    /// A health stream broke or could not be opened.
    pub(super) fn disconnected(&mut self, name: &str, kind: Disconnect, now: Duration) {
        let Some(member) = self.by_name.get_mut(name) else { return };
        member.link = match (kind, member.link) {
            (Disconnect::Refused | Disconnect::Reset, Link::Gone { at }) => Link::Gone { at },
            (Disconnect::Refused | Disconnect::Reset, _) => Link::Gone { at: now },
            // Whoever was gone and now takes connections but says nothing is starting, or stopped.
            (Disconnect::Silent, _) => Link::Silent,
        };
    }

    /// A reply showed where a member stands. False: it came from a copy of the storage, and is void.
    pub(super) fn learn(&mut self, name: &str, standing: &Standing, now: Duration) -> bool {
        match self.sightings.see(standing.sid, standing.open_count, standing.instance) {
            Sighting::Clone => return false,
            Sighting::New | Sighting::Restart => {
                self.since.insert(standing.sid, (name.to_owned(), now));
            }
            Sighting::Reconnect => {}
        }
        if let Some(member) = self.by_name.get_mut(name)
            && let Some(report) = &mut member.report
            && report.standing.instance == standing.instance
            && report.standing.promised <= standing.promised
        {
            if report.standing.promised < standing.promised {
                member.promised_since = now;
            }
            if !same_config(&report.standing, standing) {
                member.configured_since = now;
            }
            if report.standing.live_led < standing.live_led {
                // It was just promoted; its own word of that is on its way.
                report.role = Role::Leader;
                report.leader = None;
            }
            report.standing = standing.clone();
        }
        true
    }

    /// Takes the leader's word on who is in sync. None: there is no leader to ask.
    pub(super) fn note_sync(&mut self, leader: Option<&HealthReport>, now: Duration) {
        for member in self.by_name.values_mut() {
            let in_sync = leader.is_some_and(|l| {
                member.report.as_ref().is_some_and(|r| {
                    may_vote(&r.shards)
                        && l.followers
                            .iter()
                            .any(|f| f.sid == r.standing.sid && f.connected && f.in_sync && f.lag_ms <= IN_SYNC_LAG_MS)
                })
            });
            member.in_sync_since = if in_sync { member.in_sync_since.or(Some(now)) } else { None };
        }
    }

    /// The highest promise known in this cluster and lineage.
    pub(super) fn highest_promise(&self, cluster_id: ClusterId, lineage: u64) -> Epoch {
        self.by_name
            .values()
            .filter_map(|m| m.report.as_ref())
            .filter(|r| r.standing.cluster_id == Some(cluster_id) && r.standing.lineage == lineage)
            .map(|r| r.standing.promised.max(r.standing.led))
            .max()
            .unwrap_or(0)
    }
}

fn refuse_copy(member: &mut Member, sid: Sid, why: &str) -> Option<Notice> {
    let first = member.copy_of != Some(sid);
    member.copy_of = Some(sid);
    first.then(|| Notice {
        severity: Severity::Alarm,
        reason: "CopiedStorage",
        text: format!(
            "{} shows storage {sid}, but {why}: it is refused and left as it is; keep one of the two",
            member.expected.name
        ),
    })
}
