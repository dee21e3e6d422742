//! Who this member is, what it promised, whom it follows, whether it leads.
//!
//! Every change that must be durable first comes in two phases: `begin_*` checks the request and at once stops
//! what the new promise forbids; the caller carries the returned step out (make the logs durable, persist the
//! [`MetaChange`]); `finish_*` puts it in force and gives the reply. If a later epoch began in between,
//! `finish_*` refuses. The caller runs role changes one at a time (one thread), and appends of a stream under a
//! per-shard lock that FENCE takes once between `begin_fence` and reading the log's ends: so that no append
//! slips in after they were read.
//!
//! Invariants: `promised` and `led` never fall (R2); no epoch is led twice, and not after a restart (R10); the
//! quorum comes from PROMOTE alone (R9); identity is the sid, the address means nothing (R8).

use std::time::Duration;

use super::figures::Figures;
use super::lease::{LeaderLease, LeaseGrant};
use crate::ident::{ClusterId, InstanceId, Sid};
use crate::position::{Epoch, Gsn, LogTail};
use crate::topology::message::{
    AssembleRequest, DataState, Donor, Envelope, FenceReply, FenceRequest, FollowRequest, InitRequest, InitState,
    LastConfig, PromoteRequest, RecoverRequest, Refusal, Role, SetAsideRequest, ShardReport, Standing, VoterFigure,
};

/// What `node.meta` holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// None before `Init` or adoption as a learner.
    pub cluster_id: Option<ClusterId>,
    /// See `Envelope::lineage`.
    pub lineage: u64,
    /// Identity of the storage.
    pub sid: Sid,
    /// Raised at every open, before anything else.
    pub open_count: u64,
    /// How far initialisation has come.
    pub init: InitState,
    /// Highest epoch promised.
    pub promised: Epoch,
    /// Highest epoch ever led.
    pub led: Epoch,
    /// Newest configuration known.
    pub last_config: Option<LastConfig>,
}

/// What must be persisted: applied to `node.meta` in one write. Applying is monotone and idempotent, so changes
/// that cross each other do no harm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct MetaChange {
    /// Raise the promise to this.
    pub promised: Option<Epoch>,
    /// Raise the highest epoch led to this.
    pub led: Option<Epoch>,
    /// A configuration; kept if it is newer than the present one.
    pub last_config: Option<LastConfig>,
    /// Initialisation has come this far.
    pub init: Option<InitState>,
    /// Become part of this cluster, at this lineage.
    pub cluster: Option<(ClusterId, u64)>,
    /// Raise the lineage to this.
    pub lineage: Option<u64>,
}

impl MetaChange {
    /// Whether there is nothing to persist.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies it.
    pub fn apply(&self, to: &mut Durable) {
        to.promised = to.promised.max(self.promised.unwrap_or(0));
        to.led = to.led.max(self.led.unwrap_or(0));
        if let Some(config) = &self.last_config
            && to.last_config.as_ref().is_none_or(|have| have.epoch < config.epoch)
        {
            to.last_config = Some(config.clone());
        }
        match (self.init, to.init) {
            (None | Some(InitState::None), _) | (_, InitState::Done) => {}
            (Some(init), _) => to.init = init,
        }
        if let (Some((cluster_id, lineage)), None) = (self.cluster, to.cluster_id) {
            to.cluster_id = Some(cluster_id);
            to.lineage = lineage;
        }
        to.lineage = to.lineage.max(self.lineage.unwrap_or(0));
    }
}

/// Whom a member replicates from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Where it is.
    pub leader: Donor,
    /// For redirects.
    pub leader_client_address: String,
}

/// A term of leadership, as PROMOTE gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Epoch, voters, W.
    pub config: LastConfig,
    /// Where the others are.
    pub members: Vec<Donor>,
    /// Where shard time goes on, unix milliseconds.
    pub shard_time_ms: u64,
}

/// What a role change means for what is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleChange {
    /// As before.
    None,
    /// It led this epoch until now: close the epoch in the engine, answer waiting reads NotLeader.
    SteppedDown(Epoch),
    /// It followed until now, or follows someone else: end the stream.
    StreamEnds,
}

/// First phase of FENCE: close the epoch or end the stream, take the append locks once, make the logs durable,
/// persist, then [`MemberCore::finish_fence`].
#[derive(Debug, Clone)]
#[must_use]
pub struct FenceStep {
    /// The epoch being promised.
    pub epoch: Epoch,
    /// To persist after the logs.
    pub change: MetaChange,
    /// What ends.
    pub role: RoleChange,
}

/// First phase of PROMOTE: persist, make every Amnesic shard Ready, [`MemberCore::finish_promote`], then open the
/// epoch on every shard.
#[derive(Debug, Clone)]
#[must_use]
pub struct PromoteStep {
    /// To persist before the BARRIERs are appended.
    pub change: MetaChange,
    /// It leads this epoch already (the request was sent again): nothing to do but to answer.
    pub already: bool,
    term: Term,
    lease_wait: Duration,
    /// Where the logs end.
    ends: Vec<Gsn>,
}

/// First phase of FOLLOW: persist `change`, make every Blank shard Syncing before it takes any data, then
/// [`MemberCore::finish_follow`]. Blank storage joins as a learner so; one that was killed in the middle of it has some
/// Blank shards left, whatever `change` says.
#[derive(Debug, Clone)]
#[must_use]
pub struct FollowStep {
    /// To persist.
    pub change: MetaChange,
    /// What ends.
    pub role: RoleChange,
    following: Option<Following>,
}

/// `Init`: persist `started`, make every Blank shard Ready, persist `done`, then [`MemberCore::finish_init`].
#[derive(Debug, Clone)]
#[must_use]
pub struct InitStep {
    /// First.
    pub started: MetaChange,
    /// Last.
    pub done: MetaChange,
    /// It was initialised so before: nothing to do but to answer.
    pub already: bool,
}

/// First phase of `Recover`: end what `role` says, make the logs durable, persist, then [`MemberCore::finish_recover`].
#[derive(Debug, Clone)]
#[must_use]
pub struct RecoverStep {
    /// To persist after the logs.
    pub change: MetaChange,
    /// What ends.
    pub role: RoleChange,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct MemberCore {
    durable: Durable,
    instance: InstanceId,
    role: Role,
    live_led: Epoch,
    /// Highest epoch whose promise has begun; at least `durable.promised`.
    promising: Epoch,
    following: Option<Following>,
    term: Option<Term>,
    lease: Option<LeaderLease>,
    grant: LeaseGrant,
    leader_heard: Option<Duration>,
    figures: Figures,
}

impl MemberCore {
    /// A process that just opened its storage: a follower of nobody, whatever it was before (R10).
    pub fn new(durable: Durable, instance: InstanceId, now: Duration) -> Self {
        let promising = durable.promised;
        Self {
            durable,
            instance,
            role: Role::Follower,
            live_led: 0,
            promising,
            following: None,
            term: None,
            lease: None,
            grant: LeaseGrant::new(now),
            leader_heard: None,
            figures: Figures::default(),
        }
    }

    /// A process in the midst of its life, for the model: it keeps of a member what a rule can tell apart, and makes the
    /// member anew for every step. No time has passed, no lease is out.
    #[cfg(test)]
    pub(crate) fn restored(
        durable: Durable,
        role: Role,
        live_led: Epoch,
        following: Option<Following>,
        term: Option<Term>,
    ) -> Self {
        let lease = term.as_ref().map(|term| {
            LeaderLease::new(&term.config.voters, term.config.write_quorum, durable.sid, Duration::ZERO, Duration::ZERO)
        });
        Self { role, live_led, following, term, lease, ..Self::new(durable, InstanceId(1), Duration::ZERO) }
    }

    /// Identity and promises, as durable.
    pub fn standing(&self) -> Standing {
        let d = &self.durable;
        Standing {
            cluster_id: d.cluster_id,
            lineage: d.lineage,
            sid: d.sid,
            open_count: d.open_count,
            instance: self.instance,
            init: d.init,
            promised: d.promised,
            led: d.led,
            live_led: self.live_led,
            last_config: d.last_config.clone(),
        }
    }

    /// What is durable.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Present role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Identity of the storage.
    pub fn sid(&self) -> Sid {
        self.durable.sid
    }

    /// The highest epoch promised or being promised: nothing older is acknowledged.
    pub fn promise(&self) -> Epoch {
        self.promising
    }

    /// Whom it follows.
    pub fn following(&self) -> Option<&Following> {
        self.following.as_ref()
    }

    /// The term, while it leads.
    pub fn term(&self) -> Option<&Term> {
        self.term.as_ref()
    }

    /// Whether it leads `epoch`.
    pub fn leads(&self, epoch: Epoch) -> bool {
        self.role == Role::Leader && self.live_led == epoch && self.promising == epoch
    }

    /// Whether orders of `leader` in `epoch` are obeyed and its batches acknowledged (R3, R6). Asked for
    /// every batch.
    pub fn follows(&self, epoch: Epoch, leader: Sid) -> bool {
        self.promising == epoch
            && self.durable.promised == epoch
            && self.following.as_ref().is_some_and(|f| f.epoch == epoch && f.leader.sid == leader)
    }

    fn check_envelope(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let d = &self.durable;
        if envelope.to != d.sid {
            return Err(Refusal::WrongSid { have: d.sid, want: envelope.to });
        }
        if let Some(have) = d.cluster_id {
            if have != envelope.cluster_id {
                return Err(Refusal::WrongCluster { have, want: envelope.cluster_id });
            }
            if d.lineage != envelope.lineage {
                return Err(Refusal::WrongLineage { have: d.lineage, want: envelope.lineage });
            }
        }
        Ok(())
    }

    fn check_initialised(&self) -> Result<(), Refusal> {
        if self.durable.init == InitState::Done {
            Ok(())
        } else {
            Err(Refusal::NotReady { shard: 0, state: DataState::Blank })
        }
    }

    // --- Init ---------------------------------------------------------------------------------------------

    /// Begins `Init`.
    pub fn begin_init(&self, request: &InitRequest) -> Result<InitStep, Refusal> {
        self.check_envelope(&request.envelope)?;
        let d = &self.durable;
        if !request.config.voters.contains(&d.sid) {
            return Err(Refusal::NotAVoter(d.sid));
        }
        let already = match d.init {
            InitState::None => false,
            // The envelope was compared with the cluster id that was taken when it started.
            InitState::Started => false,
            InitState::Done if d.last_config.is_some() => true,
            InitState::Done => return Err(Refusal::AlreadyInitialised),
        };
        Ok(InitStep {
            started: MetaChange {
                cluster: Some((request.envelope.cluster_id, request.envelope.lineage)),
                last_config: Some(request.config.clone()),
                init: Some(InitState::Started),
                ..MetaChange::default()
            },
            done: MetaChange { init: Some(InitState::Done), ..MetaChange::default() },
            already,
        })
    }

    /// Both changes and the shards' states are durable.
    pub fn finish_init(&mut self, step: &InitStep) -> Standing {
        if !step.already {
            step.started.apply(&mut self.durable);
            step.done.apply(&mut self.durable);
        }
        self.standing()
    }

    // --- FENCE --------------------------------------------------------------------------------------------

    /// Whether FENCE would be begun; asked before a drain, which may take a while.
    pub fn check_fence(&self, request: &FenceRequest) -> Result<(), Refusal> {
        self.check_envelope(&request.envelope)?;
        self.check_initialised()?;
        if request.epoch < self.promising {
            return Err(Refusal::Promised { promised: self.promising, asked: request.epoch });
        }
        if self.leads(request.epoch) {
            return Err(Refusal::AlreadyLeading(request.epoch));
        }
        Ok(())
    }

    /// Begins FENCE: from now on nothing older is acknowledged, appended or led.
    pub fn begin_fence(&mut self, request: &FenceRequest) -> Result<FenceStep, Refusal> {
        self.check_fence(request)?;
        let role = if request.epoch > self.promising { self.leave(request.epoch) } else { RoleChange::None };
        let change = MetaChange { promised: Some(request.epoch), ..MetaChange::default() };
        Ok(FenceStep { epoch: request.epoch, change, role })
    }

    /// Logs and promise are durable; `shards` are the logs' ends read after that.
    pub fn finish_fence(
        &mut self,
        step: &FenceStep,
        shards: Vec<ShardReport>,
        shard_time_ms: u64,
        wall_ms: u64,
        drained: bool,
        now: Duration,
    ) -> Result<FenceReply, Refusal> {
        step.change.apply(&mut self.durable);
        if self.promising > step.epoch {
            return Err(Refusal::Promised { promised: self.promising, asked: step.epoch });
        }
        Ok(FenceReply {
            standing: self.standing(),
            shards,
            lease_remaining: self.grant.remaining(now),
            shard_time_ms,
            wall_ms,
            drained,
            figures: self.figures.all(),
        })
    }

    /// Stops whatever an epoch below `epoch` does here.
    fn leave(&mut self, epoch: Epoch) -> RoleChange {
        self.promising = self.promising.max(epoch);
        let change = match self.role {
            Role::Leader => RoleChange::SteppedDown(self.live_led),
            _ if self.following.is_some() => RoleChange::StreamEnds,
            _ => RoleChange::None,
        };
        self.role = Role::Fenced;
        self.following = None;
        self.term = None;
        self.lease = None;
        self.leader_heard = None;
        change
    }

    /// A hello or reply of a later epoch arrived: a leader of an older one steps down. Nothing is promised.
    pub fn observe_epoch(&mut self, epoch: Epoch) -> RoleChange {
        if self.role != Role::Leader || epoch <= self.live_led {
            return RoleChange::None;
        }
        let promising = self.promising;
        let change = self.leave(promising);
        debug_assert_eq!(self.promising, promising);
        change
    }

    // --- ASSEMBLE -----------------------------------------------------------------------------------------

    /// Begins ASSEMBLE. `states` are the shards' states.
    pub fn begin_assemble(&mut self, request: &AssembleRequest, states: &[DataState]) -> Result<(), Refusal> {
        self.check_envelope(&request.envelope)?;
        self.check_initialised()?;
        self.check_assemble(request.epoch)?;
        check_states(states)?;
        self.role = Role::Assembling;
        Ok(())
    }

    /// Asked under the append lock before every batch and every cut of an ASSEMBLE (R6). An epoch's ASSEMBLE is over
    /// for whoever leads or follows in it: a late or repeated one would cut what was acknowledged since. A restart
    /// forgets whom it followed, but not the configuration that it persisted before its first acknowledgement.
    pub fn check_assemble(&self, epoch: Epoch) -> Result<(), Refusal> {
        self.check_promise(epoch)?;
        if self.leads(epoch) {
            return Err(Refusal::AlreadyLeading(epoch));
        }
        let joined = self.durable.last_config.as_ref().is_some_and(|config| config.epoch >= epoch);
        if joined || self.following.is_some() || self.durable.led >= epoch {
            return Err(Refusal::Obsolete(epoch));
        }
        Ok(())
    }

    /// Asked by a donor before every batch that it gives.
    pub fn check_promise(&self, epoch: Epoch) -> Result<(), Refusal> {
        if self.promising == epoch && self.durable.promised == epoch {
            Ok(())
        } else {
            Err(Refusal::Promised { promised: self.promising, asked: epoch })
        }
    }

    // --- PROMOTE ------------------------------------------------------------------------------------------

    /// Begins PROMOTE. `shards` are the logs as they are, durable.
    pub fn begin_promote(&self, request: &PromoteRequest, shards: &[ShardReport]) -> Result<PromoteStep, Refusal> {
        self.check_envelope(&request.envelope)?;
        self.check_initialised()?;
        let epoch = request.config.epoch;
        let term = Term {
            config: request.config.clone(),
            members: request.members.clone(),
            shard_time_ms: request.shard_time_ms,
        };
        let ends = request.targets.iter().map(|target| target.last.gsn).collect();
        let step = |change, already| PromoteStep { change, already, term, lease_wait: request.lease_wait, ends };
        if self.leads(epoch) {
            return Ok(step(MetaChange::default(), true));
        }
        self.check_promise(epoch)?;
        if self.durable.led >= epoch || self.following.is_some() {
            return Err(Refusal::Obsolete(epoch));
        }
        if !request.config.voters.contains(&self.durable.sid) {
            return Err(Refusal::NotAVoter(self.durable.sid));
        }
        check_states(&shards.iter().map(|s| s.state).collect::<Vec<_>>())?;
        for (shard, (have, want)) in shards.iter().zip(&request.targets).enumerate() {
            if have.tail != *want || have.durable < want.last.gsn {
                return Err(Refusal::NotAtTarget { shard: shard as u16, have: have.tail, want: *want });
            }
        }
        if shards.len() != request.targets.len() {
            return Err(Refusal::Failed(format!("{} targets for {} shards", request.targets.len(), shards.len())));
        }
        let change =
            MetaChange { led: Some(epoch), last_config: Some(request.config.clone()), ..MetaChange::default() };
        Ok(step(change, false))
    }

    /// `led` and the configuration are durable: it leads from now on; open the epoch on every shard next.
    pub fn finish_promote(&mut self, step: PromoteStep, now: Duration) -> Result<Standing, Refusal> {
        if step.already {
            return Ok(self.standing());
        }
        step.change.apply(&mut self.durable);
        let epoch = step.term.config.epoch;
        self.check_promise(epoch)?;
        let lease = LeaderLease::new(
            &step.term.config.voters,
            step.term.config.write_quorum,
            self.durable.sid,
            now,
            step.lease_wait,
        );
        // What it had granted to others is part of the wait; a FENCE during the wait must tell what is left of
        // it, because nobody else may be asked then (R5 b).
        self.figures.lead(epoch, &step.ends);
        self.grant.clear();
        self.grant.extend(now + step.lease_wait);
        self.role = Role::Leader;
        self.live_led = epoch;
        self.lease = Some(lease);
        self.term = Some(step.term);
        Ok(self.standing())
    }

    // --- FOLLOW and the stream ----------------------------------------------------------------------------

    /// Begins FOLLOW. `vacant`: it joined as a learner and never had any data; only then does it join a newer lineage,
    /// because nothing of the older one is here.
    pub fn begin_follow(&mut self, request: &FollowRequest, vacant: bool) -> Result<FollowStep, Refusal> {
        let newer = request.envelope.lineage > self.durable.lineage;
        let moves = vacant && request.as_learner && newer && self.durable.cluster_id.is_some();
        if moves {
            let lineage = self.durable.lineage;
            self.check_envelope(&Envelope { lineage, ..request.envelope.clone() })?;
        } else {
            self.check_envelope(&request.envelope)?;
        }
        let d = &self.durable;
        let adopted = d.init != InitState::Done;
        if adopted && (d.init != InitState::None || !request.as_learner) {
            return Err(Refusal::NotReady { shard: 0, state: DataState::Blank });
        }
        if request.epoch < self.promising {
            return Err(Refusal::Promised { promised: self.promising, asked: request.epoch });
        }
        if self.leads(request.epoch) {
            return Err(Refusal::AlreadyLeading(request.epoch));
        }
        if request.leader.sid == d.sid {
            // Only PROMOTE makes a leader; this one was, and is no more.
            return Err(Refusal::Obsolete(request.epoch));
        }
        let mut change = MetaChange::default();
        if adopted {
            change.cluster = Some((request.envelope.cluster_id, request.envelope.lineage));
            change.init = Some(InitState::Done);
        }
        if request.epoch > d.promised {
            change.promised = Some(request.epoch);
        }
        if moves {
            change.lineage = Some(request.envelope.lineage);
        }
        let following = Following {
            epoch: request.epoch,
            leader: request.leader.clone(),
            leader_client_address: request.leader_client_address.clone(),
        };
        let same = self.following.as_ref().is_some_and(|f| f.epoch == following.epoch && f.leader == following.leader);
        let role = if same { RoleChange::None } else { self.leave(request.epoch) };
        Ok(FollowStep { change, role, following: Some(following) })
    }

    /// The change is durable: say hello to the leader next.
    pub fn finish_follow(&mut self, step: FollowStep) -> Result<Standing, Refusal> {
        if step.change.lineage.is_some() {
            self.figures.clear();
        }
        step.change.apply(&mut self.durable);
        if let Some(following) = step.following {
            self.check_promise(following.epoch)?;
            self.following = Some(following);
            self.role = Role::Follower;
        }
        Ok(self.standing())
    }

    /// The leader's stream told the configuration of its epoch. It must be durable before the first
    /// acknowledgement of that epoch: persist what is returned, then [`Self::config_persisted`].
    pub fn learn_config(&self, leader: Sid, config: &LastConfig) -> Result<MetaChange, Refusal> {
        if !self.follows(config.epoch, leader) {
            return Err(Refusal::Promised { promised: self.promising, asked: config.epoch });
        }
        let newer = self.durable.last_config.as_ref().is_none_or(|have| have.epoch < config.epoch);
        Ok(MetaChange { last_config: newer.then(|| config.clone()), ..MetaChange::default() })
    }

    /// The configuration is durable.
    pub fn config_persisted(&mut self, change: &MetaChange) {
        change.apply(&mut self.durable);
    }

    /// Whether a durable log end may be acknowledged to `leader` in `epoch` now.
    pub fn may_acknowledge(&self, epoch: Epoch, leader: Sid) -> bool {
        self.follows(epoch, leader) && self.durable.last_config.as_ref().is_some_and(|c| c.epoch >= epoch)
    }

    // --- unsafe recovery ----------------------------------------------------------------------------------

    /// Begins `Recover`: whatever an earlier lineage does here ends. `states` are the shards' states.
    pub fn begin_recover(&mut self, request: &RecoverRequest, states: &[DataState]) -> Result<RecoverStep, Refusal> {
        let d = &self.durable;
        if request.envelope.to == d.sid
            && d.lineage == request.lineage
            && d.cluster_id == Some(request.envelope.cluster_id)
        {
            // The request was sent again.
            return Ok(RecoverStep { change: MetaChange::default(), role: RoleChange::None });
        }
        self.check_envelope(&request.envelope)?;
        self.check_initialised()?;
        let (epoch, promised) = (request.config.epoch, self.promising.max(d.led));
        if request.lineage <= d.lineage {
            return Err(Refusal::WrongLineage { have: d.lineage, want: request.lineage });
        }
        if !request.config.voters.contains(&d.sid) {
            return Err(Refusal::NotAVoter(d.sid));
        }
        // Epochs of two lineages are never compared, but a member's own never fall.
        if epoch < promised {
            return Err(Refusal::Promised { promised, asked: epoch });
        }
        check_states(states)?;
        let change = MetaChange {
            promised: Some(epoch),
            last_config: Some(request.config.clone()),
            lineage: Some(request.lineage),
            ..MetaChange::default()
        };
        Ok(RecoverStep { change, role: self.leave(epoch) })
    }

    /// The logs and the lineage are durable: controllers of the new lineage are heard from now on.
    pub fn finish_recover(&mut self, step: &RecoverStep) -> Standing {
        self.figures.clear();
        step.change.apply(&mut self.durable);
        self.standing()
    }

    /// Whether this storage is to be set aside: never what belongs to the lineage in force.
    pub fn check_set_aside(&self, request: &SetAsideRequest) -> Result<(), Refusal> {
        self.check_envelope(&request.envelope)?;
        self.check_initialised()?;
        if request.lineage <= self.durable.lineage {
            return Err(Refusal::WrongLineage { have: self.durable.lineage, want: request.lineage });
        }
        Ok(())
    }

    // --- heartbeats and leases ----------------------------------------------------------------------------

    /// A heartbeat of `leader` in `epoch` arrived. True: grant it (acknowledge); false: say what is promised.
    pub fn heartbeat(&mut self, epoch: Epoch, leader: Sid, now: Duration) -> bool {
        if !self.follows(epoch, leader) {
            return false;
        }
        self.leader_heard = Some(now);
        self.grant.grant(now);
        true
    }

    /// What voters hold, as the leader of `epoch` told, or counts itself.
    pub fn hear_figures(&mut self, epoch: Epoch, figures: &[VoterFigure]) {
        self.figures.hear(epoch, figures);
    }

    /// What it heard of what voters hold.
    pub fn figures(&self) -> Vec<VoterFigure> {
        self.figures.all()
    }

    /// How long ago the followed leader was last heard.
    pub fn leader_silence(&self, now: Duration) -> Option<Duration> {
        self.following.as_ref().and(self.leader_heard).map(|heard| now.saturating_sub(heard))
    }

    /// The lease, while it leads.
    pub fn lease(&self) -> Option<&LeaderLease> {
        self.lease.as_ref()
    }

    /// The lease, while it leads.
    pub fn lease_mut(&mut self) -> Option<&mut LeaderLease> {
        self.lease.as_mut()
    }

    /// Whether all logs are exactly at `targets`, durably: what ASSEMBLE ends with.
    pub fn at_targets(shards: &[ShardReport], targets: &[LogTail]) -> bool {
        shards.len() == targets.len()
            && shards.iter().zip(targets).all(|(have, want)| have.tail == *want && have.durable >= want.last.gsn)
    }
}

/// Whether storage was made a learner's and has had no data so far: it counts for nothing, in whatever lineage.
pub fn is_vacant(shards: &[ShardReport]) -> bool {
    let nothing = |shard: &ShardReport| {
        shard.state == DataState::Syncing && shard.tail.last.gsn == 0 && shard.commit == 0 && shard.log_floor <= 1
    };
    !shards.is_empty() && shards.iter().all(nothing)
}

/// Whether a candidate's data can be made whole by the targets. An amnesic log that is brought to the targets holds
/// what the read quorum holds; whether amnesic storage may be *counted* is the controller's to judge (it is only when
/// every voter answers). Whoever is promoted is whole from then on.
fn check_states(states: &[DataState]) -> Result<(), Refusal> {
    match states.iter().position(|s| !matches!(s, DataState::Ready | DataState::Damaged | DataState::Amnesic)) {
        None => Ok(()),
        Some(shard) => Err(Refusal::NotReady { shard: shard as u16, state: states[shard] }),
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
