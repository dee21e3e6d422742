//! The engines compared, each behind the same four calls.

use std::hash::BuildHasher;
use std::path::Path;

use parking_lot::{Condvar, Mutex, RwLock};

/// Sixteen random-looking bytes.
pub type Key = [u8; 16];

/// One engine, opened for one workload.
pub trait Engine: Send + Sync {
    /// Stores a pair at the durability the engine was opened with.
    fn put(&self, key: &Key, value: &[u8]);
    /// Whether the key is there; the value's bytes are read.
    fn get(&self, key: &Key) -> bool;
    /// Bytes of memory its index takes, where the engine tells.
    fn index_bytes(&self) -> Option<u64> {
        None
    }
}

/// What a put promises before it returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// As fast as the engine goes; for reads and memory.
    Any,
    /// In the page cache: survives `kill -9`.
    Kill,
    /// fdatasync returned: survives power loss.
    Durable,
}

/// Names in the order they are run.
pub const ENGINES: [&str; 6] = ["armdb", "hashmap", "armdb015", "fjall", "redb", "rawgroup"];

/// Whether an engine can promise a class.
pub fn offers(engine: &str, class: Class) -> bool {
    match engine {
        "hashmap" => class == Class::Any,
        // Its puts return from a user-space buffer: only the durable barrier or none.
        "armdb015" => class != Class::Kill,
        // Without Immediate durability a redb commit is lost with the process.
        "redb" => class != Class::Kill,
        "rawgroup" => class == Class::Durable,
        _ => true,
    }
}

/// Opens an engine in a directory.
pub fn open(engine: &str, dir: &Path, class: Class) -> Box<dyn Engine> {
    match engine {
        "armdb" => Box::new(Ours::open(dir, class)),
        "hashmap" => Box::new(HashMap16::default()),
        "armdb015" => Box::new(Armdb015::open(dir, class)),
        "fjall" => Box::new(Fjall::open(dir, class)),
        "redb" => Box::new(Redb::open(dir, class)),
        "rawgroup" => Box::new(RawGroup::open(dir)),
        other => panic!("no engine {other}"),
    }
}

struct Ours(armdb::engine::Db);

impl Ours {
    fn open(dir: &Path, class: Class) -> Self {
        use armdb::engine::{Db, DbOptions, Durability};
        let durability = if class == Class::Durable { Durability::Disk } else { Durability::Os };
        Self(Db::open(dir, DbOptions { durability, ..DbOptions::default() }).expect("armdb opens"))
    }
}

impl Engine for Ours {
    fn put(&self, key: &Key, value: &[u8]) {
        self.0.put(key, value).expect("armdb puts");
    }
    fn get(&self, key: &Key) -> bool {
        let read = |value: &[u8]| _ = std::hint::black_box(value[value.len() - 1]);
        self.0.get_with(key, read).expect("armdb gets").is_some()
    }
    fn index_bytes(&self) -> Option<u64> {
        Some(self.0.index_memory_bytes())
    }
}

/// Sixteen locked hash maps with boxed values and no log: the same number of cache misses as a hash index
/// and a value, so the ceiling for a get.
struct HashMap16 {
    shards: Vec<RwLock<hashbrown::HashMap<Key, Box<[u8]>, foldhash::fast::FixedState>>>,
    hasher: foldhash::fast::FixedState,
}

impl Default for HashMap16 {
    fn default() -> Self {
        Self { shards: (0..16).map(|_| RwLock::default()).collect(), hasher: foldhash::fast::FixedState::default() }
    }
}

impl HashMap16 {
    fn shard(&self, key: &Key) -> usize {
        (self.hasher.hash_one(key) >> 60) as usize
    }
}

impl Engine for HashMap16 {
    fn put(&self, key: &Key, value: &[u8]) {
        self.shards[self.shard(key)].write().insert(*key, value.into());
    }
    fn get(&self, key: &Key) -> bool {
        self.shards[self.shard(key)].read().get(key).is_some_and(|v| {
            std::hint::black_box(v[v.len() - 1]);
            true
        })
    }
}

struct Armdb015(armdb015::VarMap<Key>);

impl Armdb015 {
    fn open(dir: &Path, class: Class) -> Self {
        let mut config = armdb015::Config::balanced().shard_count(2).hints(true).build();
        config.block_cache = armdb015::CacheConfig { max_size: 1 << 30, estimated_items: 1_000_000 };
        if class == Class::Durable {
            config.sync_batch_size = 1;
        }
        Self(armdb015::VarMap::open(dir.join("a15"), config).expect("armdb 0.15 opens"))
    }
}

impl Engine for Armdb015 {
    fn put(&self, key: &Key, value: &[u8]) {
        self.0.put(key, value).expect("armdb 0.15 puts");
    }
    fn get(&self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|v| {
            std::hint::black_box(v[v.len() - 1]);
            true
        })
    }
}

struct Fjall {
    db: fjall::Database,
    keyspace: fjall::Keyspace,
    durable: bool,
}

impl Fjall {
    fn open(dir: &Path, class: Class) -> Self {
        let db = fjall::Database::builder(dir.join("fjall")).cache_size(1 << 30).open().expect("fjall opens");
        let keyspace = db.keyspace("kv", fjall::KeyspaceCreateOptions::default).expect("fjall opens a keyspace");
        Self { db, keyspace, durable: class == Class::Durable }
    }
}

impl Engine for Fjall {
    fn put(&self, key: &Key, value: &[u8]) {
        self.keyspace.insert(key, value).expect("fjall puts");
        if self.durable {
            self.db.persist(fjall::PersistMode::SyncData).expect("fjall syncs");
        }
    }
    fn get(&self, key: &Key) -> bool {
        self.keyspace.get(key).expect("fjall gets").is_some_and(|v| {
            std::hint::black_box(v[v.len() - 1]);
            true
        })
    }
}

struct Redb {
    db: redb::Database,
    durability: redb::Durability,
}

const REDB_TABLE: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("kv");

impl Redb {
    fn open(dir: &Path, class: Class) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let db = redb::Builder::new().set_cache_size(1 << 30).create(dir.join("redb")).expect("redb opens");
        let write = db.begin_write().expect("redb begins");
        write.open_table(REDB_TABLE).expect("redb opens a table");
        write.commit().expect("redb commits");
        let durability = if class == Class::Durable { redb::Durability::Immediate } else { redb::Durability::None };
        Self { db, durability }
    }
}

impl Engine for Redb {
    fn put(&self, key: &Key, value: &[u8]) {
        let mut write = self.db.begin_write().expect("redb begins");
        write.set_durability(self.durability).expect("redb takes a durability");
        write.open_table(REDB_TABLE).expect("redb opens a table").insert(&key[..], value).expect("redb puts");
        write.commit().expect("redb commits");
    }
    fn get(&self, key: &Key) -> bool {
        use redb::ReadableDatabase as _;
        let read = self.db.begin_read().expect("redb begins");
        let table = read.open_table(REDB_TABLE).expect("redb opens a table");
        table.get(&key[..]).expect("redb gets").is_some_and(|v| {
            std::hint::black_box(v.value()[v.value().len() - 1]);
            true
        })
    }
}

/// Bare group commit: append to a buffer; whoever finds no leader becomes it, writes and syncs what has
/// gathered, and wakes the rest. The physical limit that a durable put is measured against.
struct RawGroup {
    file: std::fs::File,
    state: Mutex<GroupState>,
    done: Condvar,
}

#[derive(Default)]
struct GroupState {
    buffer: Vec<u8>,
    offset: u64,
    appended: u64,
    durable: u64,
    leading: bool,
}

impl RawGroup {
    fn open(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let file = std::fs::File::create(dir.join("log")).expect("a file");
        // Zeroed ahead, as every serious log does: no size change to journal at each sync.
        let zeros = vec![0; 4 << 20];
        for i in 0..16 {
            std::os::unix::fs::FileExt::write_all_at(&file, &zeros, i * (4 << 20)).expect("zeros");
        }
        file.sync_all().expect("a sync");
        Self { file, state: Mutex::default(), done: Condvar::new() }
    }
}

impl Engine for RawGroup {
    fn put(&self, key: &Key, value: &[u8]) {
        let mut state = self.state.lock();
        state.buffer.extend_from_slice(&[0; 16]);
        state.buffer.extend_from_slice(key);
        state.buffer.extend_from_slice(value);
        state.appended += 1;
        let mine = state.appended;
        while state.durable < mine {
            if state.leading {
                self.done.wait(&mut state);
                continue;
            }
            state.leading = true;
            let buffer = std::mem::take(&mut state.buffer);
            let (upto, offset) = (state.appended, state.offset % (60 << 20));
            state.offset = offset + buffer.len() as u64;
            drop(state);
            std::os::unix::fs::FileExt::write_all_at(&self.file, &buffer, offset).expect("a write");
            self.file.sync_data().expect("a sync");
            state = self.state.lock();
            state.durable = upto;
            state.leading = false;
            self.done.notify_all();
        }
    }
    fn get(&self, _: &Key) -> bool {
        unreachable!("a log has no index")
    }
}
