//! What a member says about its cluster.

use super::value::Token;
use crate::net::proto;

/// A member's answer to "who are you, who leads, how far is everybody".
#[derive(Debug, Clone)]
pub struct Description {
    /// The cluster's name.
    pub cluster: String,
    /// Its identity; empty before it was bootstrapped.
    pub cluster_id: String,
    /// The partition.
    pub partition: u32,
    /// Who answers.
    pub member: String,
    /// The identity of its storage.
    pub sid: String,
    /// The lineage of its data.
    pub lineage: u64,
    /// The epoch it is in.
    pub epoch: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<LeaderInfo>,
    /// It leads itself, and serves.
    pub leading: bool,
    /// Shards a member.
    pub shards: u32,
    /// Every member if a leader answers, else itself.
    pub members: Vec<MemberDescription>,
    /// Version of its program.
    pub version: String,
    /// What it has committed.
    pub commit: Token,
    /// If its disk is full, so that it refuses puts: what it says of it, with figures and remedy.
    pub disk_full: Option<String>,
}

/// Who leads.
#[derive(Debug, Clone)]
pub struct LeaderInfo {
    /// Its name.
    pub member: String,
    /// The identity of its storage.
    pub sid: String,
    /// Where clients reach it.
    pub address: String,
    /// In which epoch.
    pub epoch: u64,
}

/// One member, as the answering one sees it.
#[derive(Debug, Clone)]
pub struct MemberDescription {
    /// Its name.
    pub name: String,
    /// The identity of its storage.
    pub sid: String,
    /// Leader, Follower, Learner, Fenced.
    pub role: String,
    /// InSync, CatchingUp, Syncing, Blank, Amnesic, Quarantined, Unreachable.
    pub state: String,
    /// Entries behind the leader.
    pub lag_entries: u64,
    /// Bytes behind the leader.
    pub lag_bytes: u64,
    /// Milliseconds behind the leader.
    pub lag_ms: u64,
    /// Where clients reach it.
    pub client_address: String,
    /// Per shard, what it holds durably.
    pub durable: Vec<u64>,
    /// Per shard, what it knows to be committed.
    pub commit: Vec<u64>,
}

impl Description {
    pub(super) fn from_proto(d: proto::DescribeResponse) -> Self {
        let leader = d.leader.filter(|leader| !leader.member.is_empty()).map(|leader| LeaderInfo {
            address: super::error::Hint::from_proto(&leader).address,
            member: leader.member,
            sid: leader.sid,
            epoch: leader.epoch,
        });
        Self {
            cluster: d.cluster,
            cluster_id: d.cluster_id,
            partition: d.partition,
            member: d.member,
            sid: d.sid,
            lineage: d.lineage,
            epoch: d.epoch,
            leader,
            leading: d.leading,
            shards: d.shards,
            members: d
                .members
                .into_iter()
                .map(|m| MemberDescription {
                    name: m.name,
                    sid: m.sid,
                    role: m.role,
                    state: m.state,
                    lag_entries: m.lag_entries,
                    lag_bytes: m.lag_bytes,
                    lag_ms: m.lag_ms,
                    client_address: m.client_address,
                    durable: m.durable,
                    commit: m.commit,
                })
                .collect(),
            version: d.version,
            commit: d.commit.as_ref().map(Token::from_proto).unwrap_or_default(),
            disk_full: Some(d.disk_full).filter(|text| !text.is_empty()),
        }
    }
}
