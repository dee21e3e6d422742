//! A page of a mapped file that cannot be read: the process ends with a note, and the next one checks the file.
//!
//! The process that ends is this test once more, in a child: it serves a read at the word of its parent, who has
//! shortened the file under its mapping meanwhile.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::disk::{CrashDisk, RealDisk};
use crate::engine::fault::{FAULT_NOTE, noted};
use crate::engine::segment::Segment;

const CHILD: &str = "ARMDB_TEST_FAULT_DIR";
const KEYS: u32 = 40;
const SHORT: u64 = 8192;

fn key(i: u32) -> Vec<u8> {
    format!("key{i}").into_bytes()
}

/// Writes, says where the last record of the first segment is, and reads it when told to.
fn child(dir: &Path) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let engine = open_with(&disk, dir, options());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    for i in 0..KEYS {
        put(shard, 1, &key(i), &[i as u8; 4000]);
    }
    commit_all(&engine);
    let first = shard.log_segments()[0].clone();
    let place = |i: u32| {
        let hash = shard.shared.hash(0, &key(i));
        shard.find(hash, 0, &key(i), |_, _, location| location).expect("it is there")
    };
    let i = (0..KEYS).rev().find(|&i| place(i).segment == first.slot).expect("some are in the first");
    println!("ready {} {}", place(i).offset_bytes(), first.path().display());
    std::io::stdin().read_exact(&mut [0]).expect("a word");
    let value = get(shard, &key(i));
    panic!("the page was read: {value:?}");
}

/// What is left of a child that read a page which was there no more: where it read, and what it said.
fn a_process_that_read_what_is_gone(dir: &Path, test: &str) -> (u64, String) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = lines.by_ref().map(|line| line.expect("text")).find(|line| line.contains("ready "));
    let ready = ready.expect("it says where its record is");
    let (_, place) = ready.split_once("ready ").expect("just found");
    let (offset, path) = place.split_once(' ').expect("two words");
    let offset: u64 = offset.parse().expect("a number");
    assert!(offset > SHORT, "the page that goes away is the record's");
    std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(SHORT)).expect("shortened");
    child.stdin.take().expect("piped").write_all(b"!").expect("told");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "it aborts: {said}");
    (offset, said)
}

fn segment(dir: &Path) -> std::path::PathBuf {
    dir.join("shard-000").join(Segment::file_name(1))
}

#[test]
fn a_page_that_is_gone_ends_the_process_and_the_next_one_quarantines_the_shard() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(Path::new(&dir));
    }
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().canonicalize().expect("it exists").join("data");
    let test = "engine::tests::fault::a_page_that_is_gone_ends_the_process_and_the_next_one_quarantines_the_shard";
    let (record, said) = a_process_that_read_what_is_gone(&dir, test);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let note = noted(&disk, &dir).expect("readable").expect("it is noted");
    assert_eq!(note.file, "shard-000/0000000001.seg");
    assert!((record..record + 4096).contains(&note.offset), "{note:?}, the record is at {record}");
    let sentence = format!("{} could not be read at offset {}", segment(&dir).display(), note.offset);
    assert!(said.contains(&sentence), "{said:?} says {sentence:?}");
    // What is left ends like a torn tail. It is none, also when the note is gone.
    for _ in 0..2 {
        let engine = Engine::open(disk.clone(), &dir, options(), InstanceId(3)).expect("it opens");
        let ShardState::Quarantined { reason, .. } = engine.shards()[0].state() else {
            panic!("it is {}", engine.shards()[0].state());
        };
        assert!(reason.contains("0000000001.seg") && reason.contains(&format!("offset {}", note.offset)), "{reason}");
        assert_eq!(noted(&disk, &dir).expect("readable"), None, "it was checked");
    }
}

#[test]
fn a_page_that_can_be_read_again_is_told_and_costs_nothing() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(Path::new(&dir));
    }
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("data");
    let test = "engine::tests::fault::a_page_that_can_be_read_again_is_told_and_costs_nothing";
    let copy = temp.path().join("copy");
    let keep = std::thread::scope(|scope| {
        let watched = scope.spawn(|| a_process_that_read_what_is_gone(&dir, test));
        watched.join().expect("no panic")
    });
    assert!(keep.1.contains("could not be read"));
    // The same history once more has the same bytes: they stand for a disk that has recovered.
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let engine = open_with(&disk, &copy, options());
    engine.shards()[0].open_epoch(1, 1).expect("opened");
    for i in 0..KEYS {
        put(&engine.shards()[0], 1, &key(i), &[i as u8; 4000]);
    }
    commit_all(&engine);
    drop(engine);
    std::fs::copy(segment(&copy), segment(&dir)).expect("whole again");
    assert!(noted(&disk, &dir).expect("readable").is_some());
    let engine = open_with(&disk, &dir, options());
    let shard = &engine.shards()[0];
    assert_eq!(shard.state(), ShardState::Ready);
    shard.advance_commit(shard.tail().last.gsn);
    assert!((0..KEYS).all(|i| get(shard, &key(i)) == Some(vec![i as u8; 4000])));
    assert_eq!(noted(&disk, &dir).expect("readable"), None);
}

#[test]
fn a_note_of_a_file_that_the_disk_cannot_read_quarantines_its_shard() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, Path::new("/data"), options());
    engine.shards()[0].open_epoch(1, 1).expect("opened");
    for i in 0..KEYS {
        put(&engine.shards()[0], 1, &key(i), &[i as u8; 4000]);
    }
    commit_all(&engine);
    drop(engine);
    let note = |file: &str| {
        let path = Path::new("/data").join(FAULT_NOTE);
        let file_of_it = if disk.exists(&path).expect("looked") { disk.open(&path) } else { disk.create(&path) };
        let file_of_it = file_of_it.expect("opened");
        let mut record = b"ARMDBFLT\x01\0\0\0".to_vec();
        record.extend_from_slice(&(file.len() as u32).to_le_bytes());
        record.extend_from_slice(&9000u64.to_le_bytes());
        record.extend_from_slice(file.as_bytes());
        record.resize(508, 0);
        record.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
        file_of_it.write_at(&[std::io::IoSlice::new(&record)], 0).expect("written");
    };
    // Of another shard, of no file of ours, of one that is sound: told, and no more.
    for file in ["shard-001/0000000001.seg", "shard-000/0000000099.seg", "LOCK", "shard-000/0000000001.seg"] {
        note(file);
        let engine = open_with(&shared, Path::new("/data"), options());
        assert_eq!(engine.shards()[0].state(), ShardState::Ready, "{file}");
        assert_eq!(noted(&shared, Path::new("/data")).expect("readable"), None, "{file}");
    }
    note("shard-000/0000000002.seg");
    disk.inject(crate::disk::Fault {
        on: crate::disk::FaultOn::Read,
        path_contains: "0000000002.seg".into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    let engine = open_with(&shared, Path::new("/data"), options());
    let state = engine.shards()[0].state().to_string();
    assert!(state.contains("quarantined") && state.contains("0000000002.seg") && state.contains("9000"), "{state}");
}
