//! What `/metrics` shows, in Prometheus' text form.
//!
//! Operations are counted and timed as they end, with atomics only (a request is answered in about a
//! microsecond: a lock would show). Everything else is asked for when it is scraped, so that figures that
//! nobody looks at cost nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::admission::Budget;
use super::http::Lifecycle;
use super::listener::Port;
use super::replica::{Leadership, Replica};
use crate::engine::ShardState;
use crate::topology::message::{DataState, Role};

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    Get,
    MultiGet,
    Write,
    Scan,
    Watch,
    CreateTree,
    ListTrees,
    Describe,
}

impl OpKind {
    const ALL: [Self; 8] = [
        Self::Get,
        Self::MultiGet,
        Self::Write,
        Self::Scan,
        Self::Watch,
        Self::CreateTree,
        Self::ListTrees,
        Self::Describe,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::MultiGet => "multi_get",
            Self::Write => "write",
            Self::Scan => "scan",
            Self::Watch => "watch",
            Self::CreateTree => "create_tree",
            Self::ListTrees => "list_trees",
            Self::Describe => "describe",
        }
    }
}

/// How an operation ended. The names are those of the wire's error kinds.
const OUTCOMES: [&str; 15] = [
    "ok",
    "not_leader",
    "wrong_partition",
    "no_quorum",
    "indeterminate",
    "history_lost",
    "compacted",
    "too_large",
    "data_loss",
    "invalid",
    "disk_full",
    "overloaded",
    "stale",
    "unavailable",
    "other",
];

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS_US: [u64; 16] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];

#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Latency {
    fn observe(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = BUCKETS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Counters of the client services.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    ended: [[AtomicU64; OUTCOMES.len()]; OpKind::ALL.len()],
    latency: [Latency; OpKind::ALL.len()],
    /// Requests that no service saw: over the size limit, or not decodable.
    pub malformed_requests: Arc<AtomicU64>,
    /// Streams open now.
    pub streams: AtomicUsize,
    /// Watches open now.
    pub watches: AtomicUsize,
    /// Reads that found the lease run out and asked the members.
    pub read_index_rounds: AtomicU64,
}

impl Metrics {
    /// An operation ended; `outcome` is `ok` or the kind of its refusal.
    pub(crate) fn ended(&self, op: OpKind, outcome: &str, took: Duration) {
        let index = OUTCOMES.iter().position(|name| *name == outcome).unwrap_or(OUTCOMES.len() - 1);
        self.ended[op as usize][index].fetch_add(1, Ordering::Relaxed);
        self.latency[op as usize].observe(took);
    }
}

/// Everything that a scrape looks at.
pub(crate) struct Sources {
    pub metrics: Arc<Metrics>,
    pub ports: Vec<Arc<Port>>,
    pub buffered: Arc<Budget>,
    pub lifecycle: Arc<Lifecycle>,
    pub labels: Vec<(&'static str, String)>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

/// The registry that `/metrics` encodes; `armdb_` begins every name, cluster, partition and member label all.
pub(crate) fn registry(sources: Sources) -> Registry {
    let labels: Vec<_> = sources.labels.iter().map(|(name, value)| ((*name).into(), value.clone().into())).collect();
    let mut registry = Registry::with_prefix_and_labels("armdb", labels.into_iter());
    registry.register_collector(Box::new(sources));
    registry
}

type Encoded = Result<(), fmt::Error>;

/// One gauge or counter family, written value by value.
struct Family<'a> {
    encoder: MetricEncoder<'a>,
    counter: bool,
}

impl Family<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: f64) -> Encoded {
        let mut one = self.encoder.encode_family(&labels)?;
        if self.counter {
            one.encode_counter::<[(&str, &str); 0], _, f64>(&value, None)
        } else {
            one.encode_gauge(&value)
        }
    }
}

fn gauge<'a>(encoder: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Result<Family<'a>, fmt::Error> {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    Ok(Family { encoder, counter: false })
}

fn counter<'a>(encoder: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Result<Family<'a>, fmt::Error> {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    Ok(Family { encoder, counter: true })
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        let encoder = &mut encoder;
        self.encode_operations(encoder)?;
        self.encode_ports(encoder)?;
        encode_process(encoder)?;
        if let Some(replica) = self.lifecycle.replica() {
            encode_role(encoder, &*replica)?;
            encode_shards(encoder, &*replica)?;
            encode_followers(encoder, &*replica)?;
            encode_disk(encoder, &*replica)?;
        }
        Ok(())
    }
}

impl Sources {
    fn encode_operations(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let mut family = counter(encoder, "requests", "Operations ended, by kind and outcome.")?;
        for op in OpKind::ALL {
            for (index, outcome) in OUTCOMES.iter().enumerate() {
                let count = self.metrics.ended[op as usize][index].load(Ordering::Relaxed);
                // Outcomes that never happened would be most of the page.
                if count > 0 || *outcome == "ok" {
                    family.value(&[("op", op.name()), ("outcome", outcome)], count as f64)?;
                }
            }
        }
        let help = "Time from a request's arrival to its answer, in seconds.";
        let mut latency = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
        for op in OpKind::ALL {
            let source = &self.metrics.latency[op as usize];
            let counts: Vec<u64> = source.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
            let bounds = BUCKETS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            let sum = source.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
            let labels = [("op", op.name())];
            let mut one = latency.encode_family(&labels)?;
            one.encode_histogram::<[(&str, &str); 0]>(sum, counts.iter().sum(), &buckets, None)?;
        }
        let relaxed = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        counter(encoder, "read_index_rounds", "Rounds of heartbeats that reads had to wait for.")?
            .value(&[], relaxed(&self.metrics.read_index_rounds))?;
        counter(encoder, "malformed_requests", "Requests over the size limit or not decodable.")?
            .value(&[], relaxed(&self.metrics.malformed_requests))?;
        gauge(encoder, "streams", "Pipelined streams open now.")?
            .value(&[], self.metrics.streams.load(Ordering::Relaxed) as f64)?;
        gauge(encoder, "watches", "Watches open now.")?.value(&[], self.metrics.watches.load(Ordering::Relaxed) as f64)
    }

    fn encode_ports(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        type Pick = fn(&super::listener::PortCounts) -> &AtomicUsize;
        let families: [(&str, &str, bool, Pick); 4] = [
            ("connections", "Connections open now.", false, |counts| &counts.open),
            ("connections_accepted", "Connections accepted.", true, |counts| &counts.accepted),
            ("connections_refused", "Connections closed because too many were open.", true, |counts| &counts.refused),
            (
                "connections_malformed",
                "Connections closed because of garbage, oversized or half frames.",
                true,
                |counts| &counts.malformed,
            ),
        ];
        for (name, help, is_counter, pick) in families {
            let mut family = if is_counter { counter(encoder, name, help)? } else { gauge(encoder, name, help)? };
            for port in &self.ports {
                family.value(&[("port", port.name)], pick(&port.counts).load(Ordering::Relaxed) as f64)?;
            }
        }
        gauge(encoder, "buffered_request_bytes", "Bytes of requests held.")?.value(&[], self.buffered.held() as f64)
    }
}

fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> Encoded {
    if let Some(bytes) = resident_bytes() {
        gauge(encoder, "resident_memory_bytes", "Memory of the process that is resident.")?.value(&[], bytes as f64)?;
    }
    Ok(())
}

fn encode_role(encoder: &mut DescriptorEncoder<'_>, replica: &dyn Replica) -> Encoded {
    let health = replica.health();
    let mut role = gauge(encoder, "role", "1 for the present role.")?;
    for (name, is) in [
        ("follower", Role::Follower),
        ("fenced", Role::Fenced),
        ("assembling", Role::Assembling),
        ("leader", Role::Leader),
    ] {
        role.value(&[("role", name)], f64::from(u8::from(health.role == is)))?;
    }
    let epoch = match &*replica.leadership().borrow() {
        Leadership::Leading { epoch, .. } | Leadership::Draining { epoch } | Leadership::Following { epoch, .. } => {
            *epoch
        }
    };
    gauge(encoder, "epoch", "Epoch led, or promised.")?.value(&[], epoch as f64)?;
    gauge(encoder, "serving", "1 if this member leads and answers.")?
        .value(&[], f64::from(u8::from(health.serving)))?;
    gauge(encoder, "lease_valid", "1 if the lease to serve reads holds.")?
        .value(&[], f64::from(u8::from(replica.lease_valid())))?;
    gauge(encoder, "caught_up", "1 if it has been at its leader's end since it started.")?
        .value(&[], f64::from(u8::from(health.caught_up)))?;
    gauge(encoder, "cannot_commit_seconds", "As leader: for how long no write quorum has answered.")?
        .value(&[], health.cannot_commit.as_secs_f64())?;
    gauge(encoder, "sync_stall_seconds", "For how long nothing has been synced although something waits.")?
        .value(&[], health.sync_stall.as_secs_f64())?;
    if let Some(silence) = health.leader_silence {
        gauge(encoder, "leader_silence_seconds", "Since the leader was last heard.")?
            .value(&[], silence.as_secs_f64())?;
    }
    counter(encoder, "full_copy_bytes", "Bytes of full copies that have arrived here.")?
        .value(&[], replica.copied_bytes() as f64)?;
    let help =
        "Hellos of followers and orders of controllers refused: of another cluster, lineage or storage, or obsolete.";
    counter(encoder, "refused_peers", help)?.value(&[], replica.refused_peers() as f64)?;
    counter(encoder, "files_mended", "Damaged files that were mended with entries from the leader.")?
        .value(&[], replica.mended_files() as f64)?;
    gauge(encoder, "lineage", "Lineage of the data: raised by each unsafe recovery.")?
        .value(&[], health.standing.lineage as f64)?;
    gauge(encoder, "clock_skew_seconds", "As leader: its wall clock less the median of the voters'.")?
        .value(&[], health.clock_skew_ms as f64 / 1e3)?;
    if let Some(staleness) = replica.staleness() {
        gauge(encoder, "staleness_seconds", "How old the committed state is at most.")?
            .value(&[], staleness.as_secs_f64())?;
    }
    Ok(())
}

fn encode_shards(encoder: &mut DescriptorEncoder<'_>, replica: &dyn Replica) -> Encoded {
    let health = replica.health();
    let engine = replica.engine();
    type Pick = fn(&crate::engine::Shard) -> u64;
    let families: [(&str, &str, Pick); 6] = [
        ("shard_tail_gsn", "Last entry of the log.", |shard| shard.tail().last.gsn),
        ("shard_durable_gsn", "Last durable entry.", |shard| shard.durable_gsn()),
        ("shard_commit_gsn", "Last committed entry.", |shard| shard.commit()),
        ("shard_applied_gsn", "Last entry that reads show.", |shard| shard.applied()),
        ("shard_log_floor_gsn", "First entry that the log still holds.", |shard| shard.log_floor()),
        ("shard_log_bytes", "Bytes of log behind the last entry, estimated.", |shard| {
            shard.log_bytes_between(shard.log_floor().saturating_sub(1), shard.tail().last.gsn)
        }),
    ];
    for (name, help, pick) in families {
        let mut family = gauge(encoder, name, help)?;
        for shard in engine.shards() {
            family.value(&[("shard", &shard.id().to_string())], pick(shard) as f64)?;
        }
    }
    let mut state = gauge(encoder, "shard_ready", "1 if the shard's data is whole.")?;
    for (id, shard) in health.shards.iter().enumerate() {
        state.value(&[("shard", &id.to_string())], f64::from(u8::from(shard.state == DataState::Ready)))?;
    }
    let mut state = gauge(encoder, "shard_state", "1 for the present state of the shard's data.")?;
    for (id, shard) in health.shards.iter().enumerate() {
        for (name, is) in [
            ("blank", DataState::Blank),
            ("syncing", DataState::Syncing),
            ("ready", DataState::Ready),
            ("damaged", DataState::Damaged),
            ("amnesic", DataState::Amnesic),
            ("quarantined", DataState::Quarantined),
        ] {
            let labels = [("shard", id.to_string()), ("state", name.to_owned())];
            let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
            state.value(&labels, f64::from(u8::from(shard.state == is)))?;
        }
    }
    let mut alarm = gauge(encoder, "shard_alarm", "1 if a broken rule of the protocol has quarantined the shard.")?;
    for shard in engine.shards() {
        let is = matches!(shard.state(), ShardState::Quarantined { alarm: true, .. });
        alarm.value(&[("shard", &shard.id().to_string())], f64::from(u8::from(is)))?;
    }
    let mut damaged = gauge(encoder, "shard_damaged_files", "Files with records that do not verify.")?;
    for shard in engine.shards() {
        damaged.value(&[("shard", &shard.id().to_string())], shard.damaged_files().len() as f64)?;
    }
    Ok(())
}

fn encode_followers(encoder: &mut DescriptorEncoder<'_>, replica: &dyn Replica) -> Encoded {
    let health = replica.health();
    if health.followers.is_empty() {
        return Ok(());
    }
    let names: std::collections::HashMap<String, String> =
        replica.describe_members().into_iter().map(|member| (member.sid, member.name)).collect();
    type Pick = fn(&crate::topology::message::FollowerReport) -> f64;
    let families: [(&str, &str, Pick); 5] = [
        ("follower_lag_entries", "Entries a follower is behind.", |follower| follower.lag_entries as f64),
        ("follower_lag_bytes", "Bytes a follower is behind.", |follower| follower.lag_bytes as f64),
        ("follower_lag_seconds", "Age of the oldest entry a follower has not acknowledged.", |follower| {
            follower.lag_ms as f64 / 1e3
        }),
        ("follower_connected", "1 if its replication stream is open.", |follower| {
            f64::from(u8::from(follower.connected))
        }),
        ("follower_in_sync", "1 if it is ready and in sync.", |follower| f64::from(u8::from(follower.in_sync))),
    ];
    for (name, help, pick) in families {
        let mut family = gauge(encoder, name, help)?;
        for follower in &health.followers {
            let sid = follower.sid.to_string();
            let name = names.get(&sid).map_or("", String::as_str);
            family.value(&[("follower", name), ("sid", &sid)], pick(follower))?;
        }
    }
    Ok(())
}

fn encode_disk(encoder: &mut DescriptorEncoder<'_>, replica: &dyn Replica) -> Encoded {
    let Ok(space) = replica.engine().space() else { return Ok(()) };
    gauge(encoder, "disk_total_bytes", "Size of the file system.")?.value(&[], space.total_bytes as f64)?;
    gauge(encoder, "disk_available_bytes", "What may still be taken of it.")?
        .value(&[], space.available_bytes as f64)?;
    gauge(encoder, "disk_reserve_bytes", "What is kept for deletes.")?.value(&[], space.reserve_bytes as f64)?;
    gauge(encoder, "puts_refused", "1 if puts are refused because the disk is full.")?
        .value(&[], f64::from(u8::from(space.puts_refused)))
}

/// Resident memory of this process; `None` where the system does not tell.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
