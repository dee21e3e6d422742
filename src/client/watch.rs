//! Watches: committed changes in order, from a token on, without a gap across reconnects.
//!
//! A watch that names no token first asks the leader how far it is, so that it has a place to resume from before the
//! first change arrives. After a lost connection it goes on after the last batch it handed out. It waits for a
//! leader for as long as it takes; only history that is gone ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::Streaming;

use super::connection::Connection;
use super::error::{Answer, ReadError, Refusal, text_of};
use super::retry::{Backoff, Deadline};
use super::session::Session;
use super::value::{Token, Value, Version};
use crate::net::proto::{self, kv_client::KvClient};

/// The server reports progress every second; three in a row missed, and the connection is given up.
const SILENCE: Duration = Duration::from_secs(3);

/// What to follow.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Keys that begin so.
    pub prefix: Bytes,
    /// Changes after this; None = from now on.
    pub after: Option<Token>,
}

/// A committed change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its value; None = it was deleted.
    pub value: Option<Value>,
    /// The write that did it.
    pub version: Version,
}

/// Changes of one or more whole batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In order within a shard.
    pub changes: Vec<Change>,
    /// Watch from here to go on after them.
    pub resume: Token,
}

/// A watch in progress.
#[derive(Debug)]
pub struct Watch {
    session: Arc<Session>,
    tree: String,
    prefix: Bytes,
    /// Everything up to here was handed out.
    position: Option<Token>,
    stream: Option<(Streaming<proto::WatchResponse>, Arc<Connection>)>,
}

impl Watch {
    pub(super) fn new(session: Arc<Session>, tree: String, options: WatchOptions) -> Self {
        Self { session, tree, prefix: options.prefix, position: options.after, stream: None }
    }

    /// Where it is; watching from here misses nothing that [`Self::next`] has not returned.
    pub fn position(&self) -> Option<&Token> {
        self.position.as_ref()
    }

    /// Begins to watch: returns once the server has agreed, so that later changes will be seen.
    pub async fn start(&mut self) -> Result<(), ReadError> {
        if self.stream.is_none() {
            self.open().await?;
        }
        Ok(())
    }

    /// The next changes. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Changes, ReadError> {
        loop {
            let Some((stream, connection)) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            let lost = match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(response))) => {
                    let changes: Vec<Change> = response.events.into_iter().map(change).collect();
                    let position = self.position.get_or_insert_default();
                    match &response.progress {
                        Some(progress) => position.merge(&Token::from_proto(progress)),
                        // Whole batches: the last of each shard is where that shard is.
                        None => changes.iter().for_each(|c| position.merge(&Token::from_version(c.version))),
                    }
                    if changes.is_empty() {
                        continue;
                    }
                    return Ok(Changes { changes, resume: position.clone() });
                }
                Ok(Ok(None)) => Ok("the member ended the watch".to_owned()),
                Ok(Err(status)) => match Answer::from_status(&status) {
                    Answer::Refused(refusal) => Err(refusal),
                    _ => Ok(text_of(&status)),
                },
                Err(_) => Ok(format!("{} was silent for {SILENCE:?}", connection.address)),
            };
            let connection = Arc::clone(connection);
            self.stream = None;
            match lost {
                Ok(cause) => {
                    tracing::debug!(%cause, "watch lost, resuming");
                    self.session.discovery.note(cause);
                    // Only this stream is known to be gone; if the connection is too, its own task finds out.
                    if !connection.is_open() {
                        self.session.moved(&connection, None);
                    }
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    async fn open(&mut self) -> Result<(), ReadError> {
        // A watch waits out an outage of any length.
        let deadline = Deadline::after(Duration::MAX);
        let session = Arc::clone(&self.session);
        let mut backoff = Backoff::new(&session.jitter);
        loop {
            match self.try_open(&deadline).await {
                Ok(opened) => {
                    self.stream = Some(opened);
                    return Ok(());
                }
                Err(refusal) if refusal.is_transient() => {
                    backoff.pause(&deadline).await;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    async fn try_open(
        &mut self,
        deadline: &Deadline,
    ) -> Result<(Streaming<proto::WatchResponse>, Arc<Connection>), Refusal> {
        let connection = self.session.leader(deadline).await?;
        let mut client = KvClient::new(connection.channel.clone()).max_decoding_message_size(64 << 20);
        let failed = |status: tonic::Status| match Answer::from_status(&status) {
            Answer::Elsewhere(hint, last) => {
                self.session.moved(&connection, Some(hint));
                Refusal::TimedOut { waited: Duration::ZERO, last }
            }
            Answer::Away(last) | Answer::Unknown(_, last) => {
                self.session.moved(&connection, None);
                Refusal::TimedOut { waited: Duration::ZERO, last }
            }
            Answer::Later(last) => Refusal::TimedOut { waited: Duration::ZERO, last },
            Answer::Refused(refusal) => refusal,
        };
        let silent = |_| {
            self.session.discovery.forget_channel(&connection.address);
            self.session.moved(&connection, None);
            Refusal::TimedOut { waited: SILENCE, last: format!("{} does not answer", connection.address) }
        };
        if self.position.is_none() {
            let answer = tokio::time::timeout(SILENCE, client.describe(proto::DescribeRequest {})).await;
            let description = answer.map_err(silent)?.map_err(failed)?.into_inner();
            self.position = Some(description.commit.as_ref().map(Token::from_proto).unwrap_or_default());
        }
        let request = proto::WatchRequest {
            route: Some(proto::Route { partition: self.session.options.partition, slot_table_version: 0 }),
            tree: self.tree.clone(),
            prefix: self.prefix.clone(),
            after: self.position.as_ref().filter(|token| !token.is_empty()).map(Token::to_proto),
        };
        let answer = tokio::time::timeout(SILENCE, client.watch(request)).await;
        let stream = answer.map_err(silent)?.map_err(failed)?.into_inner();
        Ok((stream, Arc::clone(&connection)))
    }
}

fn change(event: proto::WatchEvent) -> Change {
    Change {
        key: event.key,
        value: event.value.map(Value::from_proto),
        version: Version::from_proto(&event.version.unwrap_or_default()),
    }
}
