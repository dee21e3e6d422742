//! One member of a partition: an engine, the rules, and the execution of roles.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::disk::Disk;
use crate::engine::{Appended, Engine, EngineError, EngineOptions, WriteBatch};
use crate::net::peer::PeerSecret;
use crate::net::proto;
use crate::position::{Gsn, LogPosition};
pub use crate::replication::leadership::{LeaderAddress, LeaderHint, Leadership, ShardProgress, WriteRefused};
pub use crate::replication::rules::Outcome;
use crate::topology::message::HealthReport;

/// What a member is opened with.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// Its name: `<cluster>-<partition>-<ordinal>`.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The partition.
    pub partition: u32,
    /// Its data directory; formatted if it is empty or absent.
    pub dir: PathBuf,
    /// Shards: what the directory is formatted with, and must have.
    pub shards: u16,
    /// Where clients reach it, as told to others.
    pub client_address: String,
    /// Where members and controllers reach it, as told to others.
    pub peer_address: String,
    /// What everyone on the peer port must know.
    pub secret: PeerSecret,
    /// The engine's options.
    pub engine: EngineOptions,
    /// The file system.
    pub disk: Arc<dyn Disk>,
}

/// Why a member could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory was formatted otherwise.
    #[error(
        "{dir} was formatted with {have} shards, {want} are asked for: the shard count of a volume never changes; \
         keep {have}, or start with an empty directory"
    )]
    ShardCount {
        /// The directory.
        dir: PathBuf,
        /// As formatted.
        have: u16,
        /// As asked.
        want: u16,
    },
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A thread or runtime could not be started.
    #[error("cannot start {what}: {source}; are the process limits too low?")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    engine: Arc<Engine>,
}

#[expect(unused_variables, reason = "the signatures are delivered before the bodies")]
#[expect(clippy::unused_async, reason = "the signatures are delivered before the bodies")]
impl Member {
    /// Opens (and formats, if it is empty) the data directory and starts the member as a follower of nobody.
    pub async fn open(config: MemberConfig) -> Result<Arc<Self>, OpenError> {
        panic!("not built yet")
    }
    /// Its data.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
    /// Whether it leads, and else who does.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        panic!("not built yet")
    }
    /// Appends a batch as leader: quick, never waits for a disk or a peer.
    pub fn append(&self, shard: u16, batch: &WriteBatch) -> Result<Appended, WriteRefused> {
        panic!("not built yet")
    }
    /// How far a shard is; changes wake.
    pub fn progress(&self, shard: u16) -> watch::Receiver<ShardProgress> {
        panic!("not built yet")
    }
    /// What became of an entry that was appended here (R16).
    pub fn outcome(&self, shard: u16, at: LogPosition) -> Outcome {
        panic!("not built yet")
    }
    /// Whether the lease to serve reads holds at this moment: ask *after* reading.
    pub fn lease_valid(&self) -> bool {
        panic!("not built yet")
    }
    /// One round of heartbeats sent after the call: the commit of every shard then.
    pub async fn read_index(&self) -> Result<Vec<Gsn>, LeaderHint> {
        panic!("not built yet")
    }
    /// How old this member's committed state is at most; `None`: not known.
    pub fn staleness(&self) -> Option<Duration> {
        panic!("not built yet")
    }
    /// Shard time as leader, unix milliseconds: what a relative time to live is added to.
    pub fn shard_time_ms(&self) -> u64 {
        panic!("not built yet")
    }
    /// Highest gsn of a shard that every voter has acknowledged; 0 unless it leads.
    pub fn acked_by_all(&self, shard: u16) -> Gsn {
        panic!("not built yet")
    }
    /// What controllers are told.
    pub fn health(&self) -> HealthReport {
        panic!("not built yet")
    }
    /// A number that rises when the health report has changed in more than its figures.
    pub fn health_changes(&self) -> watch::Receiver<u64> {
        panic!("not built yet")
    }
    /// The members as this one knows them, for clients.
    pub fn describe_members(&self) -> Vec<proto::MemberInfo> {
        panic!("not built yet")
    }
    /// Serves the peer port (Control and Replication, the secret checked) until [`Self::shutdown`].
    pub async fn serve_peer(self: &Arc<Self>, listener: std::net::TcpListener) -> std::io::Result<()> {
        panic!("not built yet")
    }
    /// SIGTERM, first: wants to give leadership away. Returns once it does not lead any more, or after 5 s
    /// (10 s once a drain arrived).
    pub async fn announce_draining(&self) {
        panic!("not built yet")
    }
    /// SIGTERM, last: gates writes, waits for those in flight, ends all streams, closes the engine cleanly.
    pub async fn shutdown(&self) -> Result<(), EngineError> {
        panic!("not built yet")
    }
}
