//! Why a client's request was not done, typed: one value, told as gRPC status or in a stream's result.
//!
//! Invariant: every refusal made by this node carries an `ErrorDetail`; in a status it is in the binary
//! metadata `armdb-error-bin`. Only `Indeterminate` leaves open whether something was done; every other kind
//! says that nothing was.

use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::replica::{LeaderAddress, LeaderHint, Leadership};
use crate::engine::{AppendError, BelowFloor, EngineError};
use crate::net::proto::{self, ErrorDetail, error_detail::Kind};

/// The metadata key of the typed detail.
pub(crate) const DETAIL_METADATA: &str = "armdb-error-bin";

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused(Box<ErrorDetail>);

impl Refused {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorDetail { message: message.into(), kind: Some(kind) }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid(proto::Invalid {}), message)
    }

    pub(crate) fn too_large(what: &str, limit_bytes: u64) -> Self {
        let message = format!("the {what} is too large: the limit is {limit_bytes} bytes");
        Self::new(Kind::TooLarge(proto::TooLarge { what: what.to_owned(), limit_bytes }), message)
    }

    pub(crate) fn not_leader(hint: &LeaderHint) -> Self {
        let message = match &hint.leader {
            Some(leader) => format!("this member does not lead: {} does, at {}", leader.name, leader.client_address),
            None => "this member does not lead, and it does not know who does: ask again in a moment".to_owned(),
        };
        Self::new(Kind::NotLeader(not_leader(hint.epoch, hint.leader.as_ref())), message)
    }

    /// As [`Self::not_leader`], from what this member knows now.
    pub(crate) fn not_leader_now(leadership: &Leadership) -> Self {
        Self::not_leader(&hint_of(leadership))
    }

    pub(crate) fn stale(leadership: &Leadership, why: impl Into<String>) -> Self {
        let hint = hint_of(leadership);
        let leader = Some(not_leader(hint.epoch, hint.leader.as_ref()));
        Self::new(Kind::Stale(proto::Stale { leader }), why)
    }

    pub(crate) fn wrong_partition(asked: u32, here: u32) -> Self {
        Self::new(
            Kind::WrongPartition(proto::WrongPartition { slot_table_version: 0 }),
            format!("the request is for partition {asked}, this member holds partition {here}"),
        )
    }

    pub(crate) fn no_quorum() -> Self {
        Self::new(
            Kind::NoQuorum(proto::NoQuorum {}),
            "not written: too few members answer to acknowledge a write; it heals when they are back",
        )
    }

    pub(crate) fn indeterminate(token: proto::Token, why: &str) -> Self {
        Self::new(
            Kind::Indeterminate(proto::Indeterminate { token: Some(token) }),
            format!("{why}: the write may or may not have happened, or may still happen; read before writing again"),
        )
    }

    pub(crate) fn history_lost(why: impl Into<String>) -> Self {
        Self::new(Kind::HistoryLost(proto::HistoryLost {}), why)
    }

    pub(crate) fn compacted(oldest: proto::Token) -> Self {
        Self::new(
            Kind::Compacted(proto::Compacted { oldest: Some(oldest) }),
            "the changes after this position are no longer kept: scan, then watch from the scan's position",
        )
    }

    pub(crate) fn disk_full() -> Self {
        Self::new(
            Kind::DiskFull(proto::DiskFull {}),
            "the disk is full: puts are refused until space is freed; reads and deletes go on",
        )
    }

    pub(crate) fn overloaded(why: impl Into<String>) -> Self {
        Self::new(Kind::Overloaded(proto::Overloaded {}), why)
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable(proto::Unavailable {}), why)
    }

    pub(crate) fn data_loss(why: impl Into<String>) -> Self {
        Self::new(Kind::DataLoss(proto::DataLoss {}), why)
    }

    /// A short name of the kind, for metrics.
    pub(crate) fn kind_name(&self) -> &'static str {
        match &self.0.kind {
            None => "other",
            Some(kind) => match kind {
                Kind::NotLeader(_) => "not_leader",
                Kind::WrongPartition(_) => "wrong_partition",
                Kind::NoQuorum(_) => "no_quorum",
                Kind::Indeterminate(_) => "indeterminate",
                Kind::HistoryLost(_) => "history_lost",
                Kind::Compacted(_) => "compacted",
                Kind::TooLarge(_) => "too_large",
                Kind::DataLoss(_) => "data_loss",
                Kind::Invalid(_) => "invalid",
                Kind::DiskFull(_) => "disk_full",
                Kind::Overloaded(_) => "overloaded",
                Kind::Stale(_) => "stale",
                Kind::Unavailable(_) => "unavailable",
            },
        }
    }

    #[cfg(test)]
    pub(crate) fn detail(&self) -> &ErrorDetail {
        &self.0
    }

    pub(crate) fn into_detail(self) -> ErrorDetail {
        *self.0
    }

    fn code(&self) -> Code {
        match self.0.kind {
            None => Code::Unknown,
            Some(ref kind) => match kind {
                Kind::NotLeader(_) | Kind::NoQuorum(_) | Kind::Unavailable(_) => Code::Unavailable,
                Kind::WrongPartition(_) | Kind::HistoryLost(_) | Kind::Stale(_) => Code::FailedPrecondition,
                // What gRPC's own deadline says too: nobody knows whether it happened.
                Kind::Indeterminate(_) => Code::DeadlineExceeded,
                Kind::Compacted(_) => Code::OutOfRange,
                Kind::TooLarge(_) | Kind::Invalid(_) => Code::InvalidArgument,
                Kind::DataLoss(_) => Code::DataLoss,
                Kind::DiskFull(_) | Kind::Overloaded(_) => Code::ResourceExhausted,
            },
        }
    }

    /// The gRPC status, with the detail in its metadata.
    pub(crate) fn into_status(self) -> Status {
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(DETAIL_METADATA, MetadataValue::from_bytes(&self.0.encode_to_vec()));
        Status::with_metadata(self.code(), self.0.message.clone(), metadata)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        refused.into_status()
    }
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::KeyTooLarge { limit } => Self::too_large("key", limit),
            AppendError::ValueTooLarge { limit } => Self::too_large("value", limit),
            AppendError::BatchTooLarge { limit } => Self::too_large("write (with its record headers)", limit),
            AppendError::DiskFull => Self::disk_full(),
            AppendError::Damaged(_) => Self::data_loss(error.to_string()),
            AppendError::MemoryFull => Self::overloaded("not written: too many bytes are waiting for their commit"),
            AppendError::NotLeader | AppendError::NotReady(_) | AppendError::Failed => {
                Self::unavailable(error.to_string())
            }
            other => Self::invalid(other.to_string()),
        }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Corrupt { .. } => Self::data_loss(error.to_string()),
            EngineError::UnknownTree(_) | EngineError::Unsupported(_) => Self::invalid(error.to_string()),
            EngineError::Append(error) => error.into(),
            EngineError::DiskFull(_) => Self::disk_full(),
            EngineError::BelowFloor(BelowFloor { .. }) => Self::compacted(proto::Token::default()),
            other => Self::unavailable(other.to_string()),
        }
    }
}

/// Whether a status carries a typed detail.
pub(crate) fn is_typed(status: &Status) -> bool {
    status.metadata().get_bin(DETAIL_METADATA).is_some()
}

fn hint_of(leadership: &Leadership) -> LeaderHint {
    match leadership {
        Leadership::Following { epoch, leader } => LeaderHint { epoch: *epoch, leader: leader.clone() },
        Leadership::Leading { epoch, .. } | Leadership::Draining { epoch } => {
            LeaderHint { epoch: *epoch, leader: None }
        }
    }
}

/// What a client needs to reach the leader; empty fields where it is not known.
pub(crate) fn not_leader(epoch: u64, leader: Option<&LeaderAddress>) -> proto::NotLeader {
    match leader {
        Some(leader) => proto::NotLeader {
            member: leader.name.clone(),
            sid: leader.sid.to_string(),
            address: leader.client_address.clone(),
            advertised_address: leader.client_address.clone(),
            epoch,
        },
        None => proto::NotLeader { epoch, ..Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_typed_detail_in_its_metadata() {
        let refused = Refused::too_large("value", 8 << 20);
        let status = refused.clone().into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("8388608"), "{}", status.message());
        let bytes = status.metadata().get_bin(DETAIL_METADATA).expect("a detail").to_bytes().expect("base64");
        assert_eq!(&ErrorDetail::decode(bytes).expect("decodes"), refused.detail());
    }

    #[test]
    fn a_follower_names_the_leader_and_its_address() {
        let leader =
            LeaderAddress { name: "kv-0-1".into(), sid: crate::ident::Sid(7), client_address: "127.0.0.1:7401".into() };
        let refused = Refused::not_leader(&LeaderHint { epoch: 4, leader: Some(leader) });
        let Some(Kind::NotLeader(hint)) = &refused.detail().kind else { panic!("{refused:?}") };
        assert_eq!((hint.member.as_str(), hint.address.as_str(), hint.epoch), ("kv-0-1", "127.0.0.1:7401", 4));
        assert_eq!(refused.into_status().code(), Code::Unavailable);
    }
}
