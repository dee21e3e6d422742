//! The register is absent, or older than what members promised: rebuilt from them, or not at all.
//!
//! Never bootstrap over data. By itself a register is rebuilt only if *every* sid in V of the newest configuration
//! that any member persisted answers and is sound: then no later configuration can have committed anything.
//! `AdoptCluster` also accepts missing voters, while fewer than a majority of minVoters are missing. Anything
//! beyond is an unsafe recovery, see `recovery`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Controller;
use super::change::{Kind, Plan};
use super::members::{is_blank, may_vote};
use crate::ident::{ClusterId, Sid};
use crate::position::Epoch;
use crate::topology::message::{HealthReport, InitState, LastConfig, Role};
use crate::topology::register::{FORMAT_VERSION, Leading, Phase, Register};

/// What members say of a cluster.
#[derive(Debug)]
pub(super) struct Remains {
    cluster_id: ClusterId,
    lineage: u64,
    /// The newest configuration that any of them is known to have persisted.
    config: LastConfig,
    /// Who answers and is sound.
    ready: BTreeSet<Sid>,
    /// Who answers and never promised anything: nothing was ever led where all are so.
    untouched: BTreeSet<Sid>,
    /// Who leads the newest configuration now.
    leading: Option<Leading>,
    /// The highest epoch that is known to have been promised or led.
    promised: Epoch,
}

impl Remains {
    fn is_newer_than(&self, register: &Register) -> bool {
        self.config.epoch > register.last_leading.map_or(0, |last| last.epoch)
    }

    /// Voters that do not answer, or not soundly.
    fn missing(&self) -> Vec<Sid> {
        self.config.voters.iter().filter(|sid| !self.ready.contains(sid)).copied().collect()
    }

    /// Whether so few are missing that the others are believed, once somebody says which cluster it is.
    pub(super) fn may_be_adopted(&self) -> bool {
        self.missing().len() < (self.config.min_voters / 2 + 1) as usize
    }
}

impl Controller {
    /// There is no register. True: a change was begun.
    pub(super) fn without_register(&mut self) -> bool {
        let clusters = self.clusters();
        let used = self.members.all().filter_map(|m| m.report.as_ref()).any(|r| !is_blank(r));
        if clusters.is_empty() && !used {
            return self.found_cluster();
        }
        let cluster_id = match (self.adopt, clusters.len()) {
            (Some(adopt), _) if clusters.contains(&adopt) => adopt,
            (_, 1) => clusters.into_iter().next().unwrap_or_default(),
            (_, 0) => {
                self.condition("RegisterLost", "members hold data of no known cluster: nothing is done".into());
                return false;
            }
            _ => {
                let ids: Vec<_> = clusters.iter().map(ToString::to_string).collect();
                self.condition(
                    "RegisterLost",
                    format!("volumes of several clusters are here ({}): adopt one of them", ids.join(", ")),
                );
                return false;
            }
        };
        let Some(remains) = self.remains_of(cluster_id, None) else {
            self.condition(
                "RegisterLost",
                format!("no member of cluster {cluster_id} that answers knows a configuration"),
            );
            return false;
        };
        if remains.config.epoch <= 1 && remains.config.voters.iter().all(|sid| remains.untouched.contains(sid)) {
            // `Init` was under way and no epoch was ever promised: begin again where it was.
            self.create_register(cluster_id, remains.config.voters);
            return false;
        }
        let base = Register {
            format_version: FORMAT_VERSION,
            cluster_id,
            lineage: remains.lineage,
            epoch: remains.promised,
            phase: Phase::Electing,
            attempt: None,
            leader: None,
            last_leading: remains.leading,
            voters: remains.config.voters.clone(),
            write_quorum: remains.config.write_quorum,
            min_voters: remains.config.min_voters,
            learners: Vec::new(),
            members: Default::default(),
            initialized: true,
            format_level: 1,
            slot_table_version: 1,
            shard_time_ms: 0,
            last_request: None,
            unknown: Default::default(),
        };
        self.rebuild(base, &remains, "RegisterLost", "the register is gone")
    }

    /// The clusters whose data members hold.
    pub(super) fn clusters(&self) -> BTreeSet<ClusterId> {
        self.members.all().filter_map(|m| m.report.as_ref()).filter_map(|r| r.standing.cluster_id).collect()
    }

    fn found_cluster(&mut self) -> bool {
        match self.all_blank() {
            Some(voters) => self.create_register(self.config.cluster_id, voters),
            None => {
                let count = self.config.spec.replicas as usize;
                let missing: Vec<_> = self
                    .members
                    .in_order()
                    .into_iter()
                    .take(count)
                    .filter(|m| m.fresh(self.now).is_none())
                    .map(|m| m.name().clone())
                    .collect();
                let text = format!("a new cluster begins once all members answer; missing: {}", missing.join(", "));
                self.condition("WaitingForMembers", text);
            }
        }
        false
    }

    /// Members know more than the register. True: nothing else may be decided now.
    pub(super) fn went_back(&mut self, register: &Register) -> bool {
        let same = |r: &&HealthReport| r.standing.cluster_id == Some(register.cluster_id);
        let lineage = self.members.all().filter_map(|m| m.known()).filter(same).map(|r| r.standing.lineage).max();
        if let Some(lineage) = lineage.filter(|&lineage| lineage > register.lineage) {
            self.condition(
                "ConfigRegressed",
                format!(
                    "a member is of lineage {lineage}, the register of {}: the register is older than the data; \
                     restore a newer one, or, if there is none, recover from that member",
                    register.lineage
                ),
            );
            return true;
        }
        let Some(since) = self.ahead_of(register) else { return false };
        if self.register.as_of() <= since {
            // More likely the copy here is old: another controller allocated meanwhile.
            self.register.doubt();
            if let Some(at) = self.register.pump(self.now, true, &mut self.actions) {
                self.wake(at);
            }
            return true;
        }
        let Some(remains) = self.remains_now(register) else {
            let what = "the register is older than what members promised, and nobody answers who knows a configuration";
            self.condition("ConfigRegressed", format!("{what}: start the members again"));
            return true;
        };
        let mut base = register.clone();
        if remains.is_newer_than(register) {
            base.voters.clone_from(&remains.config.voters);
            base.write_quorum = remains.config.write_quorum;
            base.min_voters = remains.config.min_voters;
            base.last_leading = remains.leading;
        }
        base.initialized = true;
        self.rebuild(base, &remains, "ConfigRegressed", "the register is older than what members promised");
        true
    }

    /// Since when a member has been known that promised a later epoch, or persisted a later configuration, than this
    /// register has heard of. By the last word of each, also of who does not answer any more: the register that it comes
    /// from was there.
    pub(super) fn ahead_of(&self, register: &Register) -> Option<Duration> {
        let ahead = self.members.all().filter_map(|m| {
            // Epochs of two lineages are never compared.
            let known = m.known().filter(|r| {
                (r.standing.cluster_id, r.standing.lineage) == (Some(register.cluster_id), register.lineage)
            })?;
            let promised = (known.standing.promised > register.epoch).then_some(m.promised_since);
            let configured = register.is_behind(known.standing.last_config.as_ref()).then_some(m.configured_since);
            promised.into_iter().chain(configured).min()
        });
        ahead.min()
    }

    /// What is left of the register's cluster and lineage. The newest configuration that anybody knows is in force, as with
    /// a register that is gone: here the register is one of those who know.
    pub(super) fn remains_now(&self, register: &Register) -> Option<Remains> {
        let mut remains = self.remains_of(register.cluster_id, Some(register.lineage))?;
        if !remains.is_newer_than(register) {
            remains.config.voters.clone_from(&register.voters);
            remains.config.min_voters = register.min_voters;
        }
        Some(remains)
    }

    /// What is left of a cluster, by those who answer; of the newest lineage that is known, if none is given.
    fn remains_of(&self, cluster_id: ClusterId, lineage: Option<u64>) -> Option<Remains> {
        let answering = || {
            self.members.all().filter_map(|m| m.fresh(self.now)).filter(|r| r.standing.cluster_id == Some(cluster_id))
        };
        answering().next()?;
        let known =
            || self.members.all().filter_map(|m| m.known()).filter(|r| r.standing.cluster_id == Some(cluster_id));
        let lineage = lineage.or_else(|| known().map(|r| r.standing.lineage).max())?;
        let ours = || answering().filter(|r| r.standing.lineage == lineage);
        let known = || known().filter(|r| r.standing.lineage == lineage);
        let config = known().filter_map(|r| r.standing.last_config.as_ref()).max_by_key(|c| c.epoch)?.clone();
        let ready = ours()
            .filter(|r| r.standing.init == InitState::Done && may_vote(&r.shards))
            .map(|r| r.standing.sid)
            .collect();
        let blank = self.members.all().filter_map(|m| m.fresh(self.now)).filter(|r| is_blank(r));
        let untouched = ours()
            .filter(|r| r.standing.promised == 0 && r.standing.led == 0)
            .chain(blank)
            .map(|r| r.standing.sid)
            .collect();
        let leading = ours()
            .find(|r| r.role == Role::Leader && r.standing.live_led == config.epoch)
            .map(|r| Leading { epoch: config.epoch, sid: r.standing.sid });
        let promised = known().map(|r| r.standing.promised.max(r.standing.led)).max().unwrap_or(0).max(config.epoch);
        Some(Remains { cluster_id, lineage, config, ready, untouched, leading, promised })
    }

    fn rebuild(&mut self, base: Register, remains: &Remains, condition: &'static str, what: &str) -> bool {
        let voters: BTreeSet<Sid> = remains.config.voters.iter().copied().collect();
        let missing = remains.missing();
        let adopted = self.adopt == Some(remains.cluster_id) && remains.may_be_adopted();
        let kind = match (missing.is_empty(), adopted) {
            (true, _) => Kind::Rebuild,
            (false, true) => Kind::Adopt,
            (false, false) => {
                let ids: Vec<_> = missing.iter().map(ToString::to_string).collect();
                let remedy = if remains.may_be_adopted() {
                    format!(
                        "start the members that hold them, or, if they are lost for ever, adopt cluster {}",
                        remains.cluster_id
                    )
                } else {
                    "start the members that hold them".into()
                };
                self.condition(
                    condition,
                    format!(
                        "{what}, and of its voters these do not answer soundly: storage {}; {remedy}",
                        ids.join(", ")
                    ),
                );
                return false;
            }
        };
        let mut plan = Plan::same_voters(kind, what.to_owned(), self.now, &base);
        plan.must_fence = voters.intersection(&remains.ready).copied().collect();
        // Whoever leads goes on leading; what is in flight there is waited for.
        plan.want = remains.leading.map(|l| l.sid);
        plan.drain = plan.want;
        let mut base = base;
        self.note_members(&mut base);
        self.propose(plan, &base)
    }
}
