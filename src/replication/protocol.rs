//! Between the peer wire and the plain values: `net::proto` <-> `topology::message`, positions and chunks.
//!
//! Values become messages without fail (`From`); messages become values only if every field that a rule needs is
//! there and sound (`TryFrom`): an identity of another length, an epoch table that does not ascend or an unknown
//! state is a [`ProtocolError`] that names the field, and the caller answers INVALID_ARGUMENT or drops the
//! connection. Nothing here decides anything: limits are the transport's, rules are `replication::rules`.

use std::time::Duration;

use bytes::Bytes;

use crate::ident::{ClusterId, InstanceId, Sid};
use crate::net::proto;
use crate::position::{COUNT_MAX, EpochTable, LogPosition, LogTail};
use crate::topology::message as m;

/// A field of a peer message that is missing or unsound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("peer message: {field}: {problem}; is the other side an armdb member of a compatible version?")]
pub struct ProtocolError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl From<ProtocolError> for tonic::Status {
    fn from(error: ProtocolError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

const fn bad(field: &'static str, problem: &'static str) -> ProtocolError {
    ProtocolError { field, problem }
}

fn need<T>(value: Option<T>, field: &'static str) -> Result<T, ProtocolError> {
    value.ok_or(bad(field, "missing"))
}

fn sixteen(bytes: &[u8], field: &'static str) -> Result<[u8; 16], ProtocolError> {
    bytes.try_into().map_err(|_| bad(field, "an identity has 16 bytes"))
}

/// The 16 bytes of a storage id.
pub(crate) fn sid(bytes: &[u8], field: &'static str) -> Result<Sid, ProtocolError> {
    sixteen(bytes, field).map(Sid::from_bytes)
}

/// The 16 bytes of a cluster id.
pub(crate) fn cluster_id(bytes: &[u8], field: &'static str) -> Result<ClusterId, ProtocolError> {
    sixteen(bytes, field).map(ClusterId::from_bytes)
}

/// A storage id as it travels.
pub(crate) fn sid_bytes(sid: Sid) -> Bytes {
    Bytes::copy_from_slice(&sid.to_bytes())
}

/// A cluster id as it travels.
pub(crate) fn cluster_bytes(id: ClusterId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(999_999_999),
    }
}

fn duration(wire: prost_types::Duration, field: &'static str) -> Result<Duration, ProtocolError> {
    Duration::try_from(wire).map_err(|_| bad(field, "a duration is not negative"))
}

fn opt_duration(wire: Option<prost_types::Duration>, field: &'static str) -> Result<Option<Duration>, ProtocolError> {
    wire.map(|d| duration(d, field)).transpose()
}

fn shard_index(wire: u32, field: &'static str) -> Result<u16, ProtocolError> {
    u16::try_from(wire).map_err(|_| bad(field, "no such shard"))
}

/// A number that is counted up one by one.
///
/// # Errors
/// If it is above [`COUNT_MAX`].
pub(crate) fn count(wire: u64, field: &'static str) -> Result<u64, ProtocolError> {
    if wire > COUNT_MAX { Err(bad(field, "nothing counts up to that")) } else { Ok(wire) }
}

/// As [`count`], of each.
pub(crate) fn counts(wire: Vec<u64>, field: &'static str) -> Result<Vec<u64>, ProtocolError> {
    wire.into_iter().map(|n| count(n, field)).collect()
}

fn all<W, V: TryFrom<W, Error = ProtocolError>>(wire: Vec<W>) -> Result<Vec<V>, ProtocolError> {
    wire.into_iter().map(V::try_from).collect()
}

fn wire_all<V, W: From<V>>(values: Vec<V>) -> Vec<W> {
    values.into_iter().map(W::from).collect()
}

// ---- positions ----

impl From<LogPosition> for proto::LogPosition {
    fn from(p: LogPosition) -> Self {
        Self { epoch: p.epoch, gsn: p.gsn }
    }
}

impl TryFrom<proto::LogPosition> for LogPosition {
    type Error = ProtocolError;
    fn try_from(p: proto::LogPosition) -> Result<Self, ProtocolError> {
        Ok(Self { epoch: count(p.epoch, "position.epoch")?, gsn: count(p.gsn, "position.gsn")? })
    }
}

impl From<LogTail> for proto::LogTail {
    fn from(t: LogTail) -> Self {
        Self { last: Some(t.last.into()), chain: t.chain }
    }
}

impl TryFrom<proto::LogTail> for LogTail {
    type Error = ProtocolError;
    fn try_from(t: proto::LogTail) -> Result<Self, ProtocolError> {
        // An absent position is the start of a log: proto3 leaves out nothing but zeros.
        Ok(Self { last: t.last.unwrap_or_default().try_into()?, chain: t.chain })
    }
}

/// An epoch table as it travels.
pub(crate) fn wire_epochs(table: &EpochTable) -> Vec<proto::EpochStart> {
    table.starts().iter().map(|s| proto::EpochStart { epoch: s.epoch, gsn: s.gsn }).collect()
}

/// An epoch table that arrived.
pub(crate) fn epochs(wire: &[proto::EpochStart]) -> Result<EpochTable, ProtocolError> {
    let start =
        |s: &proto::EpochStart| Ok(LogPosition::new(count(s.epoch, "epochs.epoch")?, count(s.gsn, "epochs.gsn")?));
    let starts = wire.iter().map(start).collect::<Result<_, ProtocolError>>()?;
    EpochTable::from_starts(starts).map_err(|_| bad("epochs", "the starts of epochs do not ascend"))
}

// ---- parts of messages ----

impl From<m::Envelope> for proto::Envelope {
    fn from(e: m::Envelope) -> Self {
        Self { cluster_id: cluster_bytes(e.cluster_id), lineage: e.lineage, to: sid_bytes(e.to) }
    }
}

impl TryFrom<proto::Envelope> for m::Envelope {
    type Error = ProtocolError;
    fn try_from(e: proto::Envelope) -> Result<Self, ProtocolError> {
        Ok(Self {
            cluster_id: cluster_id(&e.cluster_id, "envelope.cluster_id")?,
            lineage: count(e.lineage, "envelope.lineage")?,
            to: sid(&e.to, "envelope.to")?,
        })
    }
}

impl From<m::LastConfig> for proto::LastConfig {
    fn from(c: m::LastConfig) -> Self {
        Self {
            epoch: c.epoch,
            voters: c.voters.into_iter().map(sid_bytes).collect(),
            write_quorum: c.write_quorum,
            min_voters: c.min_voters,
        }
    }
}

impl TryFrom<proto::LastConfig> for m::LastConfig {
    type Error = ProtocolError;
    fn try_from(c: proto::LastConfig) -> Result<Self, ProtocolError> {
        let voters: Vec<Sid> = c.voters.iter().map(|v| sid(v, "config.voters")).collect::<Result<_, _>>()?;
        if !voters.is_sorted_by(|a, b| a < b) {
            return Err(bad("config.voters", "voters are sorted and named once"));
        }
        if c.write_quorum == 0 || c.write_quorum as usize > voters.len() {
            return Err(bad("config.write_quorum", "between 1 and the number of voters"));
        }
        Ok(Self {
            epoch: count(c.epoch, "config.epoch")?,
            voters,
            write_quorum: c.write_quorum,
            min_voters: c.min_voters,
        })
    }
}

impl From<m::InitState> for proto::InitState {
    fn from(s: m::InitState) -> Self {
        match s {
            m::InitState::None => Self::None,
            m::InitState::Started => Self::Started,
            m::InitState::Done => Self::Done,
        }
    }
}

impl From<proto::InitState> for m::InitState {
    fn from(s: proto::InitState) -> Self {
        match s {
            proto::InitState::None => Self::None,
            proto::InitState::Started => Self::Started,
            proto::InitState::Done => Self::Done,
        }
    }
}

impl From<m::DataState> for proto::DataState {
    fn from(s: m::DataState) -> Self {
        match s {
            m::DataState::Blank => Self::Blank,
            m::DataState::Syncing => Self::Syncing,
            m::DataState::Ready => Self::Ready,
            m::DataState::Amnesic => Self::Amnesic,
            m::DataState::Quarantined => Self::Quarantined,
            m::DataState::Damaged => Self::Damaged,
        }
    }
}

/// A state of data that arrived: one this version does not know cannot be judged, so it is refused.
pub(crate) fn data_state(wire: i32) -> Result<m::DataState, ProtocolError> {
    Ok(match proto::DataState::try_from(wire) {
        Ok(proto::DataState::Blank) => m::DataState::Blank,
        Ok(proto::DataState::Syncing) => m::DataState::Syncing,
        Ok(proto::DataState::Ready) => m::DataState::Ready,
        Ok(proto::DataState::Amnesic) => m::DataState::Amnesic,
        Ok(proto::DataState::Quarantined) => m::DataState::Quarantined,
        Ok(proto::DataState::Damaged) => m::DataState::Damaged,
        Ok(proto::DataState::Unspecified) | Err(_) => return Err(bad("state", "not a known state of data")),
    })
}

impl From<m::Role> for proto::Role {
    fn from(r: m::Role) -> Self {
        match r {
            m::Role::Follower => Self::Follower,
            m::Role::Fenced => Self::Fenced,
            m::Role::Assembling => Self::Assembling,
            m::Role::Leader => Self::Leader,
        }
    }
}

fn role(wire: i32) -> Result<m::Role, ProtocolError> {
    Ok(match proto::Role::try_from(wire) {
        Ok(proto::Role::Follower) => m::Role::Follower,
        Ok(proto::Role::Fenced) => m::Role::Fenced,
        Ok(proto::Role::Assembling) => m::Role::Assembling,
        Ok(proto::Role::Leader) => m::Role::Leader,
        Ok(proto::Role::Unspecified) | Err(_) => return Err(bad("role", "not a known role")),
    })
}

impl From<m::Standing> for proto::Standing {
    fn from(s: m::Standing) -> Self {
        Self {
            cluster_id: s.cluster_id.map(cluster_bytes).unwrap_or_default(),
            lineage: s.lineage,
            sid: sid_bytes(s.sid),
            open_count: s.open_count,
            instance: Bytes::copy_from_slice(&s.instance.to_bytes()),
            init: proto::InitState::from(s.init).into(),
            promised: s.promised,
            led: s.led,
            live_led: s.live_led,
            last_config: s.last_config.map(Into::into),
            // What this build reads and writes; `node.meta` has the range of the volume.
            format_min: FORMAT_MIN,
            format_max: FORMAT_MAX,
        }
    }
}

/// Oldest format level that this build can take part in.
pub(crate) const FORMAT_MIN: u32 = 1;
/// Newest format level that this build can take part in.
pub(crate) const FORMAT_MAX: u32 = 1;

impl TryFrom<proto::Standing> for m::Standing {
    type Error = ProtocolError;
    fn try_from(s: proto::Standing) -> Result<Self, ProtocolError> {
        let init = proto::InitState::try_from(s.init).map_err(|_| bad("standing.init", "not a known state"))?;
        Ok(Self {
            cluster_id: match &s.cluster_id[..] {
                [] => None,
                id => Some(cluster_id(id, "standing.cluster_id")?),
            },
            lineage: count(s.lineage, "standing.lineage")?,
            sid: sid(&s.sid, "standing.sid")?,
            open_count: count(s.open_count, "standing.open_count")?,
            instance: InstanceId::from_bytes(sixteen(&s.instance, "standing.instance")?),
            init: init.into(),
            promised: count(s.promised, "standing.promised")?,
            led: count(s.led, "standing.led")?,
            live_led: count(s.live_led, "standing.live_led")?,
            last_config: s.last_config.map(m::LastConfig::try_from).transpose()?,
        })
    }
}

impl From<m::ShardReport> for proto::ShardReport {
    fn from(s: m::ShardReport) -> Self {
        Self {
            state: proto::DataState::from(s.state).into(),
            tail: Some(s.tail.into()),
            commit: s.commit,
            durable: s.durable,
            log_floor: s.log_floor,
            tombstone_floor: s.tombstone_floor,
            known_commit: s.known_commit,
        }
    }
}

impl TryFrom<proto::ShardReport> for m::ShardReport {
    type Error = ProtocolError;
    fn try_from(s: proto::ShardReport) -> Result<Self, ProtocolError> {
        Ok(Self {
            state: data_state(s.state)?,
            tail: s.tail.unwrap_or_default().try_into()?,
            commit: count(s.commit, "shard.commit")?,
            durable: count(s.durable, "shard.durable")?,
            log_floor: count(s.log_floor, "shard.log_floor")?,
            tombstone_floor: count(s.tombstone_floor, "shard.tombstone_floor")?,
            known_commit: count(s.known_commit, "shard.known_commit")?,
        })
    }
}

impl From<m::VoterFigure> for proto::VoterFigure {
    fn from(f: m::VoterFigure) -> Self {
        Self { sid: sid_bytes(f.sid), open_count: f.open_count, held: f.held }
    }
}

impl TryFrom<proto::VoterFigure> for m::VoterFigure {
    type Error = ProtocolError;
    fn try_from(f: proto::VoterFigure) -> Result<Self, ProtocolError> {
        Ok(Self {
            sid: sid(&f.sid, "figure.sid")?,
            open_count: count(f.open_count, "figure.open_count")?,
            held: counts(f.held, "figure.held")?,
        })
    }
}

impl From<m::FollowerReport> for proto::FollowerReport {
    fn from(f: m::FollowerReport) -> Self {
        Self {
            sid: sid_bytes(f.sid),
            connected: f.connected,
            in_sync: f.in_sync,
            lag_entries: f.lag_entries,
            lag_bytes: f.lag_bytes,
            lag_ms: f.lag_ms,
            durable: f.durable,
            clock_skew_ms: f.clock_skew_ms,
        }
    }
}

impl TryFrom<proto::FollowerReport> for m::FollowerReport {
    type Error = ProtocolError;
    fn try_from(f: proto::FollowerReport) -> Result<Self, ProtocolError> {
        Ok(Self {
            sid: sid(&f.sid, "follower.sid")?,
            connected: f.connected,
            in_sync: f.in_sync,
            lag_entries: f.lag_entries,
            lag_bytes: f.lag_bytes,
            lag_ms: f.lag_ms,
            durable: counts(f.durable, "follower.durable")?,
            clock_skew_ms: f.clock_skew_ms,
        })
    }
}

impl From<m::HealthReport> for proto::HealthReport {
    fn from(h: m::HealthReport) -> Self {
        Self {
            standing: Some(h.standing.into()),
            role: proto::Role::from(h.role).into(),
            leader: h.leader.map(sid_bytes).unwrap_or_default(),
            shards: wire_all(h.shards),
            leader_silence: h.leader_silence.map(wire_duration),
            leader_gone: h.leader_gone,
            cannot_commit: Some(wire_duration(h.cannot_commit)),
            followers: wire_all(h.followers),
            draining: h.draining,
            sync_stall: Some(wire_duration(h.sync_stall)),
            disk_full: h.disk_full,
            disk: Some(proto::DiskRoom { total: h.disk.total, available: h.disk.available, reserve: h.disk.reserve }),
            caught_up: h.caught_up,
            serving: h.serving,
            trouble: h.trouble,
            clock_skew_ms: h.clock_skew_ms,
            leader_stall: Some(wire_duration(h.leader_stall)),
        }
    }
}

impl TryFrom<proto::HealthReport> for m::HealthReport {
    type Error = ProtocolError;
    fn try_from(h: proto::HealthReport) -> Result<Self, ProtocolError> {
        Ok(Self {
            standing: need(h.standing, "health.standing")?.try_into()?,
            role: role(h.role)?,
            leader: match &h.leader[..] {
                [] => None,
                id => Some(sid(id, "health.leader")?),
            },
            shards: all(h.shards)?,
            leader_silence: opt_duration(h.leader_silence, "health.leader_silence")?,
            leader_gone: h.leader_gone,
            cannot_commit: opt_duration(h.cannot_commit, "health.cannot_commit")?.unwrap_or_default(),
            followers: all(h.followers)?,
            draining: h.draining,
            sync_stall: opt_duration(h.sync_stall, "health.sync_stall")?.unwrap_or_default(),
            disk_full: h.disk_full,
            disk: h.disk.map_or_else(m::DiskRoom::default, |disk| m::DiskRoom {
                total: disk.total,
                available: disk.available,
                reserve: disk.reserve,
            }),
            caught_up: h.caught_up,
            serving: h.serving,
            trouble: h.trouble,
            clock_skew_ms: h.clock_skew_ms,
            leader_stall: opt_duration(h.leader_stall, "health.leader_stall")?.unwrap_or_default(),
        })
    }
}

impl From<m::Donor> for proto::Donor {
    fn from(d: m::Donor) -> Self {
        Self { sid: sid_bytes(d.sid), name: d.name, address: d.address }
    }
}

impl TryFrom<proto::Donor> for m::Donor {
    type Error = ProtocolError;
    fn try_from(d: proto::Donor) -> Result<Self, ProtocolError> {
        Ok(Self { sid: sid(&d.sid, "donor.sid")?, name: d.name, address: d.address })
    }
}

impl From<m::ShardTarget> for proto::ShardTarget {
    fn from(t: m::ShardTarget) -> Self {
        Self { tail: Some(t.tail.into()), donor: Some(t.donor.into()), copy: t.copy }
    }
}

impl TryFrom<proto::ShardTarget> for m::ShardTarget {
    type Error = ProtocolError;
    fn try_from(t: proto::ShardTarget) -> Result<Self, ProtocolError> {
        Ok(Self {
            tail: need(t.tail, "target.tail")?.try_into()?,
            donor: need(t.donor, "target.donor")?.try_into()?,
            copy: t.copy,
        })
    }
}

// ---- requests ----

impl From<m::InitRequest> for proto::InitRequest {
    fn from(r: m::InitRequest) -> Self {
        Self { envelope: Some(r.envelope.into()), config: Some(r.config.into()) }
    }
}

impl TryFrom<proto::InitRequest> for m::InitRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::InitRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "init.envelope")?.try_into()?,
            config: need(r.config, "init.config")?.try_into()?,
        })
    }
}

impl From<m::FenceRequest> for proto::FenceRequest {
    fn from(r: m::FenceRequest) -> Self {
        Self { envelope: Some(r.envelope.into()), epoch: r.epoch, drain: r.drain.map(wire_duration) }
    }
}

impl TryFrom<proto::FenceRequest> for m::FenceRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::FenceRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "fence.envelope")?.try_into()?,
            epoch: count(r.epoch, "fence.epoch")?,
            drain: opt_duration(r.drain, "fence.drain")?,
        })
    }
}

impl From<m::AssembleRequest> for proto::AssembleRequest {
    fn from(r: m::AssembleRequest) -> Self {
        Self { envelope: Some(r.envelope.into()), epoch: r.epoch, targets: wire_all(r.targets) }
    }
}

impl TryFrom<proto::AssembleRequest> for m::AssembleRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::AssembleRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "assemble.envelope")?.try_into()?,
            epoch: count(r.epoch, "assemble.epoch")?,
            targets: all(r.targets)?,
        })
    }
}

impl From<m::PromoteRequest> for proto::PromoteRequest {
    fn from(r: m::PromoteRequest) -> Self {
        Self {
            envelope: Some(r.envelope.into()),
            config: Some(r.config.into()),
            targets: wire_all(r.targets),
            lease_wait: Some(wire_duration(r.lease_wait)),
            shard_time_ms: r.shard_time_ms,
            members: wire_all(r.members),
        }
    }
}

impl TryFrom<proto::PromoteRequest> for m::PromoteRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::PromoteRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "promote.envelope")?.try_into()?,
            config: need(r.config, "promote.config")?.try_into()?,
            targets: all(r.targets)?,
            // Never assumed to be zero: serving early breaks reads elsewhere.
            lease_wait: duration(need(r.lease_wait, "promote.lease_wait")?, "promote.lease_wait")?,
            shard_time_ms: r.shard_time_ms,
            members: all(r.members)?,
        })
    }
}

impl From<m::FollowRequest> for proto::FollowRequest {
    fn from(r: m::FollowRequest) -> Self {
        Self {
            envelope: Some(r.envelope.into()),
            epoch: r.epoch,
            leader: Some(r.leader.into()),
            leader_client_address: r.leader_client_address,
            as_learner: r.as_learner,
        }
    }
}

impl TryFrom<proto::FollowRequest> for m::FollowRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::FollowRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "follow.envelope")?.try_into()?,
            epoch: count(r.epoch, "follow.epoch")?,
            leader: need(r.leader, "follow.leader")?.try_into()?,
            leader_client_address: r.leader_client_address,
            as_learner: r.as_learner,
        })
    }
}

impl From<m::RecoverRequest> for proto::RecoverRequest {
    fn from(r: m::RecoverRequest) -> Self {
        Self { envelope: Some(r.envelope.into()), lineage: r.lineage, config: Some(r.config.into()) }
    }
}

impl TryFrom<proto::RecoverRequest> for m::RecoverRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::RecoverRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "recover.envelope")?.try_into()?,
            lineage: count(r.lineage, "recover.lineage")?,
            config: need(r.config, "recover.config")?.try_into()?,
        })
    }
}

impl From<m::SetAsideRequest> for proto::SetAsideRequest {
    fn from(r: m::SetAsideRequest) -> Self {
        Self { envelope: Some(r.envelope.into()), lineage: r.lineage }
    }
}

impl TryFrom<proto::SetAsideRequest> for m::SetAsideRequest {
    type Error = ProtocolError;
    fn try_from(r: proto::SetAsideRequest) -> Result<Self, ProtocolError> {
        Ok(Self {
            envelope: need(r.envelope, "set_aside.envelope")?.try_into()?,
            lineage: count(r.lineage, "set_aside.lineage")?,
        })
    }
}

// ---- replies ----

impl From<m::Reply> for proto::ControlReply {
    fn from(reply: m::Reply) -> Self {
        use proto::control_reply::Reply;
        let reply = match reply {
            m::Reply::Done(done) => Reply::Done(proto::StandingReply { standing: Some(done.standing.into()) }),
            m::Reply::Fenced(f) => Reply::Fenced(proto::FenceReply {
                standing: Some(f.standing.into()),
                shards: wire_all(f.shards),
                lease_remaining: Some(wire_duration(f.lease_remaining)),
                shard_time_ms: f.shard_time_ms,
                wall_ms: f.wall_ms,
                drained: f.drained,
                figures: wire_all(f.figures),
            }),
            m::Reply::Assembled(a) => {
                Reply::Assembled(proto::AssembleReply { standing: Some(a.standing.into()), tails: wire_all(a.tails) })
            }
            m::Reply::Refused(refusal, standing) => Reply::Refused(wire_refusal(&refusal, Some(*standing))),
        };
        Self { reply: Some(reply) }
    }
}

/// A refusal as it travels: as JSON for those who know the kind, as text for those who do not.
pub(crate) fn wire_refusal(refusal: &m::Refusal, standing: Option<m::Standing>) -> proto::Refused {
    proto::Refused {
        standing: standing.map(Into::into),
        refusal_json: serde_json::to_vec(refusal).unwrap_or_default().into(),
        message: refusal.to_string(),
    }
}

/// A refusal that arrived.
pub(crate) fn refusal(wire: &proto::Refused) -> m::Refusal {
    serde_json::from_slice(&wire.refusal_json).unwrap_or_else(|_| m::Refusal::Failed(wire.message.clone()))
}

impl TryFrom<proto::ControlReply> for m::Reply {
    type Error = ProtocolError;
    fn try_from(reply: proto::ControlReply) -> Result<Self, ProtocolError> {
        use proto::control_reply::Reply;
        Ok(match need(reply.reply, "reply")? {
            Reply::Done(done) => {
                Self::Done(m::StandingReply { standing: need(done.standing, "reply.standing")?.try_into()? })
            }
            Reply::Fenced(f) => Self::Fenced(m::FenceReply {
                standing: need(f.standing, "reply.standing")?.try_into()?,
                shards: all(f.shards)?,
                lease_remaining: duration(need(f.lease_remaining, "reply.lease_remaining")?, "reply.lease_remaining")?,
                shard_time_ms: f.shard_time_ms,
                wall_ms: f.wall_ms,
                drained: f.drained,
                figures: all(f.figures)?,
            }),
            Reply::Assembled(a) => Self::Assembled(m::AssembleReply {
                standing: need(a.standing, "reply.standing")?.try_into()?,
                tails: all(a.tails)?,
            }),
            Reply::Refused(r) => {
                let refused = refusal(&r);
                Self::Refused(refused, Box::new(need(r.standing, "reply.standing")?.try_into()?))
            }
        })
    }
}

impl TryFrom<proto::Chunk> for WireChunk {
    type Error = ProtocolError;
    fn try_from(c: proto::Chunk) -> Result<Self, ProtocolError> {
        Ok(Self {
            shard: shard_index(c.shard, "chunk.shard")?,
            epoch: count(c.epoch, "chunk.epoch")?,
            prev: c.prev.unwrap_or_default().try_into()?,
            first_gsn: count(c.first_gsn, "chunk.first_gsn")?,
            last: need(c.last, "chunk.last")?.try_into()?,
            records: c.records,
            commit: count(c.commit, "chunk.commit")?,
        })
    }
}

/// A chunk of log with the commit that rode with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireChunk {
    /// The shard.
    pub(crate) shard: u16,
    /// Epoch of every record in it.
    pub(crate) epoch: u64,
    /// What it follows.
    pub(crate) prev: LogTail,
    /// Its first gsn.
    pub(crate) first_gsn: u64,
    /// Its end.
    pub(crate) last: LogTail,
    /// Records as on disk.
    pub(crate) records: Bytes,
    /// The sender's commit.
    pub(crate) commit: u64,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn round_trip<V, W>(value: V)
    where
        V: Clone + PartialEq + Debug + TryFrom<W, Error = ProtocolError>,
        W: From<V> + prost::Message + Default,
    {
        let bytes = W::from(value.clone()).encode_to_vec();
        let wire = W::decode(&bytes[..]).expect("what was encoded decodes");
        assert_eq!(V::try_from(wire), Ok(value));
    }

    fn envelope() -> m::Envelope {
        m::Envelope { cluster_id: ClusterId(1), lineage: 2, to: Sid(3) }
    }

    fn config() -> m::LastConfig {
        m::LastConfig { epoch: 9, voters: vec![Sid(3), Sid(4)], write_quorum: 2, min_voters: 1 }
    }

    fn tail(epoch: u64, gsn: u64, chain: u32) -> LogTail {
        LogTail { last: LogPosition::new(epoch, gsn), chain }
    }

    fn donor() -> m::Donor {
        m::Donor { sid: Sid(4), name: "kv-0-1".into(), address: "127.0.0.1:7".into() }
    }

    fn standing() -> m::Standing {
        m::Standing {
            cluster_id: Some(ClusterId(1)),
            lineage: 2,
            sid: Sid(3),
            open_count: 4,
            instance: InstanceId(5),
            init: m::InitState::Done,
            promised: 6,
            led: 5,
            live_led: 0,
            last_config: Some(config()),
        }
    }

    fn shard() -> m::ShardReport {
        m::ShardReport {
            state: m::DataState::Damaged,
            tail: tail(2, 77, 0xdead_beef),
            commit: 70,
            durable: 75,
            log_floor: 3,
            tombstone_floor: 1,
            known_commit: 80,
        }
    }

    #[test]
    fn every_request_survives_the_wire() {
        round_trip::<_, proto::InitRequest>(m::InitRequest { envelope: envelope(), config: config() });
        for drain in [None, Some(Duration::from_millis(500))] {
            round_trip::<_, proto::FenceRequest>(m::FenceRequest { envelope: envelope(), epoch: 7, drain });
        }
        round_trip::<_, proto::AssembleRequest>(m::AssembleRequest {
            envelope: envelope(),
            epoch: 7,
            targets: vec![m::ShardTarget { tail: tail(2, 3, 4), donor: donor(), copy: true }],
        });
        round_trip::<_, proto::PromoteRequest>(m::PromoteRequest {
            envelope: envelope(),
            config: config(),
            targets: vec![tail(0, 0, 0), tail(1, 2, 3)],
            lease_wait: Duration::ZERO,
            shard_time_ms: 12,
            members: vec![donor()],
        });
        round_trip::<_, proto::FollowRequest>(m::FollowRequest {
            envelope: envelope(),
            epoch: 7,
            leader: donor(),
            leader_client_address: "127.0.0.1:8".into(),
            as_learner: true,
        });
        round_trip::<_, proto::RecoverRequest>(m::RecoverRequest {
            envelope: envelope(),
            lineage: 3,
            config: config(),
        });
        round_trip::<_, proto::SetAsideRequest>(m::SetAsideRequest { envelope: envelope(), lineage: 3 });
    }

    #[test]
    fn every_reply_survives_the_wire() {
        let done = m::StandingReply { standing: m::Standing { cluster_id: None, last_config: None, ..standing() } };
        round_trip::<_, proto::ControlReply>(m::Reply::Done(done));
        round_trip::<_, proto::ControlReply>(m::Reply::Fenced(m::FenceReply {
            standing: standing(),
            shards: vec![shard()],
            lease_remaining: Duration::from_micros(123_456),
            shard_time_ms: 8,
            wall_ms: 9,
            drained: true,
            figures: vec![m::VoterFigure { sid: Sid(4), open_count: 3, held: vec![1, 2] }],
        }));
        round_trip::<_, proto::ControlReply>(m::Reply::Assembled(m::AssembleReply {
            standing: standing(),
            tails: vec![tail(1, 2, 3)],
        }));
        for refusal in [
            m::Refusal::Promised { promised: 8, asked: 7 },
            m::Refusal::WrongSid { have: Sid(1), want: Sid(2) },
            m::Refusal::NotAtTarget { shard: 1, have: tail(1, 2, 3), want: tail(1, 3, 4) },
            m::Refusal::Copying { shard: 1, staged: 2, total: 3 },
            m::Refusal::Failed("the donor is gone".into()),
        ] {
            round_trip::<_, proto::ControlReply>(m::Reply::Refused(refusal, Box::new(standing())));
        }
    }

    #[test]
    fn a_health_report_survives_the_wire() {
        for leader_silence in [None, Some(Duration::from_millis(900))] {
            round_trip::<_, proto::HealthReport>(m::HealthReport {
                standing: standing(),
                role: m::Role::Leader,
                leader: Some(Sid(9)),
                shards: vec![shard()],
                leader_silence,
                leader_gone: true,
                cannot_commit: Duration::from_millis(1200),
                followers: vec![m::FollowerReport {
                    sid: Sid(4),
                    connected: true,
                    in_sync: false,
                    lag_entries: 1,
                    lag_bytes: 2,
                    lag_ms: 3,
                    durable: vec![4, 5],
                    clock_skew_ms: -1500,
                }],
                draining: true,
                sync_stall: Duration::from_millis(3),
                disk_full: true,
                disk: m::DiskRoom { total: 30, available: 1, reserve: 2 },
                caught_up: true,
                serving: false,
                trouble: "shard 0 is quarantined".into(),
                clock_skew_ms: -7,
                leader_stall: Duration::from_millis(2100),
            });
        }
    }

    #[test]
    fn a_refusal_of_an_unknown_kind_is_shown_as_text() {
        let wire = proto::Refused {
            standing: Some(standing().into()),
            refusal_json: Bytes::from_static(br#"{"FromTheFuture":1}"#),
            message: "no such luck".into(),
        };
        assert_eq!(refusal(&wire), m::Refusal::Failed("no such luck".into()));
    }

    #[test]
    fn what_is_missing_or_unsound_is_refused_by_the_name_of_its_field() {
        let no_lease_wait = proto::PromoteRequest {
            envelope: Some(envelope().into()),
            config: Some(config().into()),
            ..Default::default()
        };
        assert_eq!(m::PromoteRequest::try_from(no_lease_wait).map_err(|e| e.field), Err("promote.lease_wait"));
        let short = proto::Envelope { to: Bytes::from_static(b"short"), ..envelope().into() };
        assert_eq!(m::Envelope::try_from(short).map_err(|e| e.field), Err("envelope.to"));
        let twice = m::LastConfig { voters: vec![Sid(3), Sid(3)], ..config() };
        assert_eq!(m::LastConfig::try_from(proto::LastConfig::from(twice)).map_err(|e| e.field), Err("config.voters"));
        let none = m::LastConfig { write_quorum: 0, ..config() };
        assert!(m::LastConfig::try_from(proto::LastConfig::from(none)).is_err());
        let starts = [proto::EpochStart { epoch: 2, gsn: 5 }, proto::EpochStart { epoch: 1, gsn: 9 }];
        assert!(epochs(&starts).is_err());
        assert!(data_state(99).is_err() && data_state(0).is_err());
        let promised = m::Standing { promised: u64::MAX, ..standing() };
        assert_eq!(
            m::Standing::try_from(proto::Standing::from(promised)).map_err(|e| e.field),
            Err("standing.promised"),
            "the next epoch would be 0"
        );
        let far = proto::LogTail::from(tail(1, COUNT_MAX + 1, 0));
        assert_eq!(LogTail::try_from(far).map_err(|e| e.field), Err("position.gsn"));
    }
}
