//! One tree of an embedded database: a keyspace of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{DbScan, Inner, WriteOutcome};
use crate::engine::append::SingleOp;
use crate::engine::batch::{Condition, Expect, Version, WriteBatch, WriteOp};
use crate::engine::error::EngineError;
use crate::engine::tree::TreeInfo;
use crate::engine::value::{ScanRange, Value};

/// A handle on a tree: clone it, share it between threads.
#[derive(Debug, Clone)]
pub struct DbTree {
    inner: Arc<Inner>,
    info: TreeInfo,
}

impl DbTree {
    pub(super) fn new(inner: Arc<Inner>, info: TreeInfo) -> Self {
        Self { inner, info }
    }

    /// Its number, name and kind. The number is what a batch's operations name.
    pub fn info(&self) -> &TreeInfo {
        &self.info
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, EngineError> {
        self.get_with(key, Bytes::copy_from_slice)
    }

    /// Calls `read` with the value of a key where it lies, without copying it: the fastest way to a value. What is read
    /// stays mapped, and its file on the disk, until `read` returns.
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, EngineError> {
        let key = key.as_ref();
        let shard = self.inner.shard(key);
        shard.get_with_at(self.info.id, key, || self.inner.now_ms(shard), read)
    }

    /// The value of a key with its version and expiry.
    pub fn get_value(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, EngineError> {
        let key = key.as_ref();
        let shard = self.inner.shard(key);
        shard.get_at(self.info.id, key, || self.inner.now_ms(shard))
    }

    /// The values of many keys, in their order: faster than one by one.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let shards = self.inner.engine.shards();
        let mut values = vec![None; keys.len()];
        for shard in shards {
            let (mut places, mut asked): (Vec<usize>, Vec<&[u8]>) = (Vec::new(), Vec::new());
            for (i, key) in keys.iter().enumerate() {
                if self.inner.shard(key.as_ref()).id() == shard.id() {
                    places.push(i);
                    asked.push(key.as_ref());
                }
            }
            let found = shard.multi_get(self.info.id, &asked, self.inner.now_ms(shard))?;
            for (place, value) in places.into_iter().zip(found) {
                values[place] = value.map(|value| value.bytes);
            }
        }
        Ok(values)
    }

    /// Sets a key.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, EngineError> {
        self.single(key.as_ref(), Some(value.as_ref()), None)
    }

    /// Sets a key for a time.
    pub fn put_for(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        live: Duration,
    ) -> Result<Version, EngineError> {
        let key = key.as_ref();
        let live_ms = u64::try_from(live.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = self.inner.birth_ms(self.inner.shard(key)).saturating_add(live_ms);
        self.single(key, Some(value.as_ref()), Some(expires_ms))
    }

    /// Removes a key, whether or not it is there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Version, EngineError> {
        self.single(key.as_ref(), None, None)
    }

    fn single(&self, key: &[u8], value: Option<&[u8]>, expires_ms: Option<u64>) -> Result<Version, EngineError> {
        self.inner.write_single(SingleOp { tree: self.info.id, key, value, expires_ms, value_type: 0 })
    }

    /// Sets a key that has no value yet; whether it did.
    pub fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool, EngineError> {
        Ok(self.put_expecting(key.as_ref(), value.as_ref(), Expect::Absent)?.is_written())
    }

    /// Sets a key whose value still has this version, as [`Self::get_value`] told it; whether it did.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        version: Version,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, EngineError> {
        Ok(self.put_expecting(key.as_ref(), value.as_ref(), Expect::Version(version))?.is_written())
    }

    fn put_expecting(&self, key: &[u8], value: &[u8], expect: Expect) -> Result<WriteOutcome, EngineError> {
        let (tree, key) = (self.info.id, Bytes::copy_from_slice(key));
        let value = Bytes::copy_from_slice(value);
        let mut batch =
            WriteBatch::new().op(WriteOp::Put { tree, key: key.clone(), value, expires_ms: None, value_type: 0 });
        batch.conditions.push(Condition { tree, key, expect });
        self.inner.write(&batch)
    }

    /// The entries of a range, in order or against it. A hash tree answers with an error.
    pub fn scan(&self, range: ScanRange) -> DbScan {
        DbScan::new(self.inner.clone(), self.info.id, range)
    }
}
