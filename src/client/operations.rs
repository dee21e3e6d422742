//! The operations of a client. Handles are cheap to clone and share one connection.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::Batch;
use super::describe::Description;
use super::error::{ConnectError, ReadError, Refusal, WriteError};
use super::options::{ClientOptions, PutOptions, ReadOptions, WriteOptions};
use super::scan::{Scan, ScanStream};
use super::session::Session;
use super::value::{Token, Value, Version, WriteOutcome, Written};
use super::watch::{Watch, WatchOptions};
use crate::net::proto::{self, kv_client::KvClient, op_result, stream_op};

/// Keys asked for in one request of [`Client::multi_get`].
const MULTI_GET_KEYS: usize = 1024;

/// A tree of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Its name.
    pub name: String,
    /// Without order: it cannot be scanned.
    pub hash: bool,
}

/// A client of one cluster, reading and writing one tree of it (see [`Client::tree`]).
#[derive(Debug, Clone)]
pub struct Client {
    session: Arc<Session>,
    tree: Arc<str>,
}

impl Client {
    /// Connects: returns once any member has answered, or fails when none does in `request_timeout`.
    pub async fn connect(options: ClientOptions) -> Result<Self, ConnectError> {
        Ok(Self { session: Session::connect(options).await?, tree: Arc::from("") })
    }

    /// The same client for another tree; `default` is the one of [`Client::connect`].
    #[must_use]
    pub fn tree(&self, name: &str) -> Self {
        Self { session: Arc::clone(&self.session), tree: Arc::from(if name == "default" { "" } else { name }) }
    }

    /// Reads a key; None = there is no such key.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, ReadError> {
        self.get_with(key, &ReadOptions::default()).await
    }

    /// [`Self::get`] with options.
    pub async fn get_with(&self, key: impl Into<Bytes>, options: &ReadOptions) -> Result<Option<Value>, ReadError> {
        let request =
            proto::GetRequest { route: None, tree: self.tree_name(), key: key.into(), read: options.to_proto() };
        match self.session.read(stream_op::Op::Get(request), options).await? {
            op_result::Result::Get(response) => Ok(response.value.map(Value::from_proto)),
            _ => Err(mismatched()),
        }
    }

    /// Reads many keys; one answer each, in order.
    pub async fn multi_get(
        &self,
        keys: impl IntoIterator<Item = impl Into<Bytes>>,
    ) -> Result<Vec<Option<Value>>, ReadError> {
        self.multi_get_with(keys, &ReadOptions::default()).await
    }

    /// [`Self::multi_get`] with options. More than 1024 keys, or more than one answer can hold, go in several requests.
    pub async fn multi_get_with(
        &self,
        keys: impl IntoIterator<Item = impl Into<Bytes>>,
        options: &ReadOptions,
    ) -> Result<Vec<Option<Value>>, ReadError> {
        let keys: Vec<Bytes> = keys.into_iter().map(Into::into).collect();
        let mut values = Vec::with_capacity(keys.len());
        let mut parts: VecDeque<&[Bytes]> = keys.chunks(MULTI_GET_KEYS).collect();
        while let Some(keys) = parts.pop_front() {
            let request = proto::MultiGetRequest {
                route: None,
                tree: self.tree_name(),
                keys: keys.to_vec(),
                read: options.to_proto(),
            };
            match self.session.read(stream_op::Op::MultiGet(request), options).await {
                Ok(op_result::Result::MultiGet(response)) if response.values.len() == keys.len() => {
                    values.extend(response.values.into_iter().map(|found| found.value.map(Value::from_proto)));
                }
                Ok(_) => return Err(mismatched()),
                Err(error) if keys.len() > 1 && matches!(error.refusal(), Refusal::TooLarge { .. }) => {
                    let (first, second) = keys.split_at(keys.len() / 2);
                    parts.push_front(second);
                    parts.push_front(first);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    }

    /// Puts a value.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written, WriteError> {
        self.put_with(key, value, &PutOptions::default()).await
    }

    /// [`Self::put`] with options.
    pub async fn put_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: &PutOptions,
    ) -> Result<Written, WriteError> {
        unconditional(self.write_with(Batch::new().put_with(key, value, options), &options.write).await?)
    }

    /// Deletes a key; deleting what is not there is no failure.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written, WriteError> {
        unconditional(self.write(Batch::new().delete(key)).await?)
    }

    /// Puts a value if there is no such key.
    pub async fn put_if_absent(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<WriteOutcome, WriteError> {
        let key = key.into();
        self.write(Batch::new().when_absent(key.clone()).put(key, value)).await
    }

    /// Puts a value if the key still has this version.
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected: &Version,
        value: impl Into<Bytes>,
    ) -> Result<WriteOutcome, WriteError> {
        let key = key.into();
        self.write(Batch::new().when_version(key.clone(), expected).put(key, value)).await
    }

    /// Does an atomic batch.
    pub async fn write(&self, batch: Batch) -> Result<WriteOutcome, WriteError> {
        self.write_with(batch, &WriteOptions::default()).await
    }

    /// [`Self::write`] with options.
    pub async fn write_with(&self, batch: Batch, options: &WriteOptions) -> Result<WriteOutcome, WriteError> {
        let mut request = batch.into_request(&self.tree);
        request.ack = options.ack.to_proto();
        let response = self.session.write(request, options.timeout).await?;
        Ok(if response.applied {
            WriteOutcome::Applied(Written {
                token: response.token.as_ref().map(Token::from_proto).unwrap_or_default(),
                versions: response.versions.iter().map(Version::from_proto).collect(),
            })
        } else {
            WriteOutcome::ConditionFailed { index: response.failed_condition as usize }
        })
    }

    /// Reads keys in order.
    pub fn scan(&self, scan: Scan) -> ScanStream {
        ScanStream::new(Arc::clone(&self.session), self.tree_name(), scan)
    }

    /// Follows committed changes.
    pub fn watch(&self, options: WatchOptions) -> Watch {
        Watch::new(Arc::clone(&self.session), self.tree_name(), options)
    }

    /// Makes a tree; false = it existed with the same order.
    pub async fn create_tree(&self, name: &str, hash: bool) -> Result<bool, WriteError> {
        // Making it twice makes it once, so this may be repeated whatever became of the first attempt.
        let created = self
            .session
            .on_leader(None, |channel| {
                let request = proto::CreateTreeRequest { route: self.route(), name: name.to_owned(), hash };
                async move { KvClient::new(channel).create_tree(request).await }
            })
            .await?;
        Ok(created.into_inner().created)
    }

    /// The trees.
    pub async fn list_trees(&self) -> Result<Vec<Tree>, ReadError> {
        let trees = self
            .session
            .on_leader(None, |channel| {
                let request = proto::ListTreesRequest { route: self.route() };
                async move { KvClient::new(channel).list_trees(request).await }
            })
            .await?;
        Ok(trees.into_inner().trees.into_iter().map(|tree| Tree { name: tree.name, hash: tree.hash }).collect())
    }

    /// What the leader says of the cluster.
    pub async fn describe(&self) -> Result<Description, ReadError> {
        let description = self
            .session
            .on_leader(None, |channel| async move { KvClient::new(channel).describe(proto::DescribeRequest {}).await })
            .await?;
        Ok(Description::from_proto(description.into_inner()))
    }

    /// What every known member says, or why it does not, by address.
    pub async fn describe_all(&self) -> Vec<(String, Result<Description, String>)> {
        let asked = self.session.discovery.addresses().into_iter().map(|address| async {
            let answer = self.session.discovery.describe(&address).await.map(Description::from_proto);
            (address, answer)
        });
        futures::future::join_all(asked).await
    }

    /// The id of the cluster that this client found; it never talks to another.
    pub fn cluster_id(&self) -> Option<String> {
        self.session.discovery.cluster_id()
    }

    fn tree_name(&self) -> String {
        self.tree.as_ref().to_owned()
    }

    fn route(&self) -> Option<proto::Route> {
        Some(proto::Route { partition: self.session.options.partition, slot_table_version: 0 })
    }
}

/// The outcome of a write that has no condition.
fn unconditional(outcome: WriteOutcome) -> Result<Written, WriteError> {
    match outcome {
        WriteOutcome::Applied(written) => Ok(written),
        WriteOutcome::ConditionFailed { .. } => {
            Err(Refusal::Other("the member reports a failed condition where none was set".into()).into())
        }
    }
}

pub(super) fn mismatched() -> ReadError {
    Refusal::Other("the member answered another question".into()).into()
}
