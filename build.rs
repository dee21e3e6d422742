//! Compiles the protocol definitions without a system `protoc`, and keeps the descriptors for reflection.

use std::path::PathBuf;

use prost::Message as _;

const PROTOS: [&str; 3] = ["armdb/v1/kv.proto", "armdb/v1/peer.proto", "armdb/v1/local.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
