//! The wire: generated messages and services of `proto/armdb/v1`.

pub(crate) mod listen;
pub mod peer;
pub mod pki;
pub mod tls;
pub(crate) mod wire;

/// Generated from `proto/armdb/v1`: clients, servers and messages.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto {
    tonic::include_proto!("armdb.v1");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
