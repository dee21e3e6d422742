//! Inspection tells what recovery would do, and no bytes whatever make it panic.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::disk::{CrashDisk, DirEntry};
use crate::engine::*;
use crate::ident::{InstanceId, Sid};

const DIR: &str = "/member";

fn options() -> EngineOptions {
    EngineOptions {
        // As little log as can be, so that there is something to compact where that is asked for.
        retention: Retention { min_bytes: 0, min_age: std::time::Duration::ZERO, max_bytes: None },
        segment_bytes: 64 << 10,
        zero_ahead_bytes: 16 << 10,
        max_value_bytes: 8 << 10,
        background: Background::Manual,
        boot_id: Some([1; 16]),
        ..EngineOptions::default()
    }
}

fn open(disk: &Arc<dyn Disk>) -> Arc<Engine> {
    if !Engine::is_formatted(disk, Path::new(DIR)).expect("readable") {
        Engine::format(disk, Path::new(DIR), &Format { sid: Sid(7), shards: 2 }).expect("formatted");
    }
    let engine = Engine::open(disk.clone(), Path::new(DIR), options(), InstanceId(1)).expect("opened");
    for shard in engine.shards().iter().filter(|shard| shard.state() == ShardState::Blank) {
        shard.set_state(ShardState::Ready).expect("ready");
    }
    engine
}

/// A member with `n` kilobyte puts on shard 0, synced.
fn member(disk: &Arc<dyn Disk>, n: u32) -> Arc<Engine> {
    let engine = open(disk);
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 5).expect("opened");
    for i in 0..n {
        let batch = WriteBatch::new().put(format!("k{i}"), vec![i as u8; 1000]);
        shard.append(1, &batch).expect("appended");
        if i % 10 == 9 {
            engine.sync_all().expect("synced");
            shard.advance_commit(shard.tail().last.gsn);
        }
    }
    engine.sync_all().expect("synced");
    engine
}

fn look(disk: &Arc<dyn Disk>) -> DirectoryReport {
    let mut inspection = inspect(disk, Path::new("/")).expect("readable");
    assert_eq!(inspection.directories.len(), 1);
    inspection.directories.remove(0)
}

fn findings(report: &DirectoryReport, severity: Severity) -> Vec<&Finding> {
    let all = report.findings.iter().chain(report.shards.iter().flat_map(|shard| &shard.findings));
    all.filter(|finding| finding.severity == severity).collect()
}

#[test]
fn a_sound_member_is_told_whole_and_nothing_of_it_is_touched() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let engine = member(&disk, 200);
    assert!(look(&disk).in_use);
    engine.close().expect("closed");
    let tail = engine.shards()[0].tail();
    drop(engine);
    let before = crash.operations();
    let report = look(&disk);
    assert_eq!(crash.operations(), before, "nothing was written or synced");
    assert!(report.sound && !report.in_use && findings(&report, Severity::Unsound).is_empty(), "{report:?}");
    let node = report.node.as_ref().expect("read");
    assert_eq!((node.purpose, node.sid, node.open_count, node.clean), ("member", Sid(7), 1, true));
    assert_eq!(report.shards.len(), 2);
    let shard = &report.shards[0];
    assert_eq!((shard.state.as_deref(), shard.log_end), (Some("ready"), Some(tail)));
    assert!(shard.files.len() > 2 && shard.files.iter().all(|file| file.joins == Some(true)));
    assert_eq!(shard.files.iter().map(|file| file.puts).sum::<u64>(), 200);
    assert!(shard.files[0].sealed && shard.files[0].marks > 0 && shard.files[0].gsns.is_some());
    assert_eq!(shard.files[0].epochs.len(), 1);
    assert_eq!(look(&disk), report, "it can be asked again");
    let json = serde_json::to_value(inspect(&disk, Path::new(DIR)).expect("readable")).expect("json");
    assert_eq!(json["directories"][0]["shards"][0]["files"][0]["kind"], "log");
}

/// What an engine makes of the same bytes: whether it finds no fault with any shard.
fn recovers(disk: &CrashDisk) -> bool {
    let fork: Arc<dyn Disk> = Arc::new(disk.kill());
    match Engine::open(fork, Path::new(DIR), options(), InstanceId(2)) {
        Ok(engine) => engine.shards().iter().all(|shard| !matches!(shard.state(), ShardState::Quarantined { .. })),
        Err(_) => false,
    }
}

fn segment(n: u32) -> PathBuf {
    Path::new(DIR).join(format!("shard-000/{n:010}.seg"))
}

#[test]
fn a_torn_tail_and_corruption_are_told_apart_with_their_places() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    drop(member(&disk, 100));
    let sound = look(&disk);
    assert!(sound.sound && findings(&sound, Severity::Torn).is_empty(), "{sound:?}");
    let last = sound.shards[0].files.last().expect("a file");
    let end = last.used_bytes;
    let last_path = Path::new(DIR).join("shard-000").join(&last.name);

    // A write that the power loss cut short.
    let torn = crash.kill();
    let whole = read_some(&disk, &last_path, u64::MAX).expect("read").0;
    torn.rot(&last_path, end, &whole[64..600]).expect("written");
    let report = look(&(Arc::new(torn.clone()) as Arc<dyn Disk>));
    assert!(report.sound && recovers(&torn), "{report:?}");
    let found = findings(&report, Severity::Torn);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].file.as_str(), found[0].offset), (&*format!("shard-000/{}", last.name), Some(end)));
    assert_eq!(report.shards[0].log_end, sound.shards[0].log_end);

    // The same bytes at a place that had been durable.
    let rotten = crash.kill();
    rotten.rot(&segment(1), 5000, &[0xff; 16]).expect("written");
    let report = look(&(Arc::new(rotten.clone()) as Arc<dyn Disk>));
    assert!(!report.sound && !recovers(&rotten));
    let found = findings(&report, Severity::Unsound);
    assert!(found[0].file.ends_with("0000000001.seg") && found[0].offset.is_some_and(|at| at <= 5000), "{found:?}");
    assert!(found[0].offset.is_some_and(|at| at + 2100 > 5000), "near the place: {found:?}");

    // Two files lost, and a third nobody knows.
    let lost = crash.kill();
    lost.remove_file(&segment(2)).expect("removed");
    lost.remove_file(&Path::new(DIR).join("shard-001/shard.meta")).expect("removed");
    lost.create(&Path::new(DIR).join("shard-000/notes.txt")).expect("created");
    let report = look(&(Arc::new(lost) as Arc<dyn Disk>));
    let told = format!("{:?}", findings(&report, Severity::Unsound));
    assert!(told.contains("0000000002.seg") && told.contains("shard-001/shard.meta"), "{told}");
    assert!(format!("{:?}", findings(&report, Severity::Note)).contains("notes.txt"));
}

#[test]
fn embedded_databases_and_all_of_a_parents_are_found_and_an_empty_one_holds_nothing() {
    let temp = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(crate::disk::RealDisk::new());
    let nothing = inspect(&disk, temp.path()).expect("readable");
    assert!(nothing.directories.is_empty());
    for name in ["a/data", "b/data"] {
        let db = Db::open(temp.path().join(name), DbOptions::default()).expect("opened");
        db.put("k", "v").expect("put");
    }
    let db = Db::open(temp.path().join("a/data"), DbOptions::default()).expect("opened");
    let both = inspect(&disk, temp.path()).expect("readable");
    assert!(both.sound, "{both:?}");
    let seen: Vec<_> = both.directories.iter().map(|d| (d.node.as_ref().expect("read").purpose, d.in_use)).collect();
    assert_eq!(seen, [("embedded", true), ("embedded", false)]);
    assert_eq!(both.directories[0].node.as_ref().map(|node| node.open_count), Some(2));
    drop(db);
    std::fs::write(temp.path().join("b/data/node.meta"), [0x5a; 8192]).expect("written");
    let spoilt = inspect(&disk, temp.path()).expect("readable");
    assert_eq!(spoilt.directories.iter().map(|d| d.sound).collect::<Vec<_>>(), [true, false]);
    assert!(inspect(&disk, &temp.path().join("absent")).is_err());
}

#[test]
fn no_bytes_make_it_panic_and_what_recovery_refuses_it_calls_unsound() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let engine = member(&disk, 90);
    let shard = &engine.shards()[0];
    for i in 0..300 {
        let batch = WriteBatch::new().put(format!("k{}", i % 70), vec![i as u8; 1000]);
        shard.append(1, &batch).expect("appended");
    }
    engine.sync_all().expect("synced");
    shard.advance_commit(shard.tail().last.gsn);
    while engine.compact_step().expect("housekeeping works") {}
    shard.append(1, &WriteBatch::new().put("k0", "more")).expect("appended");
    engine.sync_all().expect("synced");
    drop(engine);
    let kinds: Vec<FileKind> = look(&disk).shards[0].files.iter().map(|file| file.kind).collect();
    assert!(kinds.contains(&FileKind::Compacted) && kinds.contains(&FileKind::Log), "{kinds:?}");
    let mut files: Vec<PathBuf> = vec![Path::new(DIR).join("node.meta")];
    for shard in ["shard-000", "shard-001"] {
        let dir = Path::new(DIR).join(shard);
        files.extend(disk.list(&dir).expect("listed").iter().map(|entry: &DirEntry| dir.join(&entry.name)));
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut refused, mut accepted) = (0, 0);
    for file in &files {
        let content = read_some(&disk, file, u64::MAX).expect("read").0;
        for round in 0..24 {
            let mut bytes = content.clone();
            let len = bytes.len().max(1) as u64;
            match round % 4 {
                _ if round == 0 => bytes.iter_mut().for_each(|byte| *byte = random() as u8),
                0 => {
                    let at = (random() % len) as usize;
                    let to = bytes.len().min(at + 1 + (random() % 600) as usize);
                    bytes[at..to].iter_mut().for_each(|byte| *byte = random() as u8);
                }
                1 => bytes.truncate((random() % len) as usize),
                2 => {
                    let at = (random() % len) as usize;
                    bytes[at] ^= 1 << (random() % 8);
                }
                // Somewhere in what is used, where it matters most.
                _ => {
                    let at = (random() % len.min(6000)) as usize;
                    bytes[at] ^= 1 << (random() % 8);
                }
            }
            let spoilt = crash.kill();
            spoilt.remove_file(file).expect("removed");
            let fresh = spoilt.create(file).expect("created");
            fresh.write_at(&[std::io::IoSlice::new(&bytes)], 0).expect("written");
            let report = look(&(Arc::new(spoilt.clone()) as Arc<dyn Disk>));
            if recovers(&spoilt) {
                accepted += 1;
            } else {
                refused += 1;
                assert!(!report.sound, "{} round {round}: recovery refuses it, {report:?}", file.display());
            }
        }
    }
    assert!(refused > 50 && accepted > 20, "{refused} refused, {accepted} accepted");
}
