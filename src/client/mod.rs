//! The client library: what an application (and every data command of the CLI) talks to a cluster with.
//!
//! Owns: finding the leader from any member, following redirects, one pipelined stream to the leader with bounded
//! requests in flight, and the rules of what may be sent again:
//!
//! * a read is repeated until it is answered or its time is up;
//! * a write is repeated when it was certainly not done: it never left this process, or the member said so
//!   ([`NotLeader`](crate::net::proto::NotLeader), no quorum, overloaded, unavailable);
//! * a write of *unknown* outcome is never repeated here, with one exception that cannot be applied twice: a batch
//!   that expects a version of a key which it also writes. Everything else is [`WriteError::Indeterminate`].
//!
//! Operations that are submitted together on one key keep their order on the stream; after a redirect or a lost
//! connection only awaiting one before starting the next orders them.
//! Does not do: caching, transactions over several shards, choosing partitions (there is one so far).
//!
//! ```no_run
//! use armdb::client::{Batch, Client, ClientOptions, Scan, WriteError};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientOptions::new(["127.0.0.1:7101", "127.0.0.1:7102"])).await?;
//!
//! match client.put("greeting", "hello").await {
//!     Ok(written) => println!("version {}", written.versions[0]),
//!     // The cluster may have taken it: look before writing something else.
//!     Err(WriteError::Indeterminate { .. }) => println!("{:?}", client.get("greeting").await?),
//!     Err(error) => return Err(error.into()), // certainly not done
//! }
//!
//! if let Some(value) = client.get("greeting").await? {
//!     client.compare_and_swap("greeting", &value.version, "hello again").await?;
//! }
//! client.write(Batch::new().when_absent("a").put("a", "1").delete("b")).await?;
//!
//! let mut scan = client.scan(Scan::prefix("gr").limit(20));
//! while let Some(entry) = scan.next().await? {
//!     println!("{:?}", entry.key);
//! }
//! # Ok(())
//! # }
//! ```

mod batch;
mod connection;
mod describe;
mod discovery;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod operations;
mod options;
mod retry;
mod scan;
mod session;
#[cfg(test)]
mod tests;
mod value;
mod watch;

pub use batch::Batch;
pub use describe::{Description, LeaderInfo, MemberDescription};
pub use error::{ConnectError, ReadError, Refusal, WriteError};
pub use operations::{Client, Tree};
pub use options::{Ack, ClientOptions, PutOptions, ReadLevel, ReadOptions, WriteOptions};
pub use scan::{Scan, ScanPage, ScanStream};
pub use value::{Entry, ParsePositionError, Token, Value, Version, WriteOutcome, Written};
pub use watch::{Change, Changes, Watch, WatchOptions};
