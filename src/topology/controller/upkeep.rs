//! `Init` and FOLLOW for whoever needs them: every member that answers shall follow the leader of the register.
//!
//! Driven by the register and the members' own words alone, so it does not matter which controller decided, or
//! whether an earlier FOLLOW was lost. A member without a vote is told to follow as a learner; a blank one
//! becomes part of the cluster with that.

use std::sync::Arc;
use std::time::Duration;

use super::members::{belongs, is_blank};
use super::{Call, Controller};
use crate::ident::Sid;
use crate::position::Epoch;
use crate::replication::rules::is_vacant;
use crate::topology::message::{
    Envelope, FollowRequest, InitRequest, InitState, LastConfig, MemberName, Reply, Request,
};
use crate::topology::register::{Phase, Register};

const TIMEOUT: Duration = Duration::from_secs(3);
/// Before a member is told again.
const AGAIN: Duration = Duration::from_millis(300);
/// A follower that the leader has had no stream of for so long is told again where the leader is.
const PARTED: Duration = Duration::from_secs(1);
/// After DECIDE, followers are told once the leader leads, or after this.
const HEAD_START: Duration = Duration::from_millis(500);

impl Controller {
    pub(super) fn upkeep(&mut self) {
        // An older copy does no harm here: members refuse what is older than their promise.
        let Some(register) = self.register.found().cloned() else { return };
        let now = self.now;
        let leader = register.leader.filter(|_| register.phase == Phase::Leading);
        let names: Vec<MemberName> = self.members.all().map(|m| m.name().clone()).collect();
        for name in names {
            let Some(member) = self.members.get(&name) else { continue };
            let Some(report) = member.fresh(now) else { continue };
            let standing = &report.standing;
            let sid = standing.sid;
            let votes = register.voters.contains(&sid);
            let ours = standing.cluster_id.is_none() || {
                standing.cluster_id == Some(register.cluster_id) && standing.lineage == register.lineage
            };
            if member.call.is_some_and(|(_, epoch)| epoch == register.epoch) {
                continue;
            }
            let older = standing.cluster_id == Some(register.cluster_id) && standing.lineage < register.lineage;
            if older && votes {
                // Nothing but an unsafe recovery makes a voter of storage of an older lineage.
                let request = self.recover_request(&register, report);
                self.upkeep_call(&name, register.epoch, || Request::Recover(request));
                continue;
            }
            // Nothing of the older lineage is there: it may join this one.
            let vacant = older && is_vacant(&report.shards);
            if !ours && !vacant {
                continue;
            }
            if standing.init != InitState::Done && votes {
                self.upkeep_call(&name, register.epoch, || Request::Init(init(&register, sid)));
                continue;
            }
            let Some(leader) = leader.filter(|&leader| leader != sid) else { continue };
            let joins = !votes && (is_blank(report) || vacant);
            if !joins && !belongs(standing, register.cluster_id, register.lineage) {
                continue;
            }
            let follows = report.leader == Some(leader) && standing.promised == register.epoch;
            if standing.promised > register.epoch
                || follows && !joins && !self.has_lost_its_way(&name, leader, &register)
            {
                continue;
            }
            let leads = self.members.fresh(leader, now).is_some_and(|r| r.standing.live_led == register.epoch);
            let until = self.register.since() + HEAD_START;
            if !leads && now < until {
                self.wake(until);
                continue;
            }
            let request = self.follow(&register, leader, sid, !votes);
            self.upkeep_call(&name, register.epoch, || Request::Follow(request));
        }
    }

    /// Follows the leader, but where that was before it was started again elsewhere: an epoch may be decided for a
    /// member that is promoted only once it is back at another address. FOLLOW changes nothing for whoever knows it.
    fn has_lost_its_way(&mut self, name: &MemberName, leader: Sid, register: &Register) -> bool {
        let now = self.now;
        let sid = self.members.get(name).and_then(|member| member.sid());
        let parted = self.members.fresh(leader, now).is_some_and(|report| {
            let streams = report.followers.iter().any(|f| Some(f.sid) == sid && f.connected);
            report.standing.live_led == register.epoch && !streams
        });
        let Some(member) = self.members.get_mut(name) else { return false };
        if !parted {
            member.parted_since = None;
            return false;
        }
        let until = *member.parted_since.get_or_insert(now) + PARTED;
        if now < until {
            self.wake(until);
            return false;
        }
        member.parted_since = Some(now);
        true
    }

    fn upkeep_call(&mut self, name: &MemberName, epoch: Epoch, request: impl FnOnce() -> Request) {
        let now = self.now;
        let Some((told, due)) = self.members.get(name).map(|m| m.told) else { return };
        if told == epoch && now < due {
            self.wake(due);
            return;
        }
        let id = self.send(name.clone(), TIMEOUT, request(), Call::Upkeep);
        if let Some(member) = self.members.get_mut(name) {
            member.call = Some((id, epoch));
        }
    }

    fn follow(&self, register: &Arc<Register>, leader: Sid, to: Sid, as_learner: bool) -> FollowRequest {
        let known = || register.members.get(&leader).map(|m| m.client_address.clone()).unwrap_or_default();
        let client = self.members.holder(leader).map_or_else(known, |m| m.expected.client_address.clone());
        FollowRequest {
            envelope: Envelope { cluster_id: register.cluster_id, lineage: register.lineage, to },
            epoch: register.epoch,
            leader: self.donor(register, leader),
            leader_client_address: client,
            as_learner,
        }
    }

    /// An `Init` or FOLLOW was answered. What it brought about, the next report says.
    pub(super) fn upkeep_answered(&mut self, id: u64, name: &MemberName, result: Result<Box<Reply>, String>) {
        let now = self.now;
        if let Some(member) = self.members.get_mut(name)
            && let Some((_, epoch)) = member.call.filter(|(call, _)| *call == id)
        {
            member.call = None;
            member.told = (epoch, now + AGAIN);
        }
        if let Ok(reply) = result {
            match *reply {
                Reply::Done(done) => {
                    self.members.learn(name, &done.standing, now);
                }
                Reply::Refused(why, standing) => {
                    self.members.learn(name, &standing, now);
                    tracing::debug!(member = %name, %why, "refused to follow");
                }
                Reply::Fenced(_) | Reply::Assembled(_) => {}
            }
        }
    }
}

fn init(register: &Register, to: Sid) -> InitRequest {
    InitRequest {
        envelope: Envelope { cluster_id: register.cluster_id, lineage: register.lineage, to },
        config: LastConfig {
            epoch: 1,
            voters: register.voters.clone(),
            write_quorum: register.write_quorum,
            min_voters: register.min_voters,
        },
    }
}
