//! The picture of what the controller knows. Nothing is decided from it.

use std::time::Duration;

use super::members::{Link, Member, belongs, is_blank};
use super::recovery::left_behind;
use super::register_copy::Known;
use super::{Controller, Kind};
use crate::ident::Sid;
use crate::topology::message::{DataState, HealthReport, Role};
use crate::topology::register::{Phase, Register};
use crate::topology::view::{
    ChangeView, Condition, MemberRole, MemberState, MemberView, PartitionState, PartitionView,
};

/// A wall clock that is further from the voters' median is told.
const SKEW_MS: i64 = 1000;

impl Controller {
    /// The picture at `now`.
    pub fn view(&self, now: Duration) -> PartitionView {
        let register = self.register.found().map(|r| &**r);
        let leader = register.and_then(|r| r.leader.filter(|_| r.phase == Phase::Leading));
        let told = leader.and_then(|sid| self.members.fresh(sid, now)).filter(|r| leads(r, register));
        let members: Vec<MemberView> =
            self.members.in_order().into_iter().map(|m| self.member_view(m, register, told, now)).collect();
        let counts = |state| matches!(state, MemberState::InSync | MemberState::Damaged);
        let in_sync = members.iter().filter(|m| m.voter && counts(m.state)).count();
        let least = register.map_or(usize::MAX, |r| r.read_quorum().max(r.min_voters as usize));
        PartitionView {
            cluster_id: register.map(|r| r.cluster_id).or_else(|| {
                // Without a register: whose data it is, if all members agree.
                let clusters = self.clusters();
                clusters.first().filter(|_| clusters.len() == 1).copied()
            }),
            lineage: register.map_or(0, |r| r.lineage),
            epoch: register.map_or(0, |r| r.epoch),
            state: self.state(register, told),
            leader: leader.map(|sid| self.name_of(sid)),
            leader_client_address: leader.and_then(|sid| self.client_address(sid, register)),
            voters: register.map(|r| r.voters.clone()).unwrap_or_default(),
            write_quorum: register.map_or(0, |r| r.write_quorum),
            min_voters: register.map_or_else(|| self.min_voters(), |r| r.min_voters),
            quorum_safe: told.is_some() && in_sync > least,
            change: self.change.as_ref().map(|c| ChangeView {
                reason: c.plan.kind.name(),
                step: c.step_name(),
                copying: c.copying(),
                epoch: c.epoch,
                age: self.change_age(c, now),
            }),
            members,
            transitions: self.history.iter().chain(self.promoted.as_ref().map(|p| &p.transition)).cloned().collect(),
            conditions: self.all_conditions(register, now),
            // What was refused while there is no register to say so in is told all the same.
            last_request: self.outcome.clone().or_else(|| register.and_then(|r| r.last_request.clone())),
        }
    }

    fn state(&self, register: Option<&Register>, told: Option<&HealthReport>) -> PartitionState {
        let Some(register) = register else {
            return match self.register.known() {
                Known::Unread => PartitionState::Unknown,
                _ if self.conditions.iter().any(|c| c.kind == "RegisterLost") => PartitionState::RegisterLost,
                // Written for the first time, or rebuilt, at this moment.
                _ if self.change.as_ref().is_some_and(|c| c.plan.kind != Kind::Bootstrap) => PartitionState::Electing,
                _ => PartitionState::WaitingForMembers,
            };
        };
        match (register.phase, told) {
            _ if !register.initialized => PartitionState::Bootstrapping,
            (Phase::Electing, _) => PartitionState::Electing,
            (Phase::Leading, Some(report)) if report.serving && report.cannot_commit.is_zero() => {
                PartitionState::Available
            }
            (Phase::Leading, _) => PartitionState::LeaderNotServing,
        }
    }

    fn client_address(&self, sid: Sid, register: Option<&Register>) -> Option<String> {
        let known = || register?.members.get(&sid).map(|m| m.client_address.clone());
        self.members.holder(sid).map(|m| m.expected.client_address.clone()).or_else(known)
    }

    fn member_view(
        &self,
        member: &Member,
        register: Option<&Register>,
        leader: Option<&HealthReport>,
        now: Duration,
    ) -> MemberView {
        let sid = member.sid();
        let report = member.report.as_ref();
        let votes = sid.zip(register).is_some_and(|(sid, r)| r.voters.contains(&sid));
        let leads = sid.is_some() && sid == leader.map(|l| l.standing.sid);
        let known = sid.zip(leader).and_then(|(sid, l)| l.followers.iter().find(|f| f.sid == sid));
        let shards = || report.into_iter().flat_map(|r| &r.shards);
        let role = match register {
            _ if leads => MemberRole::Leader,
            Some(_) if votes => MemberRole::Follower,
            Some(r) if report.is_some_and(|m| belongs(&m.standing, r.cluster_id, r.lineage)) => MemberRole::Learner,
            _ => MemberRole::None,
        };
        MemberView {
            name: member.name().clone(),
            ordinal: member.expected.ordinal,
            sid,
            role,
            state: member_state(member, register, leader, now),
            voter: votes,
            epoch: report.map_or(0, |r| r.standing.promised),
            tail: shards().map(|s| s.tail.last.gsn).sum(),
            commit: shards().map(|s| s.commit).sum(),
            lag_known: leads || known.is_some_and(|f| f.connected),
            lag_entries: known.map_or(0, |f| f.lag_entries),
            lag_bytes: known.map_or(0, |f| f.lag_bytes),
            lag_ms: known.map_or(0, |f| f.lag_ms),
            disk_full: member.fresh(now).is_some_and(|report| report.disk_full),
            silence: member.heard.map(|_| member.silence(now)),
        }
    }

    fn all_conditions(&self, register: Option<&Register>, now: Duration) -> Vec<Condition> {
        let mut conditions = self.conditions.clone();
        if let Some(why) = self.register.failure() {
            conditions.push(Condition { kind: "RegisterUnreadable", text: why.to_owned() });
        }
        let leader = register.and_then(|r| r.leader).and_then(|sid| self.members.holder(sid)?.report.as_ref());
        for report in leader.into_iter().filter(|report| report.role == Role::Leader) {
            let own = (report.standing.sid, report.clock_skew_ms);
            let others = report.followers.iter().filter(|f| f.connected).map(|f| (f.sid, f.clock_skew_ms));
            for (sid, skew_ms) in std::iter::once(own).chain(others).filter(|(_, ms)| ms.abs() >= SKEW_MS) {
                let side = if skew_ms > 0 { "ahead of" } else { "behind" };
                let text = format!(
                    "the clock of {} is {} ms {side} the others': mend its time service. Times to live follow the \
                     voters' clocks, of which a minority may be wrong",
                    self.name_of(sid),
                    skew_ms.abs()
                );
                conditions.push(Condition { kind: "ClockSkew", text });
            }
        }
        for (sid, text) in &self.rolled_back {
            // Once it has caught up with a leader it holds all that is committed again.
            if self.members.holder(*sid).is_some_and(|member| member.in_sync_since.is_none()) {
                let text = format!(
                    "{text}. It does not count until it has caught up with a leader; if none can be chosen without it, \
                     bring its newer volume or another member back"
                );
                conditions.push(Condition { kind: "RolledBack", text });
            }
        }
        for member in self.members.all() {
            let name = member.name();
            if let Some(sid) = member.copy_of {
                let text = format!("{name} shows storage {sid}, which is in use elsewhere or was newer before");
                conditions.push(Condition { kind: "CopiedStorage", text });
                continue;
            }
            let (Some(report), Some(register)) = (&member.report, register) else { continue };
            let standing = &report.standing;
            match standing.cluster_id {
                Some(id) if id != register.cluster_id => conditions.push(Condition {
                    kind: "ForeignStorage",
                    text: format!("the volume of {name} belongs to cluster {id}: it is left as it is"),
                }),
                Some(_) if standing.lineage < register.lineage && !register.voters.contains(&standing.sid) => {
                    let text = left_behind(member, register.lineage);
                    conditions.extend(text.map(|text| Condition { kind: "LineageOld", text }));
                }
                _ => {}
            }
            if member.fresh(now).is_some()
                && let Some(text) = report.told_full(name, leads(report, Some(register)))
            {
                conditions.push(Condition { kind: "DiskFull", text });
            }
            if report.shards.iter().any(|s| s.state == DataState::Quarantined) {
                let text = format!("storage of {name} is unsound ({}): armdb inspect says more", report.trouble);
                conditions.push(Condition { kind: "Quarantined", text });
            } else if report.shards.iter().any(|s| s.state == DataState::Damaged) {
                let text = format!("records of {name} do not verify and are had from others ({})", report.trouble);
                conditions.push(Condition { kind: "Damaged", text });
            } else if !report.trouble.is_empty() && report.shards.iter().any(|s| s.state == DataState::Syncing) {
                conditions.push(Condition { kind: "Copying", text: format!("{name}: {}", report.trouble) });
            }
        }
        conditions
    }
}

fn leads(report: &HealthReport, register: Option<&Register>) -> bool {
    report.role == Role::Leader && register.is_some_and(|r| r.epoch == report.standing.live_led)
}

fn member_state(
    member: &Member,
    register: Option<&Register>,
    leader: Option<&HealthReport>,
    now: Duration,
) -> MemberState {
    if member.copy_of.is_some() && member.link == Link::Up {
        return MemberState::Foreign;
    }
    let Some(report) = member.fresh(now) else { return MemberState::Unreachable };
    let standing = &report.standing;
    let foreign = register.is_some_and(|r| {
        standing.cluster_id.is_some_and(|id| id != r.cluster_id)
            || standing.cluster_id.is_some() && standing.lineage != r.lineage
    });
    let any = |state| report.shards.iter().any(|s| s.state == state);
    if foreign {
        MemberState::Foreign
    } else if any(DataState::Quarantined) {
        MemberState::Quarantined
    } else if is_blank(report) || any(DataState::Blank) {
        MemberState::Blank
    } else if any(DataState::Syncing) {
        MemberState::Syncing
    } else if any(DataState::Amnesic) {
        MemberState::Amnesic
    } else if leader.is_some_and(|l| l.standing.sid == standing.sid) || member.in_sync_since.is_some() {
        if any(DataState::Damaged) { MemberState::Damaged } else { MemberState::InSync }
    } else {
        let known = leader.and_then(|l| l.followers.iter().find(|f| f.sid == standing.sid));
        let told = leader.map(|l| l.standing.sid);
        match known {
            Some(f) if f.connected => MemberState::CatchingUp,
            _ if told.is_some() && report.leader == told => MemberState::CatchingUp,
            _ => MemberState::NotFollowing,
        }
    }
}
