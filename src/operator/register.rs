//! The register of a partition: `ArmdbPartition.status.register`, compared and swapped by resource version.
//!
//! Invariants: read from a quorum, never from the cache; written only by replacing the status at the resource version
//! it was read at; unknown fields stay; the API server's answer must hold exactly what was written. If it does not,
//! somebody between here and the store changes registers (a definition that drops fields, a webhook): this replica
//! then stops deciding anything for the partition and says so, until a human has looked and it is restarted.

use std::time::Duration;

use kube::core::DynamicObject;
use parking_lot::Mutex;
use serde_json::Value;

use super::cache::Key;
use super::client::{ErrorKind, Kube};
use super::kinds::Kind;
use crate::drive::AsyncRegister;
use crate::topology::register::{CasOutcome, ReadOutcome, Register, Version};

/// An API server that takes longer is asked again: a failover waits for this.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct PartitionRegister {
    kube: Kube,
    key: Key,
    /// The object that this is the register in; another one of its name is another register.
    uid: String,
    /// As it was read last: what a swap begins from.
    last: Mutex<Option<DynamicObject>>,
    /// Why nothing is decided here any more.
    stopped: Mutex<Option<String>>,
}

impl PartitionRegister {
    /// The register in the object `key` with this uid.
    pub fn new(kube: &Kube, key: Key, uid: String) -> Self {
        Self { kube: kube.within(TIMEOUT), key, uid, last: Mutex::default(), stopped: Mutex::default() }
    }

    async fn object(&self) -> Result<DynamicObject, String> {
        if let Some(why) = self.stopped.lock().clone() {
            return Err(why);
        }
        let read = self.kube.get(Kind::Partition, &self.key.namespace, &self.key.name).await;
        match read {
            Ok(Some(object)) if object.metadata.uid.as_deref() == Some(&self.uid) => {
                *self.last.lock() = Some(object.clone());
                Ok(object)
            }
            Ok(Some(_)) => Err(format!("ArmdbPartition {} is another object now", self.key)),
            Ok(None) => Err(format!("ArmdbPartition {} is gone; it is made again soon", self.key)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The object to write over, if its register is the one that is expected.
    async fn base(&self, expected: Option<&Version>) -> Result<DynamicObject, CasOutcome> {
        let known = self.last.lock().clone();
        if let (Some(known), Some(expected)) = (known, expected)
            && version_of(&known) == *expected
        {
            return Ok(known);
        }
        let object = self.object().await.map_err(CasOutcome::Unknown)?;
        let fits = match expected {
            Some(expected) => version_of(&object) == *expected,
            None => register_in(&object).is_none(),
        };
        if fits { Ok(object) } else { Err(CasOutcome::Conflict) }
    }

    fn stop(&self, why: String) -> CasOutcome {
        tracing::error!(partition = %self.key, "{why}");
        *self.stopped.lock() = Some(why.clone());
        CasOutcome::Unknown(why)
    }
}

fn register_in(object: &DynamicObject) -> Option<&Value> {
    object.data.get("status")?.get("register").filter(|register| !register.is_null())
}

fn version_of(object: &DynamicObject) -> Version {
    Version(object.metadata.resource_version.clone().unwrap_or_default())
}

#[tonic::async_trait]
impl AsyncRegister for PartitionRegister {
    async fn read(&self) -> ReadOutcome {
        let object = match self.object().await {
            Ok(object) => object,
            Err(why) => return ReadOutcome::Failed(why),
        };
        match register_in(&object) {
            None => ReadOutcome::Absent,
            Some(value) => match Register::from_value(value.clone()) {
                Ok(register) => ReadOutcome::Found(Box::new(register), version_of(&object)),
                Err(error) => ReadOutcome::Failed(format!("ArmdbPartition {}: {error}", self.key)),
            },
        }
    }

    async fn compare_and_swap(&self, expected: Option<&Version>, register: &Register) -> CasOutcome {
        if let Some(why) = self.stopped.lock().clone() {
            return CasOutcome::Unknown(why);
        }
        let value = match register.to_value() {
            Ok(value) => value,
            Err(error) => return CasOutcome::Unknown(error.to_string()),
        };
        let mut object = match self.base(expected).await {
            Ok(object) => object,
            Err(outcome) => return outcome,
        };
        if let Value::Object(data) = &mut object.data {
            let status = data.entry("status").or_insert_with(|| Value::Object(Default::default()));
            status["register"] = value.clone();
        }
        match self.kube.replace_status(Kind::Partition, &object).await {
            Ok(stored) if register_in(&stored) == Some(&value) => {
                let version = version_of(&stored);
                *self.last.lock() = Some(stored);
                CasOutcome::Written(version)
            }
            Ok(_) => self.stop(format!(
                "the register of ArmdbPartition {} was not stored as it was written: the installed definition drops \
                 fields, or a webhook changes them; nothing is decided for this partition until that is mended and the \
                 operator is restarted",
                self.key
            )),
            Err(error) => match error.kind {
                ErrorKind::Conflict | ErrorKind::NotFound => CasOutcome::Conflict,
                _ => CasOutcome::Unknown(error.to_string()),
            },
        }
    }
}
