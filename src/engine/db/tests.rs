//! The embedded database: what a user of the library relies on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::disk::{CrashDisk, Keep};
use crate::engine::batch::Expect;
use crate::engine::watch::WatchKind;

fn options() -> DbOptions {
    DbOptions { segment_bytes: 64 << 10, max_value_bytes: 8 << 10, ..DbOptions::default() }
}

fn with(durability: Durability, shards: u16) -> DbOptions {
    DbOptions { durability, shards, ..options() }
}

fn entries(scan: DbScan) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    scan.map(|entry| entry.map(|(key, value)| (text(&key), text(&value.bytes))))
        .collect::<Result<_, _>>()
        .expect("read")
}

#[test]
fn what_is_written_is_read_at_once_and_after_a_reopen() {
    for (durability, shards) in [(Durability::Disk, 1), (Durability::Os, 1), (Durability::Os, 3)] {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("deep/er");
        let mut model = BTreeMap::new();
        for run in 0..3 {
            let db = Db::open(&path, with(durability, shards)).expect("opened");
            assert_eq!(db.keys(), model.len() as u64);
            for i in 0..200 {
                let (key, value) = (format!("key{:03}", (i * 7 + run) % 230), format!("{run}:{i}"));
                if i % 4 == 3 {
                    db.delete(&key).expect("deleted");
                    model.remove(&key);
                    assert_eq!(db.get(&key).expect("read"), None);
                } else {
                    db.put(&key, &value).expect("put");
                    assert_eq!(db.get(&key).expect("read").as_deref(), Some(value.as_bytes()));
                    model.insert(key, value);
                }
            }
            let all: Vec<_> = model.clone().into_iter().collect();
            assert_eq!(entries(db.scan(ScanRange::all())), all);
            let mut down = entries(db.scan(ScanRange::prefix(b"key1").reversed()));
            down.reverse();
            assert_eq!(down, all.iter().filter(|(key, _)| key.starts_with("key1")).cloned().collect::<Vec<_>>());
            let keys: Vec<String> = (0..230).map(|i| format!("key{i:03}")).collect();
            for (key, value) in keys.iter().zip(db.multi_get(&keys).expect("read")) {
                assert_eq!(value.as_deref(), model.get(key).map(String::as_bytes));
            }
            assert!(db.index_memory_bytes() > 0);
            assert!(db.verify().iter().all(VerifyReport::is_sound), "{:?}", db.verify());
            if run == 1 {
                db.close().expect("closed");
                assert!(matches!(db.put("x", "y"), Err(EngineError::Closed)));
            }
        }
    }
}

#[test]
fn what_was_written_with_disk_survives_a_power_loss_at_any_moment() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let written = Arc::new(Mutex::new(0u64));
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let (so_far, seen) = (written.clone(), outcomes.clone());
    crash.observe(move |disk, operation| {
        let mut state = operation.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |_: &_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 0 { Keep::Keep } else { Keep::Drop }
        };
        let written = *so_far.lock();
        seen.lock().push((written, disk.crash(&mut random)));
    });
    // Also the making of the directory is observed.
    let db = Db::open_on(disk, "/db", options()).expect("opened");
    for i in 0..30u64 {
        let batch = WriteBatch::new().put(format!("x{i}"), vec![1; 1500]).put(format!("y{i}"), vec![2; 1500]);
        assert!(db.write(&batch).expect("written").is_written());
        *written.lock() = i + 1;
    }
    crash.unobserve();
    db.close().expect("closed");
    let outcomes = std::mem::take(&mut *outcomes.lock());
    assert!(outcomes.len() > 30);
    for (i, (written, crashed)) in outcomes.into_iter().enumerate() {
        let db = Db::open_on(Arc::new(crashed), "/db", options()).unwrap_or_else(|e| panic!("crash {i}: {e}"));
        for key in 0..30 {
            let (x, y) = (db.get(format!("x{key}")).expect("read"), db.get(format!("y{key}")).expect("read"));
            assert_eq!(x.is_some(), y.is_some(), "crash {i}: batch {key} is whole");
            assert!(key >= written || x.is_some(), "crash {i}: {key} was acknowledged");
        }
        db.put("goes", "on").expect("put");
    }
}

#[test]
fn what_was_written_with_os_survives_the_death_of_the_process() {
    let crash = CrashDisk::new();
    let db = Db::open_on(Arc::new(crash.clone()), "/db", with(Durability::Os, 1)).expect("opened");
    for i in 0..300 {
        db.put(format!("k{i}"), vec![7; 900]).expect("put");
    }
    let version = db.get_value("k299").expect("read").expect("there").version;
    let position = db.position();
    let killed = Db::open_on(Arc::new(crash.kill()), "/db", with(Durability::Os, 1)).expect("opened");
    assert_eq!(killed.keys(), 300);
    assert_eq!(killed.get_value("k299").expect("read").expect("there").version, version);
    killed.put("more", "1").expect("put");
    assert_eq!(killed.watch(&position).expect("known").next(9, Duration::ZERO).expect("read").len(), 1);
    // After a power loss the same gsns are given to other entries, of a later epoch.
    for i in 0.. {
        db.put(format!("lost{i}"), "v").expect("put");
        let version = db.get_value(format!("lost{i}")).expect("read").expect("there").version;
        let position = db.position();
        let crashed = Db::open_on(Arc::new(crash.crash(&mut |_| Keep::Drop)), "/db", with(Durability::Os, 1));
        let crashed = crashed.expect("opened");
        if crashed.get(format!("lost{i}")).expect("read").is_some() {
            // It was synced in the background meanwhile.
            assert!(i < 100, "something is lost now and then");
            continue;
        }
        for _ in 0..9 {
            crashed.put(format!("lost{i}"), "another").expect("put");
        }
        let lost = crashed.watch(&position);
        assert!(matches!(lost, Err(EngineError::PositionLost { .. })), "{lost:?}");
        assert!(!crashed.default_tree().compare_and_swap(format!("lost{i}"), version, "v").expect("judged"));
        break;
    }
}

#[test]
fn only_one_may_have_it_open_and_a_members_directory_is_refused_by_name() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("db");
    let db = Db::open(&path, options()).expect("opened");
    let refused = Db::open(&path, options()).expect_err("in use").to_string();
    assert!(refused.contains("in use by another process") && refused.contains("db"), "{refused}");
    let other = db.clone();
    drop(db);
    assert!(Db::open(&path, options()).is_err(), "a handle is left");
    drop(other);
    let refused = Db::open(&path, with(Durability::Disk, 2)).expect_err("another number").to_string();
    assert!(refused.contains("has 1") && refused.contains('2'), "{refused}");
    Db::open(&path, options()).expect("opened");

    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let member = temp.path().join("member");
    Engine::format(&disk, &member, &Format { sid: Sid(1), shards: 1 }).expect("formatted");
    let refused = Db::open(&member, options()).expect_err("a member's").to_string();
    assert!(refused.contains("belongs to a member of a cluster"), "{refused}");
    let refused = Engine::open(disk, &path, EngineOptions::default(), InstanceId(1)).expect_err("not a member's");
    assert!(refused.to_string().contains("embedded"), "{refused}");

    let foreign = temp.path().join("foreign");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("letter.txt"), "dear").expect("written");
    assert!(Db::open(&foreign, options()).is_err(), "somebody's files");
    assert!(foreign.join("letter.txt").exists());
}

#[test]
fn rot_is_told_and_nothing_is_changed() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let db = Db::open_on(disk.clone(), "/db", options()).expect("opened");
    for i in 0..50 {
        db.put(format!("k{i}"), vec![3; 1000]).expect("put");
    }
    db.close().expect("closed");
    drop(db);
    crash.rot(Path::new("/db/shard-000/0000000001.seg"), 3000, &[0xff; 4]).expect("rotten");
    let refused = Db::open_on(disk.clone(), "/db", options()).expect_err("unsound").to_string();
    assert!(refused.contains("shard 0 in /db is quarantined") && refused.contains("inspect"), "{refused}");
    assert!(Db::open_on(disk, "/db", options()).is_err(), "still");
}

#[test]
fn a_record_that_rots_is_told_and_never_taken_for_a_key_that_is_not_there() {
    use std::os::unix::fs::FileExt;
    let temp = tempfile::tempdir().expect("a directory");
    let db = Db::open(temp.path().join("db"), with(Durability::Os, 1)).expect("opened");
    for key in ["key:value", "key:kind", "key:name", "key:whole"] {
        db.put(key, "v").expect("put");
    }
    let path = temp.path().join("db/shard-000/0000000001.seg");
    let bytes = std::fs::read(&path).expect("read");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
    let at = |key: &str| bytes.windows(key.len()).position(|w| w == key.as_bytes()).expect("written") as u64;
    // A byte of the value, of the kind (four bytes before the key), of the key itself.
    file.write_at(b"X", at("key:value") + 9).expect("rotten");
    file.write_at(&[2], at("key:kind") - 4).expect("rotten");
    file.write_at(b"X", at("key:name")).expect("rotten");
    for key in ["key:value", "key:kind", "key:name"] {
        assert!(matches!(db.get(key), Err(EngineError::Corrupt { .. })), "{key}: {:?}", db.get(key));
        assert!(matches!(db.multi_get(&[key]), Err(EngineError::Corrupt { .. })), "{key}");
        let judged = db.default_tree().put_if_absent(key, "again");
        assert!(matches!(judged, Err(EngineError::Append(AppendError::Damaged(_)))), "{key}: {judged:?}");
    }
    assert_eq!(db.get("key:whole").expect("read").as_deref(), Some(&b"v"[..]));
    assert_eq!(db.get("key:none").expect("read"), None);
    db.put("key:value", "new").expect("put");
    assert_eq!(db.get("key:value").expect("read").as_deref(), Some(&b"new"[..]), "a put mends it");
}

#[test]
fn conditions_decide_about_a_whole_batch() {
    let temp = tempfile::tempdir().expect("a directory");
    let db = Db::open(temp.path().join("db"), with(Durability::Os, 4)).expect("opened");
    let tree = db.default_tree();
    assert!(tree.put_if_absent("{a}1", "x").expect("judged"));
    assert!(!tree.put_if_absent("{a}1", "y").expect("judged"));
    let version = db.get_value("{a}1").expect("read").expect("there").version;
    let batch = WriteBatch::new().put("{a}1", "z").put("{a}2", "z").expect("{a}3", Expect::Present);
    assert_eq!(db.write(&batch).expect("judged"), WriteOutcome::ConditionFailed(0));
    assert_eq!(db.get("{a}2").expect("read"), None);
    assert!(tree.compare_and_swap("{a}1", version, "2").expect("judged"));
    assert!(!tree.compare_and_swap("{a}1", version, "3").expect("judged"), "it has another version now");
    assert_eq!(db.get("{a}1").expect("read").as_deref(), Some(&b"2"[..]));
    let apart = WriteBatch::new().put("a", "1").put("b", "1").put("c", "1").put("d", "1").put("e", "1");
    assert!(db.write(&apart).expect_err("several shards").to_string().contains("hash tag"));
    assert!(matches!(db.write(&WriteBatch::new()), Err(EngineError::Append(AppendError::EmptyBatch))));
    assert!(matches!(db.put("", "v"), Err(EngineError::Append(AppendError::EmptyKey))));
    assert!(db.put("k", vec![0; 9 << 10]).expect_err("too large").to_string().contains("8192"));
}

#[test]
fn trees_are_apart_and_stay() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("db");
    for run in 0..2 {
        let db = Db::open(&path, with(Durability::Os, 2)).expect("opened");
        let hash = db.create_tree("h", TreeKind::Hash).expect("made");
        let ordered = db.create_tree("o", TreeKind::Ordered).expect("made");
        assert!(db.create_tree("h", TreeKind::Ordered).expect_err("of another kind").to_string().contains("kind"));
        assert_eq!(db.trees().len(), 3);
        if run == 0 {
            for i in 0..20 {
                hash.put(format!("k{i}"), "h").expect("put");
            }
            for i in 0..20 {
                ordered.put(format!("k{i}"), "o").expect("put");
            }
        }
        assert_eq!(hash.get("k7").expect("read").as_deref(), Some(&b"h"[..]));
        assert_eq!(entries(ordered.scan(ScanRange::prefix(b"k1"))).len(), 11);
        assert!(hash.scan(ScanRange::all()).next().is_some_and(|entry| entry.is_err()), "it has no order");
        assert_eq!(db.get("k7").expect("read"), None);
        assert!(db.tree("none").is_none());
    }
}

#[test]
fn a_key_with_a_time_to_live_goes_and_stays_gone() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("db");
    let db = Db::open(&path, with(Durability::Os, 1)).expect("opened");
    db.put_for("soon", "v", Duration::ZERO).expect("put");
    db.put_for("later", "v", Duration::from_secs(3600)).expect("put");
    assert_eq!(db.get("soon").expect("read"), None);
    assert!(db.get("later").expect("read").is_some());
    assert_eq!(entries(db.scan(ScanRange::all())).len(), 1);
    assert!(db.default_tree().put_if_absent("soon", "again").expect("judged"), "an expired key is absent");
    // The clock of expiry never goes back: what it has reached is remembered across a clean end.
    let ahead = clock_ms() + 7_200_000;
    db.inner.engine.shards()[0].note_committed_time(ahead, 0);
    assert_eq!(db.get("later").expect("read"), None);
    db.close().expect("closed");
    drop(db);
    let db = Db::open(&path, with(Durability::Os, 1)).expect("opened");
    assert_eq!(db.get("later").expect("read"), None);
}

#[test]
fn a_watch_gives_every_change_once_in_order_and_goes_on_from_where_it_was() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("db");
    let db = Db::open(&path, with(Durability::Os, 1)).expect("opened");
    let start = db.position();
    let writer = db.clone();
    let thread = std::thread::spawn(move || {
        for i in 0..500u32 {
            writer.put(format!("k{}", i % 50), i.to_string()).expect("put");
        }
        writer.delete("k0").expect("deleted");
    });
    let mut watch = db.watch(&start).expect("watched");
    let mut seen: Vec<DbEvent> = Vec::new();
    while seen.last().is_none_or(|event| event.change.kind != WatchKind::Delete) {
        seen.extend(watch.next(64, Duration::from_secs(60)).expect("read"));
        if seen.len() > 100 && seen.len() < 200 {
            // As after a restart of the watcher.
            watch = db.watch(&watch.position()).expect("watched");
        }
    }
    thread.join().expect("no panic");
    assert_eq!(seen.len(), 501);
    for (i, event) in seen[..500].iter().enumerate() {
        let WatchKind::Put { value, .. } = &event.change.kind else { panic!("a put") };
        assert_eq!(value, i.to_string().as_bytes());
    }
    assert!(watch.next(1, Duration::ZERO).expect("read").is_empty());
    let beginning = db.watch(&DbPosition::default()).expect("all of the log").next(9, Duration::ZERO).expect("read");
    assert_eq!(beginning, seen[..9]);
}

#[test]
fn a_watch_that_waits_ends_when_the_database_is_closed() {
    let temp = tempfile::tempdir().expect("a directory");
    let db = Db::open(temp.path().join("db"), with(Durability::Disk, 1)).expect("opened");
    db.put("a", "1").expect("put");
    let mut watch = db.watch(&db.position()).expect("watched");
    let (told, waits) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        told.send(()).expect("somebody waits for it");
        let seen = watch.next(1, Duration::from_secs(3600));
        told.send(()).expect("somebody waits for it");
        seen
    });
    waits.recv().expect("it begins");
    db.close().expect("closed");
    waits.recv_timeout(Duration::from_secs(60)).expect("it does not wait for its hour");
    assert!(thread.join().expect("no panic").is_ok_and(|seen| seen.is_empty()));
}

#[test]
fn many_threads_share_one_handle_and_each_reads_what_it_wrote() {
    for durability in [Durability::Disk, Durability::Os] {
        let temp = tempfile::tempdir().expect("a directory");
        let db = Db::open(temp.path().join("db"), with(durability, 1)).expect("opened");
        let rounds = if durability == Durability::Disk { 20 } else { 400 };
        std::thread::scope(|scope| {
            for t in 0..8 {
                let db = &db;
                scope.spawn(move || {
                    for i in 0..rounds {
                        let key = format!("t{t}k{}", i % 10);
                        db.put(&key, format!("{i}")).expect("put");
                        assert_eq!(db.get(&key).expect("read").as_deref(), Some(format!("{i}").as_bytes()));
                    }
                });
            }
        });
        assert_eq!(db.keys(), 80);
    }
}
