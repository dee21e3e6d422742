//! The first register: only when every member that shall exist is there and blank.
//!
//! All N blank -> CAS {cluster id, voters, epoch 1} -> `Init` to all -> `ChangeEpoch`, whose DECIDE marks the
//! register initialised. Until then no leader was decided, so no entry exists anywhere, and a voter whose
//! volume was replaced meanwhile is simply exchanged.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Controller;
use super::change::{Kind, Plan};
use super::members::{belongs, is_blank};
use crate::ident::{AttemptId, ClusterId, Sid};
use crate::topology::message::InitState;
use crate::topology::notice::Severity;
use crate::topology::register::{FORMAT_VERSION, Phase, Register};

/// With enough voters initialised, the others are waited for this long.
const LAGGARDS: Duration = Duration::from_secs(3);

impl Controller {
    /// All blank and there: writes the first register.
    pub(super) fn create_register(&mut self, cluster_id: ClusterId, voters: Vec<Sid>) {
        let spec = &self.config.spec;
        let write_quorum = spec.ack.write_quorum(voters.len());
        let attempt = AttemptId(self.random.next_u128());
        let mut register = Register {
            format_version: FORMAT_VERSION,
            cluster_id,
            lineage: 0,
            epoch: 1,
            phase: Phase::Electing,
            attempt: Some(attempt),
            leader: None,
            last_leading: None,
            voters,
            write_quorum,
            min_voters: self.min_voters(),
            learners: Vec::new(),
            members: BTreeMap::new(),
            initialized: false,
            format_level: 1,
            slot_table_version: 1,
            shard_time_ms: 0,
            last_request: None,
            unknown: BTreeMap::new(),
        };
        register.voters.sort_unstable();
        self.note_members(&mut register);
        self.tell(
            Severity::Info,
            "Bootstrapping",
            format!("cluster {cluster_id} begins with {} blank members", register.voters.len()),
        );
        self.own_attempts.insert(attempt);
        self.register.swap(register, &mut self.actions);
    }

    /// There is a register and no leader was ever decided. True: something was begun.
    pub(super) fn bootstrap(&mut self, register: &Register) -> bool {
        if self.replace_lost(register) {
            return false;
        }
        let own = |sid: &&Sid| {
            self.members
                .fresh(**sid, self.now)
                .is_some_and(|r| belongs(&r.standing, register.cluster_id, register.lineage))
        };
        let ready = register.voters.iter().filter(own).count();
        let all = register.voters.len();
        let needed = register.read_quorum().max(register.write_quorum as usize);
        let since = self.register.since();
        if ready < all {
            if ready < needed {
                self.condition("WaitingForMembers", format!("{ready} of {all} voters are initialised"));
                return false;
            }
            if self.now < since + LAGGARDS {
                self.wake(since + LAGGARDS);
                return false;
            }
        }
        if self.present_voters(register).len() < needed {
            return false;
        }
        let plan = Plan::same_voters(Kind::Bootstrap, "the cluster is new".into(), since, register);
        self.propose(plan, register)
    }

    /// A voter's name shows other, blank storage: nothing was ever written to the lost one.
    fn replace_lost(&mut self, register: &Register) -> bool {
        let mut voters = register.voters.clone();
        for member in self.members.all() {
            let Some(report) = member.fresh(self.now).filter(|r| is_blank(r)) else { continue };
            let sid = report.standing.sid;
            if voters.contains(&sid) {
                continue;
            }
            let lost = voters.iter().position(|&old| {
                self.members.holder(old).is_none()
                    && register.members.get(&old).is_some_and(|known| known.name == *member.name())
            });
            if let Some(lost) = lost {
                voters[lost] = sid;
            }
        }
        if voters == register.voters {
            return false;
        }
        voters.sort_unstable();
        let attempt = AttemptId(self.random.next_u128());
        let mut next = register.clone();
        // The epoch too, so that an attempt among the old voters cannot DECIDE.
        next.epoch = register.epoch.max(self.members.highest_promise(register.cluster_id, register.lineage)) + 1;
        next.attempt = Some(attempt);
        next.voters = voters;
        self.note_members(&mut next);
        self.own_attempts.insert(attempt);
        self.register.swap(next, &mut self.actions);
        true
    }

    /// Blank members in the order of their ordinals, if every member that shall exist is one.
    pub(super) fn all_blank(&self) -> Option<Vec<Sid>> {
        let count = self.config.spec.replicas as usize;
        let members = self.members.in_order();
        let blank = |m: &&super::members::Member| {
            let report = m.fresh(self.now)?;
            (report.standing.init == InitState::None && is_blank(report)).then_some(report.standing.sid)
        };
        let sids: Option<Vec<Sid>> = members.iter().take(count).map(blank).collect();
        sids.filter(|sids| sids.len() == count && count > 0)
    }
}
