//! Whole directories: damaged ones, forged ones, and a follower's that is sent forged chunks.
//!
//! The directory that is spoilt is made once: two segments, a truncated branch, outputs of compaction with their hints,
//! an expired key, deletes. Everything that was ever written is known by key and version.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::Input;
use super::formats::{mend_record, slot_file, with_crc32};
use crate::disk::{CrashDisk, Disk, Image, Keep};
use crate::engine::format::node_meta::NODE_META_MAGIC;
use crate::engine::format::record::{Draft, Kind};
use crate::engine::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::engine::format::shard_meta::{SHARD_META_MAGIC, ShardMeta};
use crate::engine::format::slots;
use crate::engine::{
    Background, Durability, Engine, EngineError, EngineOptions, Format, LogChunk, Retention, ScanRange, Shard,
    ShardState, TreeId, WriteBatch, WriteOp,
};
use crate::ident::{InstanceId, Sid};
use crate::position::LogTail;

type Seeds = Vec<(String, Vec<u8>)>;

const DIR: &str = "/data";
const NOW_MS: u64 = 1_000_000;

struct Golden {
    image: Image,
    /// Files by name, with their bytes.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Everything that was ever put, by key, epoch and gsn.
    written: BTreeMap<(Vec<u8>, u64, u64), Vec<u8>>,
    /// The log: what entry `i + 1` did to which key, and the log's end if its batch ends there.
    log: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    key: Option<(Vec<u8>, Option<Vec<u8>>)>,
    end: Option<LogTail>,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(make);

fn options() -> EngineOptions {
    EngineOptions {
        durability: Durability::Disk,
        segment_bytes: 16 << 10,
        zero_ahead_bytes: 4 << 10,
        max_value_bytes: 2 << 10,
        memory_budget_bytes: 1 << 20,
        background: Background::Manual,
        boot_id: Some([1; 16]),
        retention: Retention { min_bytes: 0, min_age: std::time::Duration::ZERO, max_bytes: None },
        ..EngineOptions::default()
    }
}

fn open(disk: &CrashDisk) -> Result<Arc<Engine>, EngineError> {
    Engine::open(Arc::new(disk.clone()), Path::new(DIR), options(), InstanceId(1))
}

fn formatted() -> CrashDisk {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Engine::format(&shared, Path::new(DIR), &Format { sid: Sid(7), shards: 1 }).expect("formatted");
    disk
}

fn make() -> Golden {
    let disk = formatted();
    let engine = open(&disk).expect("opened");
    let shard = &engine.shards()[0];
    shard.set_state(ShardState::Ready).expect("ready");
    let (mut written, mut log) = (BTreeMap::new(), Vec::new());
    let mut epoch = 0;
    let mut next_epoch = |log: &mut Vec<Entry>| {
        epoch += 1;
        let end = shard.open_epoch(epoch, NOW_MS).expect("opened");
        log.push(Entry { key: None, end: Some(end) });
        epoch
    };
    let mut led = next_epoch(&mut log);
    for i in 0..340u64 {
        let key = format!("key{:02}", i * 7 % 19).into_bytes();
        let value: Vec<u8> = (0..120 + i % 40).map(|byte| (byte * 31 + i) as u8).collect();
        let mut batch = WriteBatch::new();
        let mut entries = Vec::new();
        let deletes = i % 11 == 10;
        if deletes {
            batch = batch.delete(key.clone());
            entries.push((key.clone(), None));
        }
        let expires_ms = (i % 23 == 5).then_some(NOW_MS + 1);
        let put = WriteOp::Put {
            tree: TreeId::DEFAULT,
            key: if deletes { b"beside".to_vec() } else { key.clone() }.into(),
            value: value.clone().into(),
            expires_ms,
            value_type: 0,
        };
        entries.push((if deletes { b"beside".to_vec() } else { key }, Some((value, expires_ms))));
        shard.append(led, &batch.op(put)).expect("appended");
        for (key, value) in entries {
            let gsn = log.len() as u64 + 1;
            if let Some((bytes, _)) = &value {
                written.insert((key.clone(), led, gsn), bytes.clone());
            }
            // It is looked at when that one has expired.
            let live = value.filter(|(_, expires_ms)| expires_ms.is_none()).map(|(bytes, _)| bytes);
            log.push(Entry { key: Some((key, live)), end: None });
        }
        log.last_mut().expect("just pushed").end = Some(shard.tail());
        if i == 60 {
            // A branch that is given up.
            let keep = shard.tail().last.gsn - 3;
            shard.truncate_to(keep).expect("truncated");
            log.truncate(keep as usize);
            led = next_epoch(&mut log);
        }
        if i % 9 == 8 {
            engine.sync_all().expect("synced");
            if i < 310 {
                shard.advance_commit(shard.tail().last.gsn);
            }
        }
        // Once to the end, and once a little: a few files are left that have a hint and no more.
        let steps = match i {
            110 => usize::MAX,
            300 => 2,
            _ => 0,
        };
        for _ in 0..steps {
            if !engine.compact_step().expect("works") {
                break;
            }
        }
    }
    engine.sync_all().expect("synced");
    drop(engine);
    let image = disk.moment().crash(&mut |_, _| Keep::Keep);
    let mut files = Vec::new();
    for dir in [DIR.into(), Path::new(DIR).join("shard-000")] {
        for entry in disk.list(&dir).expect("listed").iter().filter(|entry| !entry.is_dir) {
            let path = dir.join(&entry.name);
            files.push((path.clone(), read(&disk, &path)));
        }
    }
    let kinds = |end: &str| files.iter().filter(|(path, _)| path.to_string_lossy().ends_with(end)).count();
    let (segments, hints) = (kinds(".seg"), kinds(".hint"));
    assert!(segments > 2 && hints > 0, "{segments} segments and outputs of compaction, {hints} hints");
    Golden { image, files, written, log }
}

fn read(disk: &CrashDisk, path: &Path) -> Vec<u8> {
    let file = disk.open_read(path).expect("there");
    let mut bytes = vec![0; file.len().expect("measured") as usize];
    file.read_at(&mut bytes, 0).expect("read");
    bytes
}

fn replace(disk: &CrashDisk, path: &Path, bytes: &[u8]) {
    let _ = disk.remove_file(path);
    let file = disk.create(path).expect("created");
    file.write_at(&[IoSlice::new(bytes)], 0).expect("written");
    file.sync_data().expect("synced");
    disk.sync_dir(path.parent().expect("a directory")).expect("synced");
}

impl Golden {
    fn file(&self, number: u8) -> &(PathBuf, Vec<u8>) {
        &self.files[usize::from(number) % self.files.len()]
    }

    /// The contents with the log up to `gsn`.
    fn contents(&self, gsn: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        for (key, value) in self.log[..gsn as usize].iter().filter_map(|entry| entry.key.as_ref()) {
            match value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        all
    }
}

/// Some edits of the directory's bytes: what opens says that it is damaged, or holds exactly what was written.
pub(super) fn damage(data: &[u8]) {
    let golden = &*GOLDEN;
    let disk = golden.image.disk();
    let mut input = Input(data);
    let mut stale = false;
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let (path, bytes) = golden.file(input.u8());
        let (how, at, len) = (input.u8(), usize::from(input.u16()), usize::from(input.u8()) + 1);
        let mut bytes = if disk.exists(path).expect("looked") { read(&disk, path) } else { bytes.clone() };
        let at = at.min(bytes.len());
        match how % 7 {
            0 => {
                let new = input.bytes(len);
                let end = (at + new.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            }
            1 => {
                let bit = 1 << (len % 8);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
            }
            2 => bytes.iter_mut().skip(at).take(len * 16).for_each(|byte| *byte = 0),
            3 => bytes.truncate(at),
            4 => {
                // Sound bytes where they do not belong: an older state of this file, or of another.
                stale = true;
                let (_, other) = golden.file(input.u8());
                let from = usize::from(input.u16()).min(other.len());
                let n = (len * 64).min(other.len() - from).min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&other[from..from + n]);
            }
            5 => {
                let _ = disk.remove_file(path);
                continue;
            }
            _ => bytes.extend(std::iter::repeat_n(len as u8, len)),
        }
        replace(&disk, path, &bytes);
    }
    let Ok(engine) = open(&disk) else { return };
    let shard = &engine.shards()[0];
    if shard.state() != ShardState::Ready {
        return;
    }
    let tail = shard.tail();
    shard.advance_commit(tail.last.gsn);
    let page = shard.scan(TreeId::DEFAULT, &ScanRange::all(), 1000, 1 << 20, NOW_MS + 10);
    if let Ok(page) = &page {
        for (key, value) in &page.entries {
            let version = (key.to_vec(), value.version.epoch, value.version.gsn);
            let right = golden.written.get(&version).is_some_and(|written| *written == value.bytes);
            assert!(right, "{} was never written with {:?}", key.escape_ascii(), value.version);
        }
    }
    if stale {
        return;
    }
    let entry = tail.last.gsn.checked_sub(1).map(|at| golden.log[at as usize].end);
    assert_eq!(entry.unwrap_or(Some(LogTail::default())), Some(tail), "it ends where a batch ended");
    let want = golden.contents(tail.last.gsn);
    if let Ok(page) = page {
        let found: BTreeMap<_, _> = page.entries.iter().map(|(k, v)| (k.to_vec(), v.bytes.to_vec())).collect();
        assert!(found == want, "a scan tells of {} keys, {} are due", found.len(), want.len());
    }
    for n in 0..19 {
        let key = format!("key{n:02}").into_bytes();
        if let Ok(value) = shard.get(TreeId::DEFAULT, &key, NOW_MS + 10) {
            assert_eq!(value.map(|v| v.bytes.to_vec()).as_ref(), want.get(&key), "{}", key.escape_ascii());
        }
    }
    exercise(&engine);
}

/// A file number, a way, a place and a length.
fn edit(file: u8, how: u8, at: u16, len: u8, bytes: &[u8]) -> Vec<u8> {
    [&[file, how][..], &at.to_le_bytes(), &[len], bytes].concat()
}

pub(super) fn damage_seeds() -> Seeds {
    vec![
        ("none".into(), Vec::new()),
        ("flip".into(), edit(5, 1, 300, 2, &[])),
        ("zeros".into(), edit(6, 2, 4000, 20, &[])),
        ("shorter".into(), edit(4, 3, 2000, 0, &[])),
        ("stale".into(), edit(2, 4, 0, 63, &[2, 0, 16])),
        ("gone".into(), edit(7, 5, 0, 0, &[])),
        ("two".into(), [edit(5, 0, 70, 3, b"abcd"), edit(8, 1, 90, 1, &[])].concat()),
    ]
}

/// Everything that can be done with what was opened, without regard to how it ends.
fn exercise(engine: &Arc<Engine>) {
    let shard = &engine.shards()[0];
    let _ = shard.verify();
    let tail = shard.tail().last.gsn;
    shard.advance_commit(tail);
    let _ = shard.scan(TreeId::DEFAULT, &ScanRange::all(), 1000, 1 << 20, NOW_MS);
    let _ = shard.get(TreeId::DEFAULT, b"key05", NOW_MS);
    if let Ok(mut reader) = shard.log_reader(shard.log_floor().saturating_sub(1)) {
        while let Ok(Some(_)) = reader.next_chunk(4096) {}
    }
    for _ in 0..3 {
        if !matches!(engine.compact_step(), Ok(true)) {
            break;
        }
    }
    let epoch = shard.tail().last.epoch.saturating_add(1);
    if shard.state() == ShardState::Ready && shard.open_epoch(epoch, NOW_MS).is_ok() {
        let _ = shard.append(epoch, &WriteBatch::new().put("key05", "new"));
        let _ = engine.sync_all();
    }
    let _ = engine.close();
}

/// One file is replaced by the input, with every checksum made right: whatever it says, nobody panics.
pub(super) fn forged(data: &[u8]) {
    let golden = &*GOLDEN;
    let disk = golden.image.disk();
    let mut input = Input(data);
    let (path, old) = golden.file(input.u8());
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    let rest = input.rest();
    let bytes = match name.as_str() {
        "node.meta" => slot_file(NODE_META_MAGIC, rest),
        "shard.meta" => slot_file(SHARD_META_MAGIC, rest),
        name if name.starts_with("MANIFEST") => {
            let bytes = with_crc32(rest);
            name_manifest(&disk, &name["MANIFEST-".len()..], &bytes);
            bytes
        }
        name if name.ends_with(".hint") => with_crc32(rest),
        name if name.ends_with(".seg") => {
            // The header stays, or nothing behind it would be looked at.
            let mut bytes = [&old[..SEGMENT_HEADER_BYTES as usize], rest].concat();
            let mut at = SEGMENT_HEADER_BYTES as usize;
            while let Some(len) = mend_record(&mut bytes[at..]) {
                at += len;
            }
            bytes.resize(bytes.len().max(old.len()), 0);
            bytes
        }
        _ => rest.to_vec(),
    };
    replace(&disk, path, &bytes);
    if let Ok(engine) = open(&disk) {
        exercise(&engine);
        drop(engine);
        let _ = open(&disk);
    }
}

/// Makes `shard.meta` name this manifest.
fn name_manifest(disk: &CrashDisk, seq: &str, bytes: &[u8]) {
    let path = Path::new(DIR).join("shard-000/shard.meta");
    let meta = ShardMeta {
        state: ShardState::Ready,
        manifest: seq.parse().expect("a number"),
        manifest_len: bytes.len() as u32,
        manifest_crc: crc32fast::hash(bytes),
    };
    let both = [100, 99].map(|seq| slots::encode(SHARD_META_MAGIC, seq, &meta.encode()));
    replace(disk, &path, &both.concat());
}

pub(super) fn forged_seeds() -> Seeds {
    let golden = &*GOLDEN;
    let mut seeds = Vec::new();
    for (number, (path, bytes)) in (0u8..).zip(&golden.files) {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let payload = |magic| {
            let newest = slots::newest(magic, bytes).expect("sound");
            let other = newest.older.unwrap_or_default();
            [&[1, 9, 8][..], &(newest.payload.len() as u16).to_le_bytes(), &newest.payload, &other].concat()
        };
        let content = match name.as_str() {
            "node.meta" => payload(NODE_META_MAGIC),
            "shard.meta" => payload(SHARD_META_MAGIC),
            name if name.starts_with("MANIFEST") || name.ends_with(".hint") => bytes[..bytes.len() - 4].to_vec(),
            name if name.ends_with(".seg") => bytes[SEGMENT_HEADER_BYTES as usize..bytes.len().min(700)].to_vec(),
            _ => continue,
        };
        seeds.push((name, [&[number][..], &content].concat()));
    }
    seeds
}

/// A follower is sent chunks by a leader that nobody should believe.
pub(super) fn chunk(data: &[u8]) {
    let disk = formatted();
    let engine = open(&disk).expect("opened");
    let shard = engine.shards()[0].clone();
    shard.set_state(ShardState::Ready).expect("ready");
    let mut input = Input(data);
    while !input.is_empty() {
        let how = input.u8();
        let len = usize::from(input.u16());
        let mut bytes = input.bytes(len).to_vec();
        let chunk = claim(&shard, how, &mut bytes);
        let before = shard.tail();
        match shard.append_chunk(&chunk) {
            Ok(tail) => assert_eq!((tail, shard.tail()), (chunk.last, chunk.last)),
            Err(_) => assert_eq!(shard.tail(), before, "what is refused leaves the log as it was"),
        }
    }
    let tail = shard.tail();
    engine.sync_all().expect("synced");
    shard.advance_commit(tail.last.gsn);
    let scan = |shard: &Shard| shard.scan(TreeId::DEFAULT, &ScanRange::all(), 10_000, 1 << 24, 0).expect("scanned");
    let (entries, trees) = (scan(&shard).entries, engine.trees());
    drop((engine, shard));
    let engine = open(&disk).expect("it opens");
    let shard = &engine.shards()[0];
    assert_eq!((shard.state(), shard.tail()), (ShardState::Ready, tail), "what was taken is there");
    shard.advance_commit(tail.last.gsn);
    assert_eq!(scan(shard).entries, entries);
    assert_eq!(engine.trees(), trees);
    exercise(&engine);
}

/// A chunk that says what a sender of these records would say, but for what `how` has wrong.
fn claim(shard: &Shard, how: u8, bytes: &mut Vec<u8>) -> LogChunk {
    use crate::engine::format::notes::Barrier;
    use crate::engine::format::record::{Record, chain, stamp};
    let prev = shard.tail();
    let mut last = prev;
    let mut at = 0;
    if how & 1 == 0 {
        // Gsns and checksums as they are due.
        while let Some(len) = bytes.get(at..).and_then(Record::peek).map(|record| record.len()) {
            let body = crc32c::crc32c(&bytes[at + 24..at + len]);
            let crc = stamp(&mut bytes[at..at + len], last.last.gsn + 1, body);
            let record = Record::peek(&bytes[at..]).expect("just seen");
            if record.kind() == Kind::Barrier
                && let Ok(barrier) = Barrier::decode(&record)
            {
                last.last.epoch = barrier.epoch;
            }
            last.last.gsn += 1;
            last.chain = chain(last.chain, crc);
            at += len;
        }
        bytes.truncate(at);
    }
    let mut chunk = LogChunk {
        shard: shard.id(),
        epoch: last.last.epoch,
        prev,
        first_gsn: prev.last.gsn + 1,
        last,
        bytes: Bytes::copy_from_slice(bytes),
    };
    match how >> 1 {
        1 => chunk.shard += 1,
        2 => chunk.prev.last.gsn = u64::MAX,
        3 => chunk.prev.chain ^= 1,
        4 => (chunk.first_gsn, chunk.prev.last.gsn) = (0, u64::MAX),
        5 => chunk.epoch = chunk.epoch.wrapping_add(1),
        6 => chunk.last.last.gsn = u64::MAX,
        _ => {}
    }
    chunk
}

pub(super) fn chunk_seeds() -> Seeds {
    let draft = |kind, more, key: &'static [u8], value: &'static [u8]| {
        let mut out = Vec::new();
        let draft = Draft { kind, more, tree: 0, value_type: 0, expires_ms: None, key, value };
        draft.encode_stamped(0, &mut out);
        out
    };
    let barrier: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0];
    let epoch = draft(Kind::Barrier, false, b"", barrier);
    let batch = [draft(Kind::Put, true, b"a", b"one"), draft(Kind::Delete, false, b"b", b"")].concat();
    let tree = draft(Kind::Catalog, false, b"side", &[1]);
    let sent = |how: u8, bytes: &[u8]| [&[how][..], &(bytes.len() as u16).to_le_bytes(), bytes].concat();
    vec![
        ("epoch".into(), sent(0, &epoch)),
        ("batches".into(), [sent(0, &epoch), sent(0, &[batch.clone(), tree].concat())].concat()),
        ("wrong".into(), [sent(0, &epoch), sent(6, &batch), sent(8, &batch), sent(1, &batch)].concat()),
    ]
}
