//! The register: the one record that a compare-and-swap guards, and all that a controller may trust.
//!
//! Written as canonical JSON (sorted keys, integers below 2^53, no floats) with a SHA-256 digest over it, so
//! that a store which drops or rounds a field is noticed. Fields this version does not know are kept: a newer
//! controller may have written them. What constrains voters, W, leader or epoch requires a raised
//! `formatVersion`; unknown fields may only describe. No lag, no health: it changes only with decisions.
//!
//! It does not say how it is stored: a file in local mode, an object's status in Kubernetes, a struct in tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::message::{LastConfig, MemberName};
use crate::ident::{AttemptId, ClusterId, Sid};
use crate::position::Epoch;

/// The newest format this version reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Whether an epoch is being allocated or has a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// ALLOC happened: `attempt` may DECIDE `epoch`; the leader of `last_leading` may still serve.
    Electing,
    /// DECIDE happened: `leader` leads `epoch`.
    Leading,
}

/// A decided leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leading {
    /// The epoch decided.
    pub epoch: Epoch,
    /// Its leader.
    pub sid: Sid,
}

/// Where a member was when it was last written here. An address, never an identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberAddress {
    /// Its name.
    pub name: MemberName,
    /// Its peer address, `host:port`.
    pub peer_address: String,
    /// Its client address, `host:port`.
    pub client_address: String,
    /// Fields of newer versions, kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// A one-shot request that was carried out or given up, so that it never runs twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DoneRequest {
    /// The id its author gave it.
    pub id: String,
    /// In words: what became of it.
    pub outcome: String,
}

/// The register's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Raised only by an unsafe recovery.
    pub lineage: u64,
    /// Highest epoch allocated.
    pub epoch: Epoch,
    /// See [`Phase`].
    pub phase: Phase,
    /// The attempt that allocated `epoch`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<AttemptId>,
    /// The leader of `epoch`, once decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leader: Option<Sid>,
    /// The newest decided leadership: equals `epoch` and `leader` while Leading.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_leading: Option<Leading>,
    /// Who votes, sorted.
    pub voters: Vec<Sid>,
    /// W of these voters.
    pub write_quorum: u32,
    /// `ChangeEpoch` never goes below this many voters by itself.
    pub min_voters: u32,
    /// Who replicates without voting, sorted.
    #[serde(default)]
    pub learners: Vec<Sid>,
    /// Every voter and learner, where it was last seen.
    #[serde(default)]
    pub members: BTreeMap<Sid, MemberAddress>,
    /// Bootstrap went through: a blank member can only become a learner from now on.
    pub initialized: bool,
    /// The format that writers write.
    pub format_level: u32,
    /// Version of the slot table.
    #[serde(default)]
    pub slot_table_version: u64,
    /// Where shard time went on at the last DECIDE, at the earliest, unix milliseconds: as late as anything that the voters
    /// who answered FENCE knew of earlier epochs, which the next voters need not have heard. 0: the register was made anew.
    #[serde(default)]
    pub shard_time_ms: u64,
    /// The last one-shot request that was carried out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_request: Option<DoneRequest>,
    /// Fields of newer versions, kept.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// A register that must not be acted upon.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Not JSON, or a field is missing or of another type.
    #[error("the register cannot be read: {0}; restore it, or remove it to have it rebuilt from the members")]
    Malformed(#[from] serde_json::Error),
    /// The content is not what its digest was computed over.
    #[error(
        "the register's digest is {found}, its content has {computed}: its store changed it; nothing is decided from it"
    )]
    Digest {
        /// As stored.
        found: String,
        /// Of the content.
        computed: String,
    },
    /// Written by a newer version.
    #[error(
        "the register has format {found}, this version reads up to {FORMAT_VERSION}; upgrade before changing anything"
    )]
    Newer {
        /// As stored.
        found: u64,
    },
    /// A number that JSON readers may round, or a float.
    #[error("the register's field {0} is not an integer below 2^53")]
    Number(String),
}

impl Register {
    /// R = N - W + 1 of the voters in force.
    pub fn read_quorum(&self) -> usize {
        (self.voters.len() + 1).saturating_sub(self.write_quorum as usize)
    }

    /// Whether a configuration that a member persisted was decided later than anything that this register knows of:
    /// PROMOTE follows DECIDE, so the register is then an older one.
    pub fn is_behind(&self, config: Option<&LastConfig>) -> bool {
        config.zip(self.last_leading).is_some_and(|(config, last)| config.epoch > last.epoch)
    }

    /// The register as bytes to store: canonical JSON with its digest.
    pub fn to_json(&self) -> Result<Vec<u8>, RegisterError> {
        let mut value = serde_json::to_value(self)?;
        check_numbers(&value, "")?;
        let digest = digest_of(&value)?;
        if let Value::Object(map) = &mut value {
            map.insert("digest".into(), Value::String(digest));
        }
        Ok(serde_json::to_vec(&value)?)
    }

    /// As a JSON value with its digest (for a store that keeps structures).
    pub fn to_value(&self) -> Result<Value, RegisterError> {
        Ok(serde_json::from_slice(&self.to_json()?)?)
    }

    /// Reads what [`Self::to_json`] wrote. Refuses a newer format and a digest that does not fit.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RegisterError> {
        Self::from_value(serde_json::from_slice(bytes)?)
    }

    /// As [`Self::from_json`], from a value.
    pub fn from_value(mut value: Value) -> Result<Self, RegisterError> {
        // The version first: a newer format may have another digest.
        if let Some(found) = value.get("formatVersion").and_then(Value::as_u64)
            && found > u64::from(FORMAT_VERSION)
        {
            return Err(RegisterError::Newer { found });
        }
        let found = match &mut value {
            Value::Object(map) => map.remove("digest").and_then(|d| d.as_str().map(str::to_owned)),
            _ => None,
        }
        .unwrap_or_default();
        check_numbers(&value, "")?;
        let computed = digest_of(&value)?;
        if found != computed {
            return Err(RegisterError::Digest { found, computed });
        }
        Ok(serde_json::from_value(value)?)
    }
}

/// `serde_json`'s map keeps its keys sorted (the crate is built without `preserve_order`; a test watches),
/// so its compact form is canonical.
fn digest_of(value: &Value) -> Result<String, RegisterError> {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(serde_json::to_vec(value)?) {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

fn check_numbers(value: &Value, path: &str) -> Result<(), RegisterError> {
    match value {
        Value::Number(n) if n.as_i64().is_none_or(|n| n.unsigned_abs() >= 1 << 53) => {
            Err(RegisterError::Number(path.to_owned()))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_numbers(item, path)),
        Value::Object(map) => map.iter().try_for_each(|(key, item)| check_numbers(item, &format!("{path}.{key}"))),
        _ => Ok(()),
    }
}

/// What a store calls one state of the register: opaque, compared for equality only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub String);

/// What a read gave.
#[derive(Debug, Clone)]
pub enum ReadOutcome {
    /// The register as it is.
    Found(Box<Register>, Version),
    /// There is none.
    Absent,
    /// It could not be read, or must not be acted upon; try again.
    Failed(String),
}

/// What a compare-and-swap did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CasOutcome {
    /// Written, and the store's answer equals what was written.
    Written(Version),
    /// Another state was found; nothing was written.
    Conflict,
    /// It may or may not have been written: read before anything else.
    Unknown(String),
}

/// A store of one register. `local` keeps a file, tests a struct; the operator drives its own.
pub trait RegisterStore {
    /// A linearizable read.
    fn read(&self) -> ReadOutcome;
    /// Writes `register` if the present version is `expected` (None: if there is none).
    fn compare_and_swap(&self, expected: Option<&Version>, register: &Register) -> CasOutcome;
}

/// A register in memory.
#[derive(Debug, Default)]
pub struct MemoryRegister {
    state: std::sync::Mutex<(u64, Option<Vec<u8>>)>,
}

impl RegisterStore for MemoryRegister {
    fn read(&self) -> ReadOutcome {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &state.1 {
            None => ReadOutcome::Absent,
            Some(bytes) => match Register::from_json(bytes) {
                Ok(register) => ReadOutcome::Found(Box::new(register), Version(state.0.to_string())),
                Err(error) => ReadOutcome::Failed(error.to_string()),
            },
        }
    }

    fn compare_and_swap(&self, expected: Option<&Version>, register: &Register) -> CasOutcome {
        let bytes = match register.to_json() {
            Ok(bytes) => bytes,
            Err(error) => return CasOutcome::Unknown(error.to_string()),
        };
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let present = state.1.is_some().then(|| Version(state.0.to_string()));
        if present.as_ref() != expected {
            return CasOutcome::Conflict;
        }
        state.0 += 1;
        state.1 = Some(bytes);
        CasOutcome::Written(Version(state.0.to_string()))
    }
}

impl MemoryRegister {
    /// Loses the register, as a deleted file or object.
    pub fn remove(&self) {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1 = None;
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
