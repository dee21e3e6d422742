//! The structures on disk, one by one. Checksums are made right first, or a fuzzer would never get past them.

use super::Input;
use crate::engine::filter::KeyFilter;
use crate::engine::format::manifest::{FileEnd, FileEntry, Manifest};
use crate::engine::format::node_meta::{NODE_META_MAGIC, NodeRecord, Purpose};
use crate::engine::format::notes::{Barrier, Mark, Seal, decode_catalog, encode_catalog};
use crate::engine::format::record::{CLIENT, Draft, HEADER_BYTES, Kind, Parsed, Record, stamp};
use crate::engine::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::format::shard_meta::{SHARD_META_MAGIC, ShardMeta};
use crate::engine::format::slots;
use crate::engine::hint::{Hint, HintBuilder, HintEntry, HintSubject};
use crate::engine::recovery::scan;
use crate::engine::{InitState, LastConfig, NodeMeta, ShardState, TreeId, TreeInfo, TreeKind};
use crate::ident::{ClusterId, Sid};
use crate::position::{EpochTable, LogPosition, LogTail};

type Seeds = Vec<(String, Vec<u8>)>;

// --- records ---------------------------------------------------------------------------------------------------

/// Gives the record at the start of `bytes` the checksum that it should have; its length, if it fits.
pub(super) fn mend_record(bytes: &mut [u8]) -> Option<usize> {
    let len = Record::peek(bytes)?.len();
    let gsn = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    let body = crc32c::crc32c(&bytes[HEADER_BYTES..len]);
    stamp(&mut bytes[..len], gsn, body);
    Some(len)
}

pub(super) fn record(data: &[u8]) {
    let mut bytes = data.to_vec();
    for mend in [false, true] {
        if mend {
            mend_record(&mut bytes);
        }
        let Parsed::Record(record) = Record::parse(&bytes) else { continue };
        let _ = (Mark::decode(&record), Seal::decode(&record), Barrier::decode(&record));
        if let Some(tree) = decode_catalog(&record) {
            let again = stamped(record.gsn(), |out| encode_catalog(&tree, record.more(), out));
            assert_eq!(Record::peek(&again).and_then(|again| decode_catalog(&again)), Some(tree));
        }
        if record.flags() & CLIENT != 0 {
            // Reserved: nothing writes it yet.
            continue;
        }
        let draft = Draft {
            kind: record.kind(),
            more: record.more(),
            tree: record.tree(),
            value_type: record.value_type(),
            expires_ms: record.expires_ms(),
            key: record.key(),
            value: record.value(),
        };
        let mut again = Vec::new();
        draft.encode_stamped(record.gsn(), &mut again);
        assert_eq!(again, record.bytes(), "what decodes is encoded to the same bytes");
    }
}

fn put(gsn: u64, key: &str, value: &[u8], more: bool, expires_ms: Option<u64>) -> Vec<u8> {
    let draft = Draft { kind: Kind::Put, more, tree: 0, value_type: 1, expires_ms, key: key.as_bytes(), value };
    let mut out = Vec::new();
    draft.encode_stamped(gsn, &mut out);
    out
}

fn stamped(gsn: u64, encode: impl FnOnce(&mut Vec<u8>) -> u32) -> Vec<u8> {
    let mut out = Vec::new();
    let crc = encode(&mut out);
    stamp(&mut out, gsn, crc);
    out
}

pub(super) fn record_seeds() -> Seeds {
    let side = TreeInfo { id: TreeId(4), name: "side".into(), kind: TreeKind::Hash };
    let catalog = stamped(8, |out| encode_catalog(&side, false, out));
    let mut delete = Vec::new();
    let draft =
        Draft { kind: Kind::Delete, more: true, tree: 2, value_type: 0, expires_ms: None, key: b"gone", value: b"" };
    draft.encode_stamped(9, &mut delete);
    vec![
        ("put".into(), put(5, "key", b"value", false, None)),
        ("expiring".into(), put(6, "k", b"0123456789", true, Some(77))),
        ("delete".into(), delete),
        ("barrier".into(), stamped(7, |out| Barrier { epoch: 3, time_ms: 99 }.encode(out))),
        ("catalog".into(), catalog),
    ]
}

// --- segments --------------------------------------------------------------------------------------------------

const FILE_ID: u32 = 3;

fn header(compacted: bool) -> SegmentHeader {
    SegmentHeader { shard: 0, compacted, cluster_id: 0, file_id: FILE_ID, base_gsn: 1, epoch: 0, chain: 0 }
}

/// First byte: bit 0 an output of compaction, bit 1 checksums are made right, bit 2 the length is known.
pub(super) fn segment(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let header = header(how & 1 != 0);
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(input.rest());
    if how & 2 != 0 {
        let mut at = SEGMENT_HEADER_BYTES as usize;
        while at < bytes.len() {
            match mend_record(&mut bytes[at..]) {
                Some(len) => at += len,
                None => break,
            }
        }
    }
    let len = (how & 4 != 0).then_some(bytes.len() as u64);
    let found = scan(&bytes, &header, len);
    assert!(found.end <= bytes.len() as u64 && found.end >= SEGMENT_HEADER_BYTES);
    let (mut gsn, mut end) = (found.entries.first().map_or(1, |entry| entry.tail.last.gsn), SEGMENT_HEADER_BYTES);
    for entry in &found.entries {
        let Parsed::Record(record) = Record::parse(&bytes[entry.offset as usize..]) else {
            panic!("an entry at {} that does not verify", entry.offset);
        };
        assert!(entry.offset >= end, "entries do not overlap");
        end = entry.offset + record.len() as u64;
        assert_eq!((record.gsn(), record.kind()), (entry.tail.last.gsn, entry.kind));
        assert!(if header.compacted { entry.tail.last.gsn >= gsn } else { entry.tail.last.gsn == gsn });
        gsn = entry.tail.last.gsn + u64::from(!header.compacted);
    }
    assert!(found.entries.last().is_none_or(|last| last.batch_end), "batches are whole");
    assert!(found.entries.len() <= bytes.len() / HEADER_BYTES, "no more memory than the file");
}

pub(super) fn segment_seeds() -> Seeds {
    let mut log = stamped(1, |out| Barrier { epoch: 1, time_ms: 5 }.encode(out));
    log.extend(put(2, "a", b"one", true, None));
    log.extend(put(3, "b", b"two", false, Some(9)));
    let mark = |offset| Mark { file_id: FILE_ID, offset, durable: LogTail::default(), commit: 0, committed_time_ms: 0 };
    let mut marked = Vec::new();
    mark(SEGMENT_HEADER_BYTES).encode(&mut marked);
    marked.extend_from_slice(&log);
    let compacted = [put(2, "a", b"one", false, None), put(7, "b", b"two", false, None)].concat();
    let mut torn = marked.clone();
    let last = torn.len() - 9;
    torn[last] ^= 1;
    vec![
        ("log".into(), [&[2][..], &log].concat()),
        ("marked".into(), [&[2][..], &marked, &[0; 64]].concat()),
        ("compacted".into(), [&[7][..], &compacted].concat()),
        ("torn".into(), [&[0][..], &torn, &[0; 32]].concat()),
    ]
}

// --- slots -----------------------------------------------------------------------------------------------------

/// Two slots as they stand on disk, made of the input: a first byte, then payload and payload, or bytes as they are.
pub(super) fn slot_file(magic: &[u8; 8], data: &[u8]) -> Vec<u8> {
    let mut input = Input(data);
    let how = input.u8();
    if how & 1 == 0 {
        return input.rest().to_vec();
    }
    let (seqs, len) = ((u64::from(input.u8()), u64::from(input.u8())), usize::from(input.u16()));
    let first = slots::encode(magic, seqs.0, input.bytes(len.min(slots::PAYLOAD_MAX)));
    let rest = input.rest();
    let second = slots::encode(magic, seqs.1, &rest[..rest.len().min(slots::PAYLOAD_MAX)]);
    [first, second].concat()
}

fn payloads(magic: &[u8; 8], data: &[u8]) -> Vec<Vec<u8>> {
    let Some(newest) = slots::newest(magic, &slot_file(magic, data)) else { return Vec::new() };
    assert!(newest.slot < 2 && newest.payload.len() <= slots::PAYLOAD_MAX);
    let again = slots::encode(magic, newest.seq, &newest.payload);
    let found = slots::newest(magic, &again).expect("what was written is read");
    assert_eq!((found.seq, &found.payload), (newest.seq, &newest.payload));
    [Some(newest.payload), newest.older].into_iter().flatten().collect()
}

pub(super) fn node_meta(data: &[u8]) {
    for payload in payloads(NODE_META_MAGIC, data) {
        let _ = NodeRecord::formats(&payload);
        if let Ok(record) = NodeRecord::decode(&payload) {
            assert_eq!(record.encode(), payload, "what decodes is encoded to the same bytes");
        }
    }
}

pub(super) fn shard_meta(data: &[u8]) {
    for payload in payloads(SHARD_META_MAGIC, data) {
        if let Ok(meta) = ShardMeta::decode(&payload) {
            assert_eq!(meta.encode(), payload, "what decodes is encoded to the same bytes");
        }
    }
}

/// An input for [`slot_file`].
fn two_payloads(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&[1, 4, 5][..], &(first.len() as u16).to_le_bytes(), first, second].concat()
}

pub(super) fn node_meta_seeds() -> Seeds {
    let config = LastConfig { epoch: 8, voters: vec![Sid(1), Sid(2), Sid(3)], write_quorum: 2, min_voters: 2 };
    let record = |last_config| NodeRecord {
        meta: NodeMeta {
            cluster_id: Some(ClusterId(5)),
            sid: Sid(1),
            lineage: 1,
            shards: 4,
            open_count: 17,
            boot_id: [9; 16],
            clean: false,
            promised: 8,
            led: 7,
            init: InitState::Done,
            last_config,
            format_level: 1,
            format_min: 1,
            format_max: 1,
        },
        purpose: Purpose::Member,
        hash_seed: 99,
        relaxed: true,
    };
    let (small, large) = (record(None).encode(), record(Some(config)).encode());
    let file = [slots::encode(NODE_META_MAGIC, 1, &small), slots::encode(NODE_META_MAGIC, 2, &large)].concat();
    vec![("payloads".into(), two_payloads(&small, &large)), ("file".into(), [&[0][..], &file[..4400]].concat())]
}

pub(super) fn shard_meta_seeds() -> Seeds {
    let state = |state| ShardMeta { state, manifest: 3, manifest_len: 120, manifest_crc: 77 }.encode();
    let quarantined = state(ShardState::Quarantined { reason: "rot in 0000000001.seg".into(), alarm: true });
    vec![
        ("payloads".into(), two_payloads(&state(ShardState::Ready), &quarantined)),
        ("blank".into(), two_payloads(&ShardMeta::blank().encode(), &state(ShardState::Syncing))),
    ]
}

// --- manifests -------------------------------------------------------------------------------------------------

/// The input with its checksum behind it.
pub(super) fn with_crc32(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.extend(crc32fast::hash(data).to_le_bytes());
    bytes
}

pub(super) fn manifest(data: &[u8]) {
    let _ = Manifest::decode(data);
    let bytes = with_crc32(data);
    if let Ok(manifest) = Manifest::decode(&bytes) {
        assert_eq!(manifest.encode(), bytes, "what decodes is encoded to the same bytes");
        assert!(manifest.files.len() * 56 + manifest.drops.len() * 4 <= bytes.len(), "no more memory than the file");
    }
}

pub(super) fn manifest_seeds() -> Seeds {
    let tail = |epoch, gsn, chain| LogTail { last: LogPosition::new(epoch, gsn), chain };
    let manifest = Manifest {
        seq: 7,
        shard: 0,
        next_file_id: 9,
        log_floor: 11,
        tombstone_floor: 4,
        commit: 20,
        committed_time_ms: 1_000,
        mark: tail(2, 30, 5),
        epochs: EpochTable::from_starts(vec![LogPosition::new(1, 1), LogPosition::new(2, 25)]).expect("ascending"),
        files: vec![
            FileEntry {
                id: 3,
                compacted: false,
                before: tail(1, 10, 8),
                end: Some(FileEnd { len: 4096, last: tail(2, 30, 5) }),
                prepared: false,
            },
            FileEntry::active(5, tail(2, 30, 5)),
            FileEntry {
                id: 4,
                compacted: true,
                before: tail(1, 1, 0),
                end: Some(FileEnd { len: 640, last: tail(1, 9, 0) }),
                prepared: false,
            },
        ],
        adopted: [3].into(),
        drops: vec![6, 7],
        trees: vec![TreeInfo { id: TreeId(2), name: "side".into(), kind: TreeKind::Hash }],
    };
    let body = |bytes: Vec<u8>| bytes[..bytes.len() - 4].to_vec();
    let empty = Manifest { seq: 1, next_file_id: 1, log_floor: 1, ..Manifest::default() };
    vec![("full".into(), body(manifest.encode())), ("empty".into(), body(empty.encode()))]
}

// --- hints -----------------------------------------------------------------------------------------------------

/// What a hint claims to be about.
fn subject(bytes: &[u8]) -> Option<HintSubject> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let chain = u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?);
    Some(HintSubject { file_id: u64_at(16)?, len_bytes: u64_at(24)?, chain, hash_seed: u64_at(32)? })
}

pub(super) fn hint(data: &[u8]) {
    let Some(subject) = subject(data) else { return };
    let bytes = with_crc32(data);
    let Some(hint) = Hint::from_bytes(&bytes, subject) else { return };
    assert_eq!(hint.entries().count() as u64, hint.count());
    for entry in hint.entries() {
        assert!(entry.offset_bytes + entry.len_bytes <= subject.len_bytes, "it points into its file");
        let _ = hint.filter.may_contain(entry.hash);
    }
    assert_eq!(hint.to_bytes(), bytes, "what decodes is encoded to the same bytes");
}

pub(super) fn hint_seeds() -> Seeds {
    let subject = HintSubject { file_id: 3, len_bytes: 4096, chain: 7, hash_seed: 9 };
    let mut builder = HintBuilder::default();
    for (i, kind) in [Kind::Put, Kind::Delete, Kind::Catalog].into_iter().enumerate() {
        let i = i as u64 + 1;
        builder.push(&HintEntry {
            hash: i * 0x1234_5678_9abc,
            gsn: i,
            expires_ms: i * 5,
            offset_bytes: i * 64,
            len_bytes: 64,
            tree: 0,
            kind,
            key: b"some-key",
        });
    }
    let full = builder.finish(subject, 1, 3, 55).to_bytes();
    let empty = HintBuilder::default().finish(subject, 0, 0, 0).to_bytes();
    let body = |bytes: Vec<u8>| bytes[..bytes.len() - 4].to_vec();
    vec![("full".into(), body(full)), ("empty".into(), body(empty))]
}

pub(super) fn filter(data: &[u8]) {
    if let Ok(filter) = KeyFilter::from_bytes(data) {
        assert_eq!(filter.to_bytes(), data, "what decodes is encoded to the same bytes");
        for hash in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let _ = filter.may_contain(hash);
        }
    }
    let hashes: Vec<u64> = data.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
    let filter = KeyFilter::build(&hashes);
    assert!(hashes.iter().all(|hash| filter.may_contain(*hash)), "what is in is never denied");
}

pub(super) fn filter_seeds() -> Seeds {
    let filter = |hashes: &[u64]| KeyFilter::build(hashes).to_bytes();
    vec![("three".into(), filter(&[1, 2, 3])), ("none".into(), filter(&[]))]
}
