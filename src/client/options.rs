//! How a client behaves, and what one request asks for. Every field has a default that suits most.

use std::time::Duration;

use super::value::Token;
use crate::net::proto;

/// How a client finds and uses its cluster.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// `host:port` of any members; one that answers is enough, the others are learned from it.
    pub endpoints: Vec<String>,
    /// How long one attempt to reach a member may take.
    pub connect_timeout: Duration,
    /// How long an operation may take, with every repetition, before it fails.
    pub request_timeout: Duration,
    /// A leader that owes answers and is silent for this long is doubted: the other members are asked who leads.
    pub suspect_after: Duration,
    /// Requests that may wait for an answer at once; more wait their turn in the caller.
    pub max_in_flight_requests: u32,
    /// Bytes of requests that may wait for an answer at once.
    pub max_in_flight_bytes: u32,
    /// The partition to talk to.
    pub partition: u32,
}

impl ClientOptions {
    /// The defaults, with these members to ask first.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The same with another time limit for operations.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            connect_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(10),
            suspect_after: Duration::from_millis(400),
            max_in_flight_requests: 4096,
            max_in_flight_bytes: 64 << 20,
            partition: 0,
        }
    }
}

/// What a read may see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReadLevel {
    /// Everything acknowledged before the read began. Asks the leader, which answers by its lease.
    #[default]
    Linearizable,
    /// The same without trusting any clock: the leader asks a quorum first.
    ReadIndex,
    /// At most this old. Asks any member, the leader if that one is too far behind.
    Bounded(Duration),
    /// At least everything up to this token. Asks any member.
    AtLeast(Token),
    /// Whatever the member that is asked has committed.
    Local,
}

/// How a read is done.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// What it may see.
    pub level: ReadLevel,
    /// Ask this member (`host:port`) and no other. Only with a level that any member can answer.
    pub member: Option<String>,
    /// Another time limit than the client's.
    pub timeout: Option<Duration>,
}

impl ReadOptions {
    /// Of this level.
    pub fn level(level: ReadLevel) -> Self {
        Self { level, ..Self::default() }
    }

    /// Whether any member may answer.
    pub(super) fn any_member(&self) -> bool {
        match self.level {
            ReadLevel::Linearizable | ReadLevel::ReadIndex => false,
            ReadLevel::Bounded(_) | ReadLevel::AtLeast(_) | ReadLevel::Local => true,
        }
    }

    pub(super) fn to_proto(&self) -> Option<proto::ReadOptions> {
        let level = |level: proto::ReadLevel| proto::ReadOptions { level: level.into(), ..Default::default() };
        match &self.level {
            ReadLevel::Linearizable => None,
            ReadLevel::ReadIndex => Some(level(proto::ReadLevel::ReadIndex)),
            ReadLevel::Bounded(age) => Some(proto::ReadOptions {
                max_staleness_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
                ..level(proto::ReadLevel::Bounded)
            }),
            ReadLevel::AtLeast(token) => {
                Some(proto::ReadOptions { at_least: Some(token.to_proto()), ..level(proto::ReadLevel::AtPosition) })
            }
            ReadLevel::Local => Some(level(proto::ReadLevel::Local)),
        }
    }
}

/// Who must hold a write before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// What the cluster's spec says.
    #[default]
    ClusterDefault,
    /// The leader alone: a failover may lose it.
    Leader,
    /// A quorum: survives any failover.
    Quorum,
    /// Every voter.
    All,
}

impl Ack {
    pub(super) fn to_proto(self) -> i32 {
        match self {
            Self::ClusterDefault => proto::AckLevel::Default,
            Self::Leader => proto::AckLevel::Leader,
            Self::Quorum => proto::AckLevel::Quorum,
            Self::All => proto::AckLevel::All,
        }
        .into()
    }
}

/// How a write is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Who must hold it.
    pub ack: Ack,
    /// Another time limit than the client's.
    pub timeout: Option<Duration>,
}

/// How one value is put.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// When it expires, counted by the cluster from when it is written.
    pub ttl: Option<Duration>,
    /// A tag that the application chooses; stored and returned, never read by the store.
    pub value_type: u8,
    /// As for every write.
    pub write: WriteOptions,
}
