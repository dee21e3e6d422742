//! `armdb bench failover`: how long writes stand still when a leader is killed or moved, against a local cluster.
//!
//! Writers put keys one after another through the client library; each event (kill -9 of the leader's process, or
//! a switchover) begins when every member is in sync, and its figure is the longest time without an acknowledged write
//! from that moment on. (What stood still before it, because the disk was busy with something else, is none of it; such
//! stalls are told beside it.) In the end every acknowledged key is read back: one that is missing or differs fails the run. Then
//! its keys are deleted, also those whose writes had no outcome, and also when it was interrupted.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use serde::Serialize;

use super::failure::EXIT_INTERRUPTED;
use super::{Failure, Format, Global, output};
use crate::api::{ArmdbClusterStatus, MemberRole, PartitionState};
use crate::client::{Client, ClientOptions, Scan, WriteError};
use crate::local::control;
use crate::local::directory::{self, ClusterFile};
use crate::net::proto::{LocalStatusRequest, SwitchoverRequest};

/// An event that has not healed by then ends the run.
const HEAL: Duration = Duration::from_secs(60);
/// How often the status is asked for.
const LOOK: Duration = Duration::from_millis(20);
/// Writes go on for this long before an event and after it has healed.
const CALM: Duration = Duration::from_millis(300);
/// Deletes under way at once.
const DELETES: usize = 64;
/// Scans for what is left before it is told: a delete without an outcome is done again by the next.
const SWEEPS: u32 = 5;

/// Measure a running local cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Kill and move leaders under load: how long do writes stand still, and is anything lost?
    Failover(Failover),
}

/// What to do to the cluster.
#[derive(Debug, clap::Args)]
struct Failover {
    /// Leaders to kill with SIGKILL
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Leaders to move by switchover
    #[arg(long, default_value_t = 20)]
    switchovers: u32,
    /// Writers, each with one write under way
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    writers: u32,
    /// Bytes of each value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65536))]
    value_bytes: u32,
}

/// Runs the measurement and prints its figures.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let What::Failover(failover) = args.what;
    super::block_on(measure(failover, global.clone()))
}

/// Figures of one kind of event.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    events: usize,
    median_millis: f64,
    worst_millis: f64,
    /// Writes that were certainly not done, though the client kept trying for as long as it may.
    failed: u64,
    /// Writes whose outcome the client could not tell.
    indeterminate: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    kills: Figures,
    switchovers: Figures,
    acknowledged: u64,
    lost: u64,
}

/// A writer's prefix and the numbers of its acknowledged keys, if it did not panic.
type Written = Result<(String, Vec<u64>), tokio::task::JoinError>;

/// What the writers share.
#[derive(Debug, Default)]
struct Load {
    stop: AtomicBool,
    failed: AtomicU64,
    indeterminate: AtomicU64,
    /// When writes were acknowledged since the last event began.
    acknowledged: Mutex<Vec<Instant>>,
}

async fn measure(args: Failover, global: Global) -> anyhow::Result<ExitCode> {
    let dir = directory::find(&global.dir)?;
    let file = ClusterFile::read(&dir)?.with_context(|| format!("no local.json in {}", dir.display()))?;
    let mut cluster = Cluster { dir };
    let client = Client::connect(ClientOptions::new(file.endpoints())).await?;
    let load = Arc::new(Load::default());
    let run = format!("bench/failover/{}/", &crate::ident::AttemptId::random().to_string()[..8]);
    let mut stopped = std::pin::pin!(super::stop_signal()?);
    let writers: Vec<_> = (0..args.writers)
        .map(|writer| {
            let prefix = format!("{run}{writer}/");
            tokio::spawn(write(client.clone(), prefix, args.value_bytes as usize, Arc::clone(&load)))
        })
        .collect();
    let result = tokio::select! {
        result = events(&args, &mut cluster, &load) => Some(result),
        () = &mut stopped => None,
    };
    load.stop.store(true, Ordering::Relaxed);
    let writers = futures::future::join_all(writers).await;
    let counted = match &result {
        Some(_) => count(&client, writers, args.value_bytes as usize).await,
        None => Ok((0, 0)),
    };
    let interrupted = result.is_none();
    let again = async {
        if !interrupted {
            stopped.await;
        }
        match super::stop_signal() {
            Ok(stopped) => stopped.await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        swept = sweep(&client, &run) => {
            let left = || Failure::new("not all of its keys could be deleted").remedy(format!("those left begin with {run}"));
            swept.with_context(left)?;
        }
        () = again => {
            let text = format!("interrupted while its keys were deleted: those left begin with {run}");
            return Err(Failure::with_code(text, EXIT_INTERRUPTED).into());
        }
    }
    let Some(result) = result else {
        return Err(Failure::with_code("interrupted; its keys are deleted", EXIT_INTERRUPTED).into());
    };
    let ((kills, switchovers), (acknowledged, lost)) = (result?, counted?);
    let report = Report { kills, switchovers, acknowledged, lost };
    match global.output {
        Format::Json => output::json(&report)?,
        Format::Text => output::write(text(&report).as_bytes())?,
    }
    if lost > 0 {
        return Err(Failure::new(format!("{lost} acknowledged writes are lost")).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts one key after another; the numbers of those acknowledged.
async fn write(client: Client, prefix: String, value_bytes: usize, load: Arc<Load>) -> (String, Vec<u64>) {
    let mut written = Vec::new();
    for number in 0.. {
        if load.stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{prefix}{number:012}");
        match client.put(key.clone(), value_of(&key, value_bytes)).await {
            Ok(_) => {
                load.acknowledged.lock().push(Instant::now());
                written.push(number);
            }
            Err(WriteError::Indeterminate { .. }) => {
                load.indeterminate.fetch_add(1, Ordering::Relaxed);
            }
            Err(WriteError::NotDone(_)) => {
                load.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A load that saturated the machine would measure the machine.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (prefix, written)
}

/// The key, repeated: a value that belongs to another key is seen.
fn value_of(key: &str, bytes: usize) -> Vec<u8> {
    key.bytes().cycle().take(bytes).collect()
}

/// How many writes were acknowledged, and how many of these are not there.
async fn count(client: &Client, writers: Vec<Written>, value_bytes: usize) -> anyhow::Result<(u64, u64)> {
    let (mut acknowledged, mut lost) = (0, 0);
    for writer in writers {
        let (prefix, written) = writer.context("a writer failed")?;
        acknowledged += written.len() as u64;
        lost += missing(client, &prefix, &written, value_bytes).await?;
    }
    Ok((acknowledged, lost))
}

/// Deletes every key that begins so, whether its write was acknowledged or not.
async fn sweep(client: &Client, prefix: &str) -> anyhow::Result<()> {
    for _ in 0..SWEEPS {
        let mut found = false;
        let mut scan = client.scan(Scan::prefix(prefix.to_owned()).keys_only(true));
        while let Some(page) = scan.next_page().await? {
            found |= !page.entries.is_empty();
            let deletes = page.entries.into_iter().map(|entry| async move {
                match client.delete(entry.key).await {
                    Ok(_) | Err(WriteError::Indeterminate { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            });
            futures::stream::iter(deletes).buffer_unordered(DELETES).try_collect::<()>().await?;
        }
        if !found {
            return Ok(());
        }
    }
    bail!("after {SWEEPS} scans there are still some")
}

/// How many of the acknowledged keys are not there as written.
async fn missing(client: &Client, prefix: &str, written: &[u64], value_bytes: usize) -> anyhow::Result<u64> {
    let mut missing = 0;
    for numbers in written.chunks(1024) {
        let keys: Vec<String> = numbers.iter().map(|number| format!("{prefix}{number:012}")).collect();
        let values = client.multi_get(keys.clone()).await.context("reading back what was acknowledged")?;
        for (key, value) in keys.iter().zip(values) {
            if value.is_none_or(|value| value.bytes != value_of(key, value_bytes)) {
                missing += 1;
            }
        }
    }
    Ok(missing)
}

async fn events(args: &Failover, cluster: &mut Cluster, load: &Load) -> anyhow::Result<(Figures, Figures)> {
    let mut gaps = [Vec::new(), Vec::new()];
    let mut counted = [(0, 0), (0, 0)];
    for (kind, count) in [(0, args.kills), (1, args.switchovers)] {
        let before = (load.failed.load(Ordering::Relaxed), load.indeterminate.load(Ordering::Relaxed));
        for number in 0..count {
            let (leader, pid) = cluster.healthy(None).await?;
            load.acknowledged.lock().clear();
            tokio::time::sleep(CALM).await;
            let begun = Instant::now();
            if kind == 0 {
                let pid = Pid::from_raw(pid).context("the leader has no process")?;
                rustix::process::kill_process(pid, Signal::KILL).context("killing the leader")?;
            } else {
                let mut control = control::connect(&cluster.dir).await?;
                control
                    .switchover(SwitchoverRequest { target: "any".into() })
                    .await
                    .with_context(|| format!("switchover from {leader}"))?;
            }
            cluster.healthy(Some(&leader)).await?;
            tokio::time::sleep(CALM).await;
            let at = std::mem::take(&mut *load.acknowledged.lock());
            let (before, gap) = stood_still(&at, begun, Instant::now());
            let [gap_millis, before_millis] = [gap, before].map(|gap| gap.as_millis() as u64);
            tracing::info!(event = number, leader, gap_millis, before_millis, "healed");
            gaps[kind].push(gap);
        }
        let after = (load.failed.load(Ordering::Relaxed), load.indeterminate.load(Ordering::Relaxed));
        counted[kind] = (after.0 - before.0, after.1 - before.1);
    }
    let [kills, switchovers] = gaps;
    Ok((figures(kills, counted[0]), figures(switchovers, counted[1])))
}

/// The longest time without an acknowledged write before an event and from it on, up to now: writes that never came
/// back are not a short gap.
fn stood_still(acknowledged: &[Instant], event: Instant, now: Instant) -> (Duration, Duration) {
    let (before, after) = acknowledged.split_at(acknowledged.partition_point(|at| *at < event));
    let longest = |at: Vec<Instant>| at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    let before = before.iter().copied().chain([event]).collect();
    let after = [event].into_iter().chain(after.iter().copied()).chain([now]).collect();
    (longest(before), longest(after))
}

fn figures(mut gaps: Vec<Duration>, (failed, indeterminate): (u64, u64)) -> Figures {
    gaps.sort();
    let millis = |gap: Option<&Duration>| gap.map_or(0.0, |gap| (gap.as_secs_f64() * 10_000.0).round() / 10.0);
    Figures {
        events: gaps.len(),
        median_millis: millis(gaps.get(gaps.len() / 2)),
        worst_millis: millis(gaps.last()),
        failed,
        indeterminate,
    }
}

fn text(report: &Report) -> String {
    let line = |name: &str, figures: &Figures| {
        format!(
            "{name:<12} {:>3}   writes stood still: median {:.1} ms, worst {:.1} ms   failed {}   indeterminate {}\n",
            figures.events, figures.median_millis, figures.worst_millis, figures.failed, figures.indeterminate
        )
    };
    format!(
        "{}{}{} writes were acknowledged, {} of them are lost\n",
        line("kill -9", &report.kills),
        line("switchover", &report.switchovers),
        report.acknowledged,
        report.lost
    )
}

/// The cluster by way of its control socket.
struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// Waits until every member is in sync and, if given, another than `not` leads; the leader and its pid.
    async fn healthy(&mut self, not: Option<&str>) -> anyhow::Result<(String, i32)> {
        let begun = Instant::now();
        let mut control = control::connect(&self.dir).await?;
        loop {
            let status: ArmdbClusterStatus =
                serde_json::from_str(&control.status(LocalStatusRequest {}).await?.into_inner().status_json)?;
            if let [partition] = &status.partitions[..]
                && partition.state == PartitionState::Available
                && status.ready_members == status.replicas
                && let Some(leader) = partition.members.iter().find(|member| member.role == MemberRole::Leader)
                && Some(leader.name.as_str()) != not
                && let Some(pid) = leader.pid
            {
                return Ok((leader.name.clone(), pid));
            }
            if begun.elapsed() > HEAL {
                bail!(Failure::new(format!(
                    "the cluster did not heal within {} s: {}",
                    HEAL.as_secs(),
                    serde_json::to_string(&status.summary)?
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_median_and_the_worst() {
        let gaps = [5, 1, 3].map(Duration::from_millis).to_vec();
        let figures = figures(gaps, (0, 2));
        assert_eq!((figures.events, figures.median_millis, figures.worst_millis), (3, 3.0, 5.0));
        assert_eq!((figures.failed, figures.indeterminate), (0, 2));
    }

    #[test]
    fn what_stood_still_before_an_event_is_not_counted_to_it() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let acknowledged = [0, 10, 500, 510, 1150, 1160].map(at);
        let gaps = stood_still(&acknowledged, at(505), at(1200));
        assert_eq!(gaps, (Duration::from_millis(490), Duration::from_millis(640)));
        let (_, never) = stood_still(&acknowledged[..4], at(505), at(1200));
        assert_eq!(never, Duration::from_millis(690), "they did not come back");
        assert_eq!(stood_still(&[], at(100), at(200)), (Duration::ZERO, Duration::from_millis(100)));
    }

    #[test]
    fn a_value_tells_whose_it_is() {
        assert_eq!(value_of("ab", 5), b"ababa");
        assert_ne!(value_of("a1", 5), value_of("a2", 5));
    }
}
