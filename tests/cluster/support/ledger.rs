//! The books of a load: what each key may hold, given what the cluster has answered.
//!
//! A key holds what was last acknowledged for it, or what a later write of unknown outcome would have left;
//! never something older, never something that was refused.

use std::collections::BTreeMap;

use armdb::client::{Client, ReadOptions, WriteError};
use bytes::Bytes;

use super::Cluster;

/// A value; None = deleted, or never written.
pub type Content = Option<Bytes>;

#[derive(Debug, Clone, Default)]
struct Account {
    /// Whether any write of it was acknowledged in these books.
    known: bool,
    acknowledged: Content,
    /// Of unknown outcome, after the last acknowledged one.
    possible: Vec<Content>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    accounts: BTreeMap<Bytes, Account>,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes whose outcome the client could not tell.
    pub unknown: u64,
    /// Writes that were certainly not done, with what was said.
    pub refused: Vec<String>,
}

impl Ledger {
    /// Enters the outcome of a write.
    pub fn enter<T>(&mut self, key: Bytes, content: Content, outcome: &Result<T, WriteError>) {
        let account = self.accounts.entry(key).or_default();
        match outcome {
            Ok(_) => {
                self.acknowledged += 1;
                *account = Account { known: true, acknowledged: content, possible: Vec::new() };
            }
            Err(WriteError::Indeterminate { .. }) => {
                self.unknown += 1;
                account.possible.push(content);
            }
            Err(error) => self.refused.push(error.to_string()),
        }
    }

    /// Takes in the books of somebody who wrote later, or other keys.
    pub fn merge(&mut self, other: Self) {
        for (key, theirs) in other.accounts {
            let ours = self.accounts.entry(key).or_default();
            if theirs.known {
                *ours = theirs;
            } else {
                ours.possible.extend(theirs.possible);
            }
        }
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.refused.extend(other.refused);
    }

    /// Reads every key and compares.
    pub async fn compare(&self, client: &Client, options: &ReadOptions, whom: &str) {
        let keys: Vec<Bytes> = self.accounts.keys().cloned().collect();
        let found = client.multi_get_with(keys, options).await.unwrap_or_else(|e| panic!("reading from {whom}: {e}"));
        let mut wrong = Vec::new();
        for ((key, account), found) in self.accounts.iter().zip(found) {
            let found = found.map(|value| value.bytes);
            if found != account.acknowledged && !account.possible.contains(&found) {
                let may: Vec<_> = account.possible.iter().map(shown).collect();
                let last = shown(&account.acknowledged);
                wrong.push(format!("{key:?} holds {}; last acknowledged: {last}; or: {may:?}", shown(&found)));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {} keys are wrong on {whom}: {:#?}",
            wrong.len(),
            self.accounts.len(),
            &wrong[..wrong.len().min(10)]
        );
    }

    /// Reads every key from the leader and from each member, and compares.
    pub async fn compare_everywhere(&self, cluster: &Cluster) {
        let client = cluster.client().await;
        self.compare(&client, &ReadOptions::default(), "the leader").await;
        // Whatever was acknowledged before this write lies before it in the log.
        let token = client.put("a mark of the test", "1").await.expect("a write").token;
        for name in cluster.names() {
            self.compare(&client, &cluster.reading_from(&name, &token), &name).await;
        }
    }
}

/// The beginning of a value and its length: enough to tell which one it is.
fn shown(content: &Content) -> String {
    match content {
        None => "nothing".into(),
        Some(bytes) => format!("{:?} ({} bytes)", bytes.slice(..bytes.len().min(24)), bytes.len()),
    }
}
