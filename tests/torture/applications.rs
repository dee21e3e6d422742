//! Applications at work on a cluster, wherever that runs, each writing down what it asked and what it got.
//!
//! Every value that is written is a number that nobody writes again, with filler behind it. Times are of one clock, read
//! before an operation is begun and after it has ended.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use armdb::checker::{self, Change, Condition, Expect, History, Key, Lifetime, Operation, Outcome, Time, Version};
use armdb::client::{
    self, Batch, Client, ClientOptions, PutOptions, ReadError, ReadLevel, ReadOptions, Token, WriteError, WriteOutcome,
};
use parking_lot::Mutex;

use super::dice::Dice;

const PLAIN: usize = 120;
const HOT: usize = 6;
const MORTAL: usize = 24;
const GROUPS: usize = 6;
const GROUP_KEYS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(4);

/// How many operations ended how.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicU64,
    read: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    unread: AtomicU64,
}

/// See the module.
pub struct Applications {
    begun: Instant,
    keys: Vec<String>,
    over: AtomicBool,
    /// Lives may end before their time.
    short_lives: AtomicBool,
    next_value: AtomicU64,
    counts: Counts,
    /// One for each, and one for whoever reads everything at the end.
    logs: Vec<Mutex<Vec<Operation>>>,
}

impl Applications {
    /// So many; none runs yet.
    pub fn new(count: u32) -> Self {
        let plain = (0..PLAIN).map(|number| format!("plain/{number:03}"));
        let hot = (0..HOT).map(|number| format!("hot/{number}"));
        let mortal = (0..MORTAL).map(|number| format!("mortal/{number:02}"));
        let group = (0..GROUPS).flat_map(|group| (0..GROUP_KEYS).map(move |key| format!("{{group{group}}}/{key}")));
        Self {
            begun: Instant::now(),
            keys: plain.chain(hot).chain(mortal).chain(group).collect(),
            over: AtomicBool::new(false),
            short_lives: AtomicBool::new(false),
            next_value: AtomicU64::new(1),
            counts: Counts::default(),
            logs: (0..=count).map(|_| Mutex::default()).collect(),
        }
    }

    /// Runs some of them until all are told to stop.
    pub async fn run(&self, options: ClientOptions, numbers: Range<u32>, seed: u64) {
        let options = options.request_timeout(TIMEOUT);
        let run = |id| Application::run(self, &options, id, Dice::new(seed ^ u64::from(id) << 32));
        futures::future::join_all(numbers.map(run)).await;
    }

    /// From now on a value's life may end at any time after it was put: wall clocks are set, or shard time may have to make
    /// up for an outage after a failover (see docs/reliability.md).
    pub fn expect_short_lives(&self) {
        self.short_lives.store(true, Ordering::Relaxed);
    }

    /// Tells all to stop.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Waits until this many more writes are acknowledged; false = they are not after so many looks.
    pub async fn acknowledges(&self, more: u64, look: Duration, looks: u32) -> bool {
        let goal = self.counts.acknowledged.load(Ordering::Relaxed) + more;
        for _ in 0..looks {
            if self.counts.acknowledged.load(Ordering::Relaxed) >= goal {
                return true;
            }
            tokio::time::sleep(look).await;
        }
        false
    }

    /// Reads every key once more, from the leader and from each of `members` (name and address); what differs.
    pub async fn differences(&self, options: ClientOptions, members: &[(String, String)]) -> Vec<String> {
        let options = options.request_timeout(TIMEOUT);
        let client = connect(&options, || false).await.expect("it never gives up");
        let id = self.logs.len() as u32 - 1;
        let mut last = Application { shared: self, client, id, dice: Dice::new(0), own: HashMap::new() };
        let mut held = Vec::new();
        for key in last.all_keys() {
            held.push(last.read(key, ReadLevel::Linearizable, None).await);
        }
        let marks = mark(&last.client).await.expect("a write when everything is well");
        let mut differences = Vec::new();
        for (member, address) in members {
            for (key, leaders) in last.all_keys().zip(&held) {
                let theirs = last.client.get_with(last.name(key), &up_to(&marks, address)).await;
                let leaders = leaders.as_ref().map(|it| it.as_ref().map(|it| (it.bytes.clone(), it.version)));
                let same = match (&theirs, &leaders) {
                    (Ok(Some(theirs)), Ok(Some((bytes, version)))) => {
                        (&theirs.bytes, &theirs.version) == (bytes, version)
                    }
                    // What had a life may have ended it in the meantime.
                    (Ok(None), Ok(Some(_))) => last.is_mortal(key),
                    (Ok(None), Ok(None)) => true,
                    _ => false,
                };
                if !same {
                    let name = last.name(key);
                    differences.push(format!("{member} holds {theirs:?} as {name}, the leader {leaders:?}"));
                }
            }
        }
        differences
    }

    /// How many operations ended how, in words.
    pub fn told(&self) -> String {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Counts { acknowledged, read, unknown, refused, unread } = &self.counts;
        format!(
            "{} writes acknowledged, {} indeterminate, {} failed; {} reads answered, {} not",
            count(acknowledged),
            count(unknown),
            count(refused),
            count(read),
            count(unread)
        )
    }

    /// What was written down.
    pub fn history(&self) -> History {
        let mut history = History::default();
        for name in &self.keys {
            history.key(name);
        }
        for log in &self.logs {
            history.operations.extend(log.lock().iter().cloned());
        }
        history
    }
}

/// Connects, for as long as it takes; None when it is over.
pub async fn connect(options: &ClientOptions, over: impl Fn() -> bool) -> Option<Client> {
    while !over() {
        if let Ok(client) = Client::connect(options.clone()).await {
            return Some(client);
        }
    }
    None
}

/// Writes to every shard: whatever was acknowledged before lies before this in the shard's log.
pub async fn mark(client: &Client) -> Result<Token, WriteError> {
    let mut marks = Token::default();
    for number in 0..64 {
        marks.merge(&client.put(format!("mark/{number}"), "1").await?.token);
    }
    Ok(marks)
}

/// A read by the member with this address once it has everything up to `marks`.
pub fn up_to(marks: &Token, address: &str) -> ReadOptions {
    ReadOptions {
        level: ReadLevel::AtLeast(marks.clone()),
        member: Some(address.to_owned()),
        timeout: Some(Duration::from_secs(60)),
    }
}

struct Application<'a> {
    shared: &'a Applications,
    client: Client,
    id: u32,
    dice: Dice,
    /// Of each key, how far this application has seen it by its own writes.
    own: HashMap<Key, (Token, Version)>,
}

impl Application<'_> {
    async fn run(shared: &Applications, options: &ClientOptions, id: u32, dice: Dice) {
        let over = || shared.over.load(Ordering::Relaxed);
        let Some(client) = connect(options, over).await else { return };
        let mut application = Application { shared, client, id, dice, own: HashMap::new() };
        while !over() {
            application.turn().await;
            let pause = application.dice.below(8_000);
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }

    fn all_keys(&self) -> impl Iterator<Item = Key> + use<> {
        (0..self.shared.keys.len() as u32).map(Key)
    }

    fn name(&self, key: Key) -> String {
        self.shared.keys[key.0 as usize].clone()
    }

    fn is_mortal(&self, key: Key) -> bool {
        (PLAIN + HOT..PLAIN + HOT + MORTAL).contains(&(key.0 as usize))
    }

    fn any_key(&mut self) -> Key {
        Key(match self.dice.below(4) {
            0 => PLAIN as u64 + self.dice.below((HOT + MORTAL) as u64),
            1 => (PLAIN + HOT + MORTAL) as u64 + self.dice.below((GROUPS * GROUP_KEYS) as u64),
            _ => self.dice.below(PLAIN as u64),
        } as u32)
    }

    fn hot_key(&mut self) -> Key {
        Key((PLAIN as u64 + self.dice.below(HOT as u64)) as u32)
    }

    fn now(&self) -> Time {
        self.shared.begun.elapsed().as_nanos() as Time
    }

    /// A value that nobody has written.
    fn value(&mut self) -> (checker::Value, String) {
        let number = self.shared.next_value.fetch_add(1, Ordering::Relaxed);
        let filler = if self.dice.one_in(20) { self.dice.below(16_000) } else { self.dice.below(400) };
        (checker::Value(number), format!("{number} {}", "x".repeat(filler as usize)))
    }

    async fn turn(&mut self) {
        let key = self.any_key();
        match self.dice.below(100) {
            0..30 => drop(self.read(key, ReadLevel::Linearizable, None).await),
            30..36 => drop(self.read(key, ReadLevel::ReadIndex, None).await),
            36..43 => {
                let age = Duration::from_millis(100 + self.dice.below(3000));
                drop(self.read(key, ReadLevel::Bounded(age), None).await);
            }
            43..50 => {
                let known: Vec<Key> = self.own.keys().copied().collect();
                let Some(key) = self.dice.pick(&known).copied() else { return };
                let (token, version) = self.own[&key].clone();
                drop(self.read(key, ReadLevel::AtLeast(token), Some(version)).await);
            }
            50..66 => self.write(vec![], vec![(key, true, None)]).await,
            66..71 => self.write(vec![], vec![(key, false, None)]).await,
            71..81 => {
                let key = self.hot_key();
                let Ok(found) = self.read(key, ReadLevel::Linearizable, None).await else { return };
                let condition = found.map_or(Expected::Absent, |found| Expected::Version(found.version));
                self.write(vec![(key, condition)], vec![(key, true, None)]).await;
            }
            81..84 => self.write(vec![(key, Expected::Absent)], vec![(key, true, None)]).await,
            84..90 => {
                let key = Key((PLAIN + HOT) as u32 + self.dice.below(MORTAL as u64) as u32);
                let life = self.dice.time(Duration::from_millis(200), Duration::from_secs(20));
                self.write(vec![], vec![(key, true, Some(life))]).await;
            }
            90..97 => {
                let group = self.dice.below(GROUPS as u64) as usize;
                let key = |number: usize| Key((PLAIN + HOT + MORTAL + group * GROUP_KEYS + number) as u32);
                let changes = (0..GROUP_KEYS).map(|number| (key(number), !self.dice.one_in(6), None)).collect();
                self.write(vec![], changes).await;
            }
            _ => {
                let group = self.dice.below(GROUPS as u64) as usize;
                let key = |number: usize| Key((PLAIN + HOT + MORTAL + group * GROUP_KEYS + number) as u32);
                let expected = if self.dice.one_in(2) { Expected::Present } else { Expected::Absent };
                let changes = vec![(key(1), true, None), (key(2), true, None)];
                self.write(vec![(key(0), expected)], changes).await;
            }
        }
    }

    /// Reads and writes it down. With `at_least`, the read promises that version and nothing newer.
    async fn read(
        &mut self,
        key: Key,
        level: ReadLevel,
        at_least: Option<Version>,
    ) -> Result<Option<client::Value>, ReadError> {
        let age = match level {
            ReadLevel::Bounded(age) => age,
            _ => Duration::ZERO,
        };
        let call = self.now();
        let answer = self.client.get_with(self.name(key), &ReadOptions::level(level)).await;
        let end = self.now();
        match &answer {
            Ok(found) => {
                self.shared.counts.read.fetch_add(1, Ordering::Relaxed);
                let expect = found.as_ref().map_or(Expect::Absent, |found| {
                    Expect::Value(checker::Value(number(&found.bytes)), Some(version(&found.version)))
                });
                // What was current at some time since then is new enough.
                let call = call.saturating_sub(age.as_nanos() as Time);
                self.enter(Operation {
                    client: self.id,
                    call,
                    end,
                    conditions: vec![Condition { key, expect }],
                    changes: Vec::new(),
                    outcome: Outcome::Done,
                    at_least,
                });
            }
            Err(_) => drop(self.shared.counts.unread.fetch_add(1, Ordering::Relaxed)),
        }
        answer
    }

    /// Writes a batch and writes it down: puts (true) and deletes, some with a life.
    async fn write(&mut self, conditions: Vec<(Key, Expected)>, changes: Vec<(Key, bool, Option<Duration>)>) {
        let mut batch = Batch::new();
        for (key, expected) in &conditions {
            batch = match expected {
                Expected::Absent => batch.when_absent(self.name(*key)),
                Expected::Present => batch.when_present(self.name(*key)),
                Expected::Version(version) => batch.when_version(self.name(*key), version),
            };
        }
        let mut values = Vec::new();
        for (key, puts, life) in &changes {
            let (value, text) = self.value();
            values.push(value);
            batch = if *puts {
                batch.put_with(self.name(*key), text, &PutOptions { ttl: *life, ..Default::default() })
            } else {
                batch.delete(self.name(*key))
            };
        }
        let short = self.shared.short_lives.load(Ordering::Relaxed);
        let call = self.now();
        let answer = self.client.write(batch).await;
        let end = self.now();
        let counts = &self.shared.counts;
        let (outcome, written) = match answer {
            Ok(WriteOutcome::Applied(written)) => (Outcome::Done, Some(written)),
            Ok(WriteOutcome::ConditionFailed { index }) => (Outcome::ConditionFailed(index), None),
            Err(WriteError::Indeterminate { .. }) => (Outcome::Unknown, None),
            Err(WriteError::NotDone(_)) => (Outcome::Refused, None),
        };
        match outcome {
            Outcome::Done => &counts.acknowledged,
            Outcome::ConditionFailed(_) => &counts.read,
            Outcome::Unknown => &counts.unknown,
            Outcome::Refused => &counts.refused,
        }
        .fetch_add(1, Ordering::Relaxed);
        let versions: Vec<Version> = written.iter().flat_map(|it| &it.versions).map(version).collect();
        let change = |(index, (key, puts, life)): (usize, &(Key, bool, Option<Duration>))| {
            let (key, version) = (*key, versions.get(index).copied());
            if !puts {
                return Change::Delete { key, version };
            }
            // The cluster's time runs at most a tenth faster than ours.
            let least = |life: Duration| (life.as_nanos() as Time * 10 / 11).saturating_sub(100_000_000);
            let earliest = |life: Duration| if short { call } else { call + least(life) };
            let lifetime = life.map(|life| Lifetime { earliest: earliest(life), latest: None });
            Change::Put { key, value: values[index], version, lifetime }
        };
        let operation = Operation {
            client: self.id,
            call,
            end,
            conditions: conditions.iter().map(|(key, it)| Condition { key: *key, expect: it.told() }).collect(),
            changes: changes.iter().enumerate().map(change).collect(),
            outcome,
            at_least: None,
        };
        if let Some(written) = written {
            for change in &operation.changes {
                if let Some(version) = change.version() {
                    self.own.insert(change.key(), (written.token.clone(), version));
                }
            }
        }
        self.enter(operation);
    }

    fn enter(&self, operation: Operation) {
        self.shared.logs[self.id as usize].lock().push(operation);
    }
}

/// What a write expects of a key.
enum Expected {
    Absent,
    Present,
    Version(client::Version),
}

impl Expected {
    fn told(&self) -> Expect {
        match self {
            Self::Absent => Expect::Absent,
            Self::Present => Expect::Present,
            Self::Version(it) => Expect::Version(version(it)),
        }
    }
}

fn version(version: &client::Version) -> Version {
    let (lineage, position) = version.position();
    Version { lineage, position }
}

/// The number before the filler.
fn number(bytes: &[u8]) -> u64 {
    let text = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}
