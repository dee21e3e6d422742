//! One member: engine, replication, services, lifecycle.
//!
//! ```text
//! run          the process: listeners, opening, serving, SIGTERM
//! config       the configuration file; the bounds computed from it
//! member       the replicated member: roles over the engine
//! replica      the seam between the member and the client services
//! kv_service   the Kv service's unary calls        kv_stream   its pipelined stream
//! reads, scan, writes, watch                        what the operations are, without any waiting
//! peer_port    the peer port's door                peer_service   its services
//! listener, intake, admission                       what is let in: connections, frames, bytes
//! errors       every refusal, typed
//! http, health, metrics                             probes and measurements
//! ```

mod admission;
pub mod config;
mod core;
mod errors;
mod health;
pub(crate) mod http;
mod intake;
mod kv_service;
mod kv_stream;
mod listener;
pub mod member;
mod metrics;
mod peer_port;
mod peer_service;
mod reads;
pub mod replica;
pub mod run;
mod scan;
mod watch;
mod writes;

#[cfg(test)]
mod tests;
