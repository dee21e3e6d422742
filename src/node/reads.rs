//! Reads: what each level of consistency must know before, and check after, looking at the committed state.
//!
//! * Linearizable: this member leads and serves; read; *then* the lease still holds and the epoch is the
//!   same. Checking after makes any pause in between harmless. Without a lease: ReadIndex.
//! * ReadIndex: a round of heartbeats sent after the request; read once everything committed then is applied.
//! * Bounded: the committed state is at most that old (one clock, no skew).
//! * At a position: every position asked for is applied and lies on this member's history; one that was
//!   superseded is `HistoryLost`, one that is ahead is waited for.
//! * Local: whatever is committed here.
//!
//! On a connection that pipelines, every read also waits for the connection's own earlier writes.
//! Does not do: wait. [`Read::attempt`] says what to wait for; it is asked again after that.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::Core;
use super::errors::Refused;
use super::replica::Leadership;
use super::scan::{self, ScanPlan};
use crate::engine::{TreeId, Value};
use crate::net::proto::{self, ReadLevel};
use crate::position::{Epoch, Gsn, LogPosition};

/// How long a read waits for what it needs.
pub(crate) const READ_WAIT: Duration = Duration::from_secs(5);

/// A checked read.
#[derive(Debug)]
pub(crate) struct Read {
    target: Target,
    level: ReadLevel,
    max_staleness: Duration,
    at_least: Vec<(u16, LogPosition)>,
    /// Writes pipelined before it on its connection, by shard.
    own_writes: Vec<(u16, LogPosition)>,
    /// The commit of every shard in a round of heartbeats sent after the request.
    index: Option<Arc<Vec<Gsn>>>,
    pub deadline: Instant,
}

#[derive(Debug)]
enum Target {
    Get { shard: u16, tree: TreeId, key: Bytes },
    MultiGet { tree: TreeId, keys: Vec<Bytes> },
    Scan(ScanPlan),
}

/// The answer of a read.
#[derive(Debug)]
pub(crate) enum Answer {
    Get(proto::GetResponse),
    MultiGet(proto::MultiGetResponse),
    Scan(proto::ScanResponse),
}

/// What a read waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A shard applies more.
    Progress,
    /// The leadership settles.
    Leadership,
    /// A round of heartbeats: give its result to [`Read::set_index`].
    ReadIndex,
}

/// How far an attempt came.
#[derive(Debug)]
pub(crate) enum Step {
    Done(Answer),
    Wait(Wait),
    Refused(Refused),
}

static HASHER: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);

/// Names a key in the bookkeeping of a connection; a collision costs a wait, never correctness.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    let mut hasher = HASHER.build_hasher();
    hasher.write(key);
    hasher.finish()
}

impl Read {
    pub(crate) fn get(core: &Core, request: proto::GetRequest) -> Result<Self, Refused> {
        core.check_route(request.route.as_ref())?;
        core.check_key(&request.key)?;
        let target =
            Target::Get { shard: core.shard_of(&request.key), tree: core.tree(&request.tree)?, key: request.key };
        Self::new(core, target, request.read)
    }

    pub(crate) fn multi_get(core: &Core, request: proto::MultiGetRequest) -> Result<Self, Refused> {
        core.check_route(request.route.as_ref())?;
        for key in &request.keys {
            core.check_key(key)?;
        }
        let target = Target::MultiGet { tree: core.tree(&request.tree)?, keys: request.keys };
        Self::new(core, target, request.read)
    }

    pub(crate) fn scan(core: &Core, request: proto::ScanRequest) -> Result<Self, Refused> {
        core.check_route(request.route.as_ref())?;
        let options = request.read.clone();
        Self::new(core, Target::Scan(ScanPlan::new(core, request)?), options)
    }

    fn new(core: &Core, target: Target, options: Option<proto::ReadOptions>) -> Result<Self, Refused> {
        let options = options.unwrap_or_default();
        let level = ReadLevel::try_from(options.level)
            .map_err(|_| Refused::invalid(format!("read level {} is not known", options.level)))?;
        let at_least = match (level, &options.at_least) {
            (ReadLevel::AtPosition, Some(token)) => core.positions_of(token)?,
            (ReadLevel::AtPosition, None) => {
                return Err(Refused::invalid("a read at a position needs the position: set at_least"));
            }
            _ => Vec::new(),
        };
        if level == ReadLevel::Bounded && options.max_staleness_ms == 0 {
            return Err(Refused::invalid("a read of bounded staleness needs the bound: set max_staleness_ms"));
        }
        Ok(Self {
            target,
            level,
            max_staleness: Duration::from_millis(u64::from(options.max_staleness_ms)),
            at_least,
            own_writes: Vec::new(),
            index: None,
            deadline: Instant::now() + READ_WAIT,
        })
    }

    /// What it must see: the newest write of each shard that was pipelined before it.
    pub(crate) fn after_own_writes(&mut self, core: &Core, newest: impl Fn(u16) -> LogPosition) {
        let mut add = |shard| {
            let at: LogPosition = newest(shard);
            if at.gsn > core.shard(shard).applied() {
                self.own_writes.push((shard, at));
            }
        };
        match &self.target {
            Target::Get { shard, .. } => add(*shard),
            Target::MultiGet { .. } | Target::Scan(_) => (0..core.shards().len() as u16).for_each(add),
        }
    }

    /// Whether it waits for writes of an epoch that this member no longer leads.
    pub(crate) fn lost_its_writes(&self, led: Option<Epoch>) -> bool {
        self.own_writes.iter().any(|(_, at)| Some(at.epoch) != led)
    }

    /// Of the keys it reads: what a later write must not overtake. Scans are not ordered with writes.
    pub(crate) fn key_hashes(&self) -> Vec<u64> {
        match &self.target {
            Target::Get { key, .. } => vec![key_hash(key)],
            Target::MultiGet { keys, .. } => keys.iter().map(|key| key_hash(key)).collect(),
            Target::Scan(_) => Vec::new(),
        }
    }

    pub(crate) fn set_index(&mut self, index: Arc<Vec<Gsn>>) {
        self.index = Some(index);
    }

    /// The answer when its deadline passed while it waited for `wait`.
    pub(crate) fn timed_out(&self, core: &Core, wait: Wait) -> Refused {
        let leadership = core.leadership();
        match (self.level, wait) {
            (ReadLevel::AtPosition, Wait::Progress) => {
                Refused::stale(&leadership, "this member has not reached the position in time: ask the leader")
            }
            (_, Wait::Leadership) => Refused::unavailable("leadership was changing hands for too long"),
            (_, Wait::ReadIndex) => Refused::unavailable("too few members answered to know the newest commit"),
            (_, Wait::Progress) => Refused::unavailable("what had to be read was not committed in time"),
        }
    }

    /// Tries to answer it now.
    pub(crate) fn attempt(&mut self, core: &Core) -> Step {
        match self.try_now(core) {
            Ok(step) => step,
            Err(refused) => Step::Refused(refused),
        }
    }

    fn try_now(&mut self, core: &Core) -> Result<Step, Refused> {
        if self.own_writes.iter().any(|&(shard, at)| core.shard(shard).applied() < at.gsn) {
            return Ok(Step::Wait(Wait::Progress));
        }
        match self.level {
            ReadLevel::Linearizable | ReadLevel::ReadIndex => {
                if let Some(index) = &self.index {
                    if self.any_shard(core, |shard| core.shard(shard).applied() < index[usize::from(shard)]) {
                        return Ok(Step::Wait(Wait::Progress));
                    }
                    return self.look(core).map(Step::Done);
                }
                let leadership = core.leadership();
                let epoch = match leadership {
                    Leadership::Following { .. } => return Err(Refused::not_leader_now(&leadership)),
                    Leadership::Draining { .. } | Leadership::Leading { serving: false, .. } => {
                        return Ok(Step::Wait(Wait::Leadership));
                    }
                    Leadership::Leading { epoch, serving: true } => epoch,
                };
                if self.level == ReadLevel::ReadIndex {
                    return Ok(Step::Wait(Wait::ReadIndex));
                }
                let answer = self.look(core)?;
                // After reading, never before: nothing that happens in between can make this a lie.
                let holds = core.replica.lease_valid()
                    && matches!(core.leadership(), Leadership::Leading { epoch: now, serving: true } if now == epoch);
                Ok(if holds { Step::Done(answer) } else { Step::Wait(Wait::ReadIndex) })
            }
            ReadLevel::Bounded => {
                let asked = Instant::now();
                let age = if core.led_epoch().is_some() && core.replica.lease_valid() {
                    Some(Duration::ZERO)
                } else {
                    core.replica.staleness()
                };
                let answer = self.look(core)?;
                // The state read is at least as new as what was asked about, and that aged meanwhile.
                match age.map(|age| age + asked.elapsed()) {
                    Some(age) if age <= self.max_staleness => Ok(Step::Done(answer)),
                    Some(age) => Err(Refused::stale(
                        &core.leadership(),
                        format!("this member is up to {} ms behind: ask the leader", age.as_millis()),
                    )),
                    None => Err(Refused::stale(
                        &core.leadership(),
                        "this member does not know how far behind it is: ask the leader",
                    )),
                }
            }
            ReadLevel::AtPosition => {
                for &(shard, at) in &self.at_least {
                    if core.shard(shard).applied() < at.gsn {
                        return Ok(Step::Wait(Wait::Progress));
                    }
                    check_on_history(core, shard, at)?;
                }
                self.look(core).map(Step::Done)
            }
            ReadLevel::Local => self.look(core).map(Step::Done),
        }
    }

    fn any_shard(&self, core: &Core, test: impl Fn(u16) -> bool) -> bool {
        match &self.target {
            Target::Get { shard, .. } => test(*shard),
            Target::MultiGet { keys, .. } => keys.iter().any(|key| test(core.shard_of(key))),
            Target::Scan(_) => (0..core.shards().len() as u16).any(test),
        }
    }

    /// Reads the committed state as it is.
    fn look(&self, core: &Core) -> Result<Answer, Refused> {
        let lineage = core.lineage();
        match &self.target {
            Target::Get { shard, tree, key } => {
                let data = core.shard(*shard);
                let value = data.get(*tree, key, data.committed_time_ms())?;
                Ok(Answer::Get(proto::GetResponse { value: value.map(|v| value_message(core, lineage, *shard, v)) }))
            }
            Target::MultiGet { tree, keys } => multi_get(core, lineage, *tree, keys).map(Answer::MultiGet),
            Target::Scan(plan) => scan::page(core, lineage, plan).map(Answer::Scan),
        }
    }
}

/// Refuses a position that this member's history has superseded. Only for positions at or below its commit.
pub(crate) fn check_on_history(core: &Core, shard: u16, at: LogPosition) -> Result<(), Refused> {
    let epoch = core.shard(shard).epoch_table().epoch_at(at.gsn);
    if at.gsn == 0 || epoch == at.epoch {
        return Ok(());
    }
    Err(Refused::history_lost(format!(
        "entry {} of shard {shard} was written in epoch {} and superseded in epoch {epoch}: it was acknowledged by \
         one member only, and lost in a failover",
        at.gsn, at.epoch
    )))
}

fn multi_get(core: &Core, lineage: u64, tree: TreeId, keys: &[Bytes]) -> Result<proto::MultiGetResponse, Refused> {
    let mut values: Vec<proto::multi_get_response::Found> = Vec::new();
    values.resize_with(keys.len(), Default::default);
    let mut bytes = 0;
    for (number, shard) in core.shards().iter().enumerate() {
        let number = number as u16;
        let mine: Vec<usize> =
            (0..keys.len()).filter(|&i| core.shards().len() == 1 || core.shard_of(&keys[i]) == number).collect();
        // By parts, so that an answer over the limit is noticed before it is all in memory.
        for part in mine.chunks(256) {
            let asked: Vec<&[u8]> = part.iter().map(|&i| &keys[i][..]).collect();
            let found = shard.multi_get(tree, &asked, shard.committed_time_ms())?;
            for (&i, value) in part.iter().zip(found) {
                if let Some(value) = value {
                    bytes += value.bytes.len();
                    values[i].value = Some(value_message(core, lineage, number, value));
                }
            }
            if bytes > core.limits.max_request_bytes {
                return Err(Refused::too_large(
                    "answer: ask for fewer keys at once",
                    core.limits.max_request_bytes as u64,
                ));
            }
        }
    }
    Ok(proto::MultiGetResponse { values })
}

pub(crate) fn value_message(core: &Core, lineage: u64, shard: u16, value: Value) -> proto::Value {
    proto::Value {
        value: value.bytes,
        version: Some(core.position(lineage, shard, value.version)),
        expires_ms: value.expires_ms,
        value_type: u32::from(value.value_type),
    }
}

/// Refuses reads of a shard whose data cannot be trusted at the moment.
pub(crate) fn check_readable(core: &Core, shard: u16) -> Result<(), Refused> {
    match core.shard(shard).state() {
        state if state.is_usable() => Ok(()),
        state => Err(Refused::unavailable(format!("shard {shard} of this member is {state}"))),
    }
}
