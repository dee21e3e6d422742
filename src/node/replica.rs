//! The seam between the client services and the replicated member below them.
//!
//! The services ask for exactly this and nothing else, so that every outcome a client can see (a lost
//! leadership, a lease that ran out, a quorum that went away) can be produced in a test without a cluster.
//! [`Member`] is the implementation that serves.
//!
//! Does not do: decide anything. What a commit is, who leads and when a lease ends is the member's business.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::member::Member;
use crate::engine::{Appended, Engine, WriteBatch};
use crate::net::proto;
use crate::position::{Epoch, Gsn, LogPosition};
use crate::topology::message::HealthReport;

pub use super::member::Outcome;
pub use crate::replication::leadership::{LeaderAddress, LeaderHint, Leadership, ShardProgress, WriteRefused};

/// A replicated member, as the services that clients talk to see it.
pub trait Replica: Send + Sync + 'static {
    /// Its data.
    fn engine(&self) -> &Arc<Engine>;
    /// Whether it leads, and else who does.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// Appends a batch as leader: quick, never waits for a disk or a peer.
    fn append(&self, shard: u16, batch: &WriteBatch) -> Result<Appended, WriteRefused>;
    /// How far a shard is; changes wake.
    fn progress(&self, shard: u16) -> watch::Receiver<ShardProgress>;
    /// What became of an entry that was appended here (R16).
    fn outcome(&self, shard: u16, at: LogPosition) -> Outcome;
    /// Whether the lease to serve reads holds at this moment: asked *after* reading.
    fn lease_valid(&self) -> bool;
    /// One round of heartbeats sent after the call: the commit of every shard then.
    fn read_index(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<Gsn>, LeaderHint>>;
    /// How old this member's committed state is at most; `None`: not known.
    fn staleness(&self) -> Option<Duration>;
    /// Shard time as leader, unix milliseconds: what a relative time to live is added to.
    fn shard_time_ms(&self) -> u64;
    /// Highest gsn of a shard that every voter has acknowledged.
    fn acked_by_all(&self, shard: u16) -> Gsn;
    /// Bytes of full copies that have arrived since the process started.
    fn copied_bytes(&self) -> u64;
    /// Hellos of followers and orders of controllers that were refused since the process started.
    fn refused_peers(&self) -> u64;
    /// Damaged files that were mended with entries from a leader since the process started.
    fn mended_files(&self) -> u64;
    /// What controllers are told.
    fn health(&self) -> HealthReport;
    /// The members as this one knows them, for clients.
    fn describe_members(&self) -> Vec<proto::MemberInfo>;
}

/// The epoch that a member leads, whether or not it serves at this moment.
pub(crate) fn led_epoch(leadership: &Leadership) -> Option<Epoch> {
    match leadership {
        Leadership::Leading { epoch, .. } | Leadership::Draining { epoch } => Some(*epoch),
        Leadership::Following { .. } => None,
    }
}

impl Replica for Member {
    fn engine(&self) -> &Arc<Engine> {
        self.engine()
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership()
    }
    fn append(&self, shard: u16, batch: &WriteBatch) -> Result<Appended, WriteRefused> {
        self.append(shard, batch)
    }
    fn progress(&self, shard: u16) -> watch::Receiver<ShardProgress> {
        self.progress(shard)
    }
    fn outcome(&self, shard: u16, at: LogPosition) -> Outcome {
        self.outcome(shard, at)
    }
    fn lease_valid(&self) -> bool {
        self.lease_valid()
    }
    fn read_index(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<Gsn>, LeaderHint>> {
        Box::pin(async move { Member::read_index(&self).await })
    }
    fn staleness(&self) -> Option<Duration> {
        self.staleness()
    }
    fn shard_time_ms(&self) -> u64 {
        self.shard_time_ms()
    }
    fn acked_by_all(&self, shard: u16) -> Gsn {
        self.acked_by_all(shard)
    }
    fn mended_files(&self) -> u64 {
        self.mended_files()
    }
    fn copied_bytes(&self) -> u64 {
        self.copied_bytes()
    }
    fn refused_peers(&self) -> u64 {
        self.refused_peers()
    }
    fn health(&self) -> HealthReport {
        self.health()
    }
    fn describe_members(&self) -> Vec<proto::MemberInfo> {
        self.describe_members()
    }
}
