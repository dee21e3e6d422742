//! Every byte the engine writes: one file a structure, each with golden-byte tests. `docs/formats.md` is the
//! same in prose.
//!
//! All integers are little-endian. Nothing here does I/O or keeps state: bytes in, values out. Reading checks
//! bounds before it looks, the CRC over the claimed extent before it believes, and refuses what it does not
//! know: an unknown kind or a newer format is never skipped.

pub(crate) mod codec;
pub(crate) mod crc;
pub(crate) mod manifest;
pub(crate) mod node_meta;
pub(crate) mod notes;
pub(crate) mod record;
pub(crate) mod segment_header;
pub(crate) mod shard_meta;
pub(crate) mod slots;

/// The format level this version writes.
pub(crate) const FORMAT_LEVEL: u32 = 1;
/// The oldest format level this version reads.
pub(crate) const FORMAT_MIN: u32 = 1;
/// The newest format level this version reads.
pub(crate) const FORMAT_MAX: u32 = 1;
