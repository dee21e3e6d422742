//! Why an operation failed, and what that says about whether it was done.

use std::time::Duration;

use super::value::Token;
use crate::net::proto;
use proto::error_detail::Kind;

/// The binary metadata key under which a gRPC status carries an `ErrorDetail`.
const ERROR_DETAIL: &str = "armdb-error-bin";

/// A client that could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// No members to ask were given.
    #[error("no endpoints: at least one host:port of a member is needed")]
    NoEndpoints,
    /// An endpoint is not an address.
    #[error("endpoint {endpoint:?} is not host:port")]
    BadEndpoint {
        /// As given.
        endpoint: String,
    },
    /// Nobody answered.
    #[error("no member answered within {waited:.1?}: {last}")]
    Unreachable {
        /// How long was tried.
        waited: Duration,
        /// What the last attempts met.
        last: String,
    },
}

/// An operation that was certainly not done.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request makes no sense to the server: an unknown tree, an empty key.
    #[error("{0}")]
    Invalid(String),
    /// Over a limit.
    #[error("{message}")]
    TooLarge {
        /// For a person.
        message: String,
        /// What is too large.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// No member that leads was found in time.
    #[error("no leader within {waited:.1?}: {last}")]
    NoLeader {
        /// How long was tried.
        waited: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// The leader cannot reach a quorum, or would not answer, until the time was up.
    #[error("not done within {waited:.1?}: {last}")]
    TimedOut {
        /// How long was tried.
        waited: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// The disk of the leader is full; reads and deletes still work.
    #[error("{0}")]
    DiskFull(String),
    /// The key belongs to another partition.
    #[error("the key belongs to another partition (slot table {slot_table_version})")]
    WrongPartition {
        /// The member's slot table.
        slot_table_version: u64,
    },
    /// The token names history that a failover took away (it was acknowledged by a leader alone).
    #[error("{0}")]
    HistoryLost(String),
    /// The history asked for is no longer kept.
    #[error("{message}")]
    Compacted {
        /// For a person.
        message: String,
        /// The oldest position that still is.
        oldest: Token,
    },
    /// The record is damaged on this member's disk.
    #[error("{0}")]
    DataLoss(String),
    /// Anything else the server said.
    #[error("{0}")]
    Other(String),
}

impl Refusal {
    /// Whether the same request may succeed later without a change to it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NoLeader { .. } | Self::TimedOut { .. })
    }
}

/// A read that was not answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct ReadError(#[from] pub Refusal);

impl ReadError {
    /// Why.
    pub fn refusal(&self) -> &Refusal {
        &self.0
    }
}

/// A write that was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// It may be done, or still become done, or never. Only reading tells.
    #[error("the outcome is unknown: {cause}")]
    Indeterminate {
        /// Where in the log it would be, if the leader said so before it was lost.
        token: Option<Token>,
        /// What happened to it.
        cause: String,
    },
    /// Certainly not done, now or later.
    #[error("not written: {0}")]
    NotDone(#[from] Refusal),
}

impl WriteError {
    /// Whether the write may have been done.
    pub fn is_indeterminate(&self) -> bool {
        matches!(self, Self::Indeterminate { .. })
    }
}

/// Who leads, according to a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Hint {
    /// Where to reach it; empty = not known.
    pub(super) address: String,
    pub(super) epoch: u64,
}

impl Hint {
    pub(super) fn from_proto(leader: &proto::NotLeader) -> Self {
        let address = if leader.advertised_address.is_empty() { &leader.address } else { &leader.advertised_address };
        Self { address: address.clone(), epoch: leader.epoch }
    }
}

/// What an `ErrorDetail` means for the request that it answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// Not done; ask the one named.
    Elsewhere(Hint, String),
    /// Not done; the same member may do it a little later.
    Later(String),
    /// Not done; the member is going away or coming up: look for the leader again.
    Away(String),
    /// Perhaps done.
    Unknown(Option<Token>, String),
    /// Not done, and repeating it will not help.
    Refused(Refusal),
}

impl Answer {
    pub(super) fn from_detail(detail: proto::ErrorDetail) -> Self {
        let message = detail.message;
        match detail.kind {
            Some(Kind::NotLeader(leader)) => Self::Elsewhere(Hint::from_proto(&leader), message),
            Some(Kind::Stale(stale)) => {
                Self::Elsewhere(stale.leader.as_ref().map(Hint::from_proto).unwrap_or_default(), message)
            }
            Some(Kind::NoQuorum(_) | Kind::Unavailable(_)) => Self::Away(message),
            Some(Kind::Overloaded(_)) => Self::Later(message),
            Some(Kind::Indeterminate(it)) => Self::Unknown(it.token.as_ref().map(Token::from_proto), message),
            Some(Kind::HistoryLost(_)) => Self::Refused(Refusal::HistoryLost(message)),
            Some(Kind::Compacted(it)) => Self::Refused(Refusal::Compacted {
                message,
                oldest: it.oldest.as_ref().map(Token::from_proto).unwrap_or_default(),
            }),
            Some(Kind::TooLarge(it)) => {
                Self::Refused(Refusal::TooLarge { message, what: it.what, limit_bytes: it.limit_bytes })
            }
            Some(Kind::DataLoss(_)) => Self::Refused(Refusal::DataLoss(message)),
            Some(Kind::Invalid(_)) => Self::Refused(Refusal::Invalid(message)),
            Some(Kind::DiskFull(_)) => Self::Refused(Refusal::DiskFull(message)),
            Some(Kind::WrongPartition(it)) => {
                Self::Refused(Refusal::WrongPartition { slot_table_version: it.slot_table_version })
            }
            // An error of a newer server: it says nothing about whether the request was done.
            None => Self::Unknown(None, message),
        }
    }

    /// What a failed unary call means. A status without detail comes from the transport or a proxy.
    pub(super) fn from_status(status: &tonic::Status) -> Self {
        let detail = status
            .metadata()
            .get_bin(ERROR_DETAIL)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| <proto::ErrorDetail as prost::Message>::decode(bytes).ok());
        match detail {
            Some(mut detail) => {
                if detail.message.is_empty() {
                    status.message().clone_into(&mut detail.message);
                }
                Self::from_detail(detail)
            }
            None => match status.code() {
                tonic::Code::InvalidArgument => Self::Refused(Refusal::Invalid(status.message().to_owned())),
                tonic::Code::Unimplemented => Self::Refused(Refusal::Other(text_of(status))),
                _ => Self::Unknown(None, text_of(status)),
            },
        }
    }
}

/// A status in words, with the transport's cause, which tonic keeps out of its message.
pub(super) fn text_of(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}
