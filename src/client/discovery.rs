//! Finding the leader: ask every known member at once, believe the first that says "I lead".
//!
//! Owns the addresses (those given, and those learned from answers), the channels to them, and what is known of the
//! cluster: its id and the newest (lineage, epoch) of a leader. An answer of another cluster or an older leader is
//! never believed. A member that does not answer delays nobody: a round ends soon after the others have spoken.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::error::{ConnectError, Hint, text_of};
use crate::net::proto::{self, kv_client::KvClient};

/// Once somebody has answered, the rest of a round gets this long.
const PATIENCE: Duration = Duration::from_millis(100);
/// Addresses that are remembered; a wrong answer must not fill the memory.
const MAX_ADDRESSES: usize = 64;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Only for peers that vanish without a word while nothing is in flight; generous, so that a busy machine is not
/// taken for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A member that leads.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) address: String,
    pub(super) epoch: u64,
}

/// What one round of questions brought.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) leader: Option<Found>,
    pub(super) answered: usize,
}

#[derive(Debug, Default)]
struct Known {
    /// Those given first, then those learned.
    addresses: Vec<String>,
    /// Set by the first leader that was found; afterwards no other cluster is believed.
    cluster_id: Option<String>,
    /// Of the newest leader heard of.
    newest: (u64, u64),
    /// What the last round met, for error messages.
    last: String,
}

/// What is known about the members.
#[derive(Debug)]
pub(super) struct Discovery {
    known: Mutex<Known>,
    channels: Mutex<HashMap<String, Channel>>,
    connect_timeout: Duration,
}

impl Discovery {
    /// Checks the endpoints; connects to nobody yet.
    pub(super) fn new(endpoints: &[String], connect_timeout: Duration) -> Result<Self, ConnectError> {
        let mut addresses = Vec::new();
        for endpoint in endpoints {
            let address = endpoint.trim().trim_start_matches("http://").trim_end_matches('/');
            let parsed = tonic::codegen::http::uri::Authority::try_from(address);
            if parsed.map_or(true, |authority| authority.port_u16().is_none() || authority.host().is_empty()) {
                return Err(ConnectError::BadEndpoint { endpoint: endpoint.clone() });
            }
            if !addresses.iter().any(|known| known == address) {
                addresses.push(address.to_owned());
            }
        }
        if addresses.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let known = Known { addresses, last: "nobody was asked yet".into(), ..Known::default() };
        Ok(Self { known: Mutex::new(known), channels: Mutex::new(HashMap::new()), connect_timeout })
    }

    /// Every address known.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.known.lock().addresses.clone()
    }

    /// The id of the cluster, once a leader of it was found.
    pub(super) fn cluster_id(&self) -> Option<String> {
        self.known.lock().cluster_id.clone()
    }

    /// What the last attempts met.
    pub(super) fn last(&self) -> String {
        self.known.lock().last.clone()
    }

    pub(super) fn note(&self, last: String) {
        self.known.lock().last = last;
    }

    /// A channel to a member; connects when it is first used.
    pub(super) fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("{address:?} is not an address: {error}"))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Forgets a channel that failed, so that the next use connects anew.
    pub(super) fn forget_channel(&self, address: &str) {
        self.channels.lock().remove(address);
    }

    /// Takes in a redirect. Returns where to go if it is news.
    pub(super) fn redirected(&self, hint: &Hint) -> Option<Found> {
        let mut known = self.known.lock();
        if hint.address.is_empty() || hint.epoch < known.newest.1 {
            return None;
        }
        known.newest.1 = hint.epoch;
        known.learn(&hint.address);
        Some(Found { address: hint.address.clone(), epoch: hint.epoch })
    }

    /// Asks one member.
    pub(super) async fn describe(&self, address: &str) -> Result<proto::DescribeResponse, String> {
        let channel = self.channel(address)?;
        let mut client = KvClient::new(channel);
        match tokio::time::timeout(self.connect_timeout, client.describe(proto::DescribeRequest {})).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                self.forget_channel(address);
                Err(text_of(&status))
            }
            Err(_) => {
                self.forget_channel(address);
                Err(format!("no answer within {:?}", self.connect_timeout))
            }
        }
    }

    /// Asks every known member but `except`, and those they name, until one says that it leads.
    pub(super) async fn round(&self, except: Option<&str>) -> Round {
        let mut asked = self.addresses();
        asked.retain(|address| Some(address.as_str()) != except);
        let mut answers = FuturesUnordered::new();
        let ask = |address: String| async move {
            let answer = self.describe(&address).await;
            (address, answer)
        };
        answers.extend(asked.iter().cloned().map(ask));
        let mut round = Round::default();
        let mut said = Vec::new();
        let patience = tokio::time::sleep(self.connect_timeout * 2);
        tokio::pin!(patience);
        loop {
            let (address, answer) = tokio::select! {
                next = answers.next() => match next {
                    Some(next) => next,
                    None => break,
                },
                () = &mut patience => break,
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(cause) => {
                    said.push(format!("{address}: {cause}"));
                    continue;
                }
            };
            if round.answered == 0 {
                patience.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
            }
            round.answered += 1;
            match self.known.lock().take_in(&address, &answer) {
                Ok(true) => {
                    round.leader = Some(Found { address, epoch: answer.epoch });
                    return round;
                }
                Ok(false) => said.push(format!("{address}: {} does not lead", answer.member)),
                Err(why) => said.push(format!("{address}: {why}")),
            }
            // Whoever was only just learned of is asked in the same round.
            for address in self.addresses() {
                if Some(address.as_str()) != except && !asked.contains(&address) {
                    asked.push(address.clone());
                    answers.push(ask(address));
                }
            }
        }
        said.extend(
            asked
                .iter()
                .filter(|a| !said.iter().any(|s| s.starts_with(&format!("{a}: "))))
                .map(|address| format!("{address}: no answer yet"))
                .collect::<Vec<_>>(),
        );
        said.sort();
        self.note(said.join("; "));
        round
    }
}

impl Known {
    fn learn(&mut self, address: &str) {
        if !address.is_empty()
            && self.addresses.len() < MAX_ADDRESSES
            && !self.addresses.iter().any(|known| known == address)
        {
            self.addresses.push(address.to_owned());
        }
    }

    /// Learns from an answer. True = this member leads, and none newer is known.
    fn take_in(&mut self, _address: &str, answer: &proto::DescribeResponse) -> Result<bool, String> {
        if let Some(cluster_id) = &self.cluster_id
            && !answer.cluster_id.is_empty()
            && *cluster_id != answer.cluster_id
        {
            return Err(format!("belongs to cluster {} ({}), not {cluster_id}", answer.cluster, answer.cluster_id));
        }
        if let Some(leader) = &answer.leader {
            self.learn(&leader.advertised_address);
            self.learn(&leader.address);
        }
        for member in &answer.members {
            self.learn(&member.client_address);
        }
        let theirs = (answer.lineage, answer.epoch);
        if !answer.leading {
            return Ok(false);
        }
        if theirs < self.newest {
            return Err(format!("says it leads epoch {}, but epoch {} is known", answer.epoch, self.newest.1));
        }
        self.newest = theirs;
        self.cluster_id.get_or_insert_with(|| answer.cluster_id.clone());
        Ok(true)
    }
}
