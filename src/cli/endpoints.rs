//! Which cluster a command talks to, how it is reached, and how its refusals are told.
//!
//! `--endpoints` or `ARMDB_ENDPOINTS` name members; without them it is the local cluster in `--dir`: the directory
//! itself if it holds a `local.json`, else the only one below it that does.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::{Failure, Global};
use crate::client::{Client, ClientOptions, ConnectError, ReadError, ReadLevel, ReadOptions, Token, WriteError};
use crate::local::directory::{self, ClusterFile};

/// Options of every command that reads or writes data.
#[derive(Debug, Clone, clap::Args)]
pub struct DataArgs {
    /// The tree
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub tree: String,

    /// How long to try before giving up
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: f64,
}

impl DataArgs {
    /// Connects to the tree.
    pub async fn connect(&self, global: &Global) -> anyhow::Result<Client> {
        Ok(connect(global, self.timeout()).await?.tree(&self.tree))
    }

    /// The time limit.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }
}

/// How reads are done.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadArgs {
    /// What the read may see: everything acknowledged before it (linearizable, by the leader's lease, or read-index,
    /// by asking a quorum), or whatever one member has (local)
    #[arg(long, value_enum, default_value_t = Read::Linearizable, value_name = "LEVEL")]
    pub read: Read,

    /// From any member that is at most this far behind
    #[arg(long, value_name = "MILLIS", conflicts_with_all = ["read", "at_least"])]
    pub max_staleness: Option<u64>,

    /// From any member that has this token, as put -o json prints it
    #[arg(long, value_name = "TOKEN", conflicts_with = "read")]
    pub at_least: Option<Token>,

    /// From this member and no other: a name or host:port. Alone it means --read local
    #[arg(long, value_name = "MEMBER")]
    pub member: Option<String>,
}

/// The levels that need no argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum Read {
    Linearizable,
    ReadIndex,
    Local,
}

impl ReadArgs {
    /// The options for the client; a member's name is looked up.
    pub async fn options(&self, client: &Client, global: &Global) -> anyhow::Result<ReadOptions> {
        let level = match (self.max_staleness, &self.at_least) {
            (Some(millis), _) => ReadLevel::Bounded(Duration::from_millis(millis)),
            (None, Some(token)) => ReadLevel::AtLeast(token.clone()),
            (None, None) => match self.read {
                Read::Linearizable if self.member.is_some() => ReadLevel::Local,
                Read::Linearizable => ReadLevel::Linearizable,
                Read::ReadIndex => ReadLevel::ReadIndex,
                Read::Local => ReadLevel::Local,
            },
        };
        let member = match &self.member {
            None => None,
            Some(address) if address.contains(':') => Some(address.clone()),
            Some(name) => Some(address_of(name, client, global).await?),
        };
        Ok(ReadOptions { level, member, timeout: None })
    }
}

/// Where a member listens for clients.
async fn address_of(name: &str, client: &Client, global: &Global) -> anyhow::Result<String> {
    let mut known = Vec::new();
    if let Some((_, file)) = local(global)? {
        for member in &file.members {
            if member.name == name {
                return Ok(member.client.to_string());
            }
            known.push(member.name.clone());
        }
    } else {
        for (address, answer) in client.describe_all().await {
            let Ok(description) = answer else { continue };
            if description.member == name {
                return Ok(address);
            }
            known.push(description.member);
        }
    }
    Err(Failure::usage(format!("no member {name}: those that answer are {}", known.join(", "))).into())
}

/// The running local cluster that the command line means, with its directory; None if members were named and they
/// are not its members.
pub fn local(global: &Global) -> anyhow::Result<Option<(PathBuf, ClusterFile)>> {
    let named = !global.endpoints.is_empty();
    let dir = match directory::find(&global.dir) {
        Ok(dir) => dir,
        Err(_) if named => return Ok(None),
        Err(error) => return Err(Failure::usage(error.to_string()).into()),
    };
    let file = match ClusterFile::read(&dir) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(_) if named => return Ok(None),
        Err(error) => {
            let remedy = error.remedy();
            return Err(anyhow::Error::new(error).context(Failure::new("finding the local cluster").remedy(remedy)));
        }
    };
    let members = file.endpoints();
    let ours = global.endpoints.iter().all(|endpoint| members.contains(endpoint));
    Ok(ours.then_some((dir, file)))
}

/// Connects to the cluster.
pub async fn connect(global: &Global, timeout: Duration) -> anyhow::Result<Client> {
    let (endpoints, local) = if global.endpoints.is_empty() {
        let (dir, file) = local(global)?.ok_or_else(|| Failure::usage("no local cluster and no --endpoints"))?;
        (file.endpoints(), Some(dir))
    } else {
        (global.endpoints.clone(), None)
    };
    Client::connect(ClientOptions::new(endpoints).request_timeout(timeout)).await.map_err(|error| {
        let failure = match &error {
            ConnectError::NoEndpoints | ConnectError::BadEndpoint { .. } => Failure::usage(error.to_string()),
            ConnectError::Unreachable { .. } => Failure::unreachable(error.to_string()).remedy(match local {
                Some(dir) => {
                    format!("start the local cluster of {} again: armdb local -f FILE", dir.display())
                }
                None => "check --endpoints, and that the members run".into(),
            }),
        };
        failure.into()
    })
}

/// A key or value from the command line: its bytes, whatever they are.
pub fn bytes_of(argument: OsString) -> Bytes {
    Bytes::from(argument.into_vec())
}

/// Tells a failed read.
pub fn read_failed(what: &str, error: &ReadError) -> anyhow::Error {
    if error.refusal().is_transient() {
        Failure::unreachable(format!("{what}: {error}")).remedy("armdb status shows what is missing").into()
    } else {
        Failure::new(format!("{what}: {error}")).into()
    }
}

/// Tells a failed write.
pub fn write_failed(what: &str, error: &WriteError) -> anyhow::Error {
    match error {
        WriteError::Indeterminate { .. } => Failure::unknown(format!("{what}: {error}"))
            .remedy("read the key to see whether it was done; doing it again is safe if nothing else writes that key")
            .into(),
        WriteError::NotDone(refusal) if refusal.is_transient() => {
            Failure::unreachable(format!("{what}: {error}")).remedy("armdb status shows what is missing").into()
        }
        WriteError::NotDone(_) => Failure::new(format!("{what}: {error}")).into(),
    }
}

/// A time on the command line.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    if seconds > 0.0 && seconds <= 1e9 { Ok(seconds) } else { Err("more than 0 seconds are wanted".into()) }
}

/// A key as a person reads it in an error: the beginning of a long one.
pub fn shown(key: &[u8]) -> String {
    const SHOWN_BYTES: usize = 80;
    let text = String::from_utf8_lossy(&key[..key.len().min(SHOWN_BYTES)]).escape_debug().to_string();
    if key.len() > SHOWN_BYTES { format!("{text}… ({} bytes)", key.len()) } else { text }
}
