//! Real processes under real faults: `tests/run torture --minutes N [--seed S]`.
//!
//! Members of `armdb local`, its controller and clients, each in a network namespace of its own; applications that write
//! down what they asked and got; faults in an order that a seed decides (not the timing: that is the machine's); from time
//! to time everything must recover. At the end the checker judges the history, every member is compared with the leader,
//! and one table tells it all. When anything is wrong, logs, data and history stay in one folder, which is named.

mod applications;
mod clocks;
mod dice;
mod faults;
mod kinds;
mod lasting;
mod namespace;
mod samples;
mod site;
#[allow(dead_code, unused_imports, reason = "the scenarios of `cluster` use the rest")]
#[path = "../cluster/support/mod.rs"]
mod support;
mod wire;
mod workload;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use armdb::checker;
use clap::Parser as _;
use dice::Dice;
use faults::{Faults, Kind};
use futures::FutureExt as _;
use rustix::process::Signal;
use samples::Samples;
use site::Site;
use support::Manifest;
use workload::Workload;

/// Between two looks at whether everything has recovered.
const LOOK: Duration = Duration::from_millis(100);
/// After so many looks (two minutes where nothing else runs) it must have. Looks, not seconds: on a machine that gives us
/// no time, members have none either.
const LOOKS: u32 = 1200;

#[derive(Debug, clap::Parser)]
struct Args {
    /// How long faults go on
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Repeats the faults of another run
    #[arg(long)]
    seed: Option<u64>,
    /// Another `spec.replication` than the seed would choose: with `{ack: Leader}` writes must be seen to be lost
    #[arg(long, value_name = "YAML")]
    replication: Option<String>,
    /// Only judge a history that an earlier run has left
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(file) = &args.judge {
        let text = std::fs::read_to_string(file).expect("the history can be read");
        let report = checker::check(&serde_json::from_str(&text).expect("a history"));
        println!("{report}");
        return if report.is_linearizable() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(why) = impossible() {
        support::skip("torture", &why);
        return ExitCode::SUCCESS;
    }
    let seed = args.seed.unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(time.subsec_nanos())
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    runtime.expect("a runtime").block_on(torture(seed, time, args.replication.as_deref()))
}

/// Why this machine cannot do it. Else this process is in a mount namespace of its own afterwards, in which it may mount
/// what it likes. (Called while it has one thread.)
fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    // SAFETY: there is one thread, and nothing depends on what is mounted where.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Some(format!("no mount namespace: {}", std::io::Error::last_os_error()));
    }
    let private = Command::new("mount").args(["--make-rprivate", "/"]).status();
    if !private.is_ok_and(|status| status.success()) {
        return Some("mounts cannot be kept from the rest of the system".into());
    }
    namespace::Namespace::new([10, 0, 0, 1].into()).err().map(|error| format!("no network namespace: {error}"))
}

/// What a run has to show.
#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    rests: u32,
}

async fn torture(seed: u64, time: Duration, replication: Option<&str>) -> ExitCode {
    let mut dice = Dice::new(seed);
    let members = *dice.pick(&[3, 3, 3, 4, 5]).expect("not empty");
    let drawn = *dice.pick(&["{}", "{}", "{durability: Os}", "{ack: All}"]).expect("not empty");
    let replication = replication.unwrap_or(drawn);
    let shards = 1 + dice.below(2) as u32;
    let manifest = Manifest::members(members).shards(shards).with(&format!("replication: {replication}"));
    println!("seed {seed}: {members} members, {shards} shards, replication {replication}");
    let small = dice.below(u64::from(members)) as usize;
    let mut site = Site::new(manifest, seed, small).expect("namespaces, tunnels and files are made");
    for lacking in [site.clocks.as_ref().err(), site.small.as_ref().err()].into_iter().flatten() {
        println!("this machine cannot do everything: {lacking}");
    }
    let begun = Instant::now();
    let mut faults = Faults::new(dice.below(u64::MAX));
    let mut samples = Samples::default();
    let mut findings = Findings::default();
    let mut workload = None;
    // A new leader knows the median of the clocks only if those who answered FENCE are a majority.
    let lives_are_whole = members % 2 == 1 && !replication.contains("All");
    let with = (seed, lives_are_whole);
    let run = run(&mut site, &mut faults, &mut samples, &mut findings, &mut workload, with, time);
    if let Err(panic) = std::panic::AssertUnwindSafe(run).catch_unwind().await {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        findings.wrong.push(text.unwrap_or_else(|| "it panicked".into()));
    }
    faults.end_all(&site);
    let verdict = tell(&site, &faults, &samples, &mut findings, &mut workload, begun.elapsed(), seed);
    let failed = !findings.wrong.is_empty();
    if let (true, Some(history)) = (failed, verdict) {
        keep(&mut site, &history);
    }
    // Whoever runs on the small disk ends before it goes.
    let _ = std::panic::AssertUnwindSafe(site.cluster.end(Signal::TERM)).catch_unwind().await;
    site::release_disk(&site);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn run(
    site: &mut Site,
    faults: &mut Faults,
    samples: &mut Samples,
    findings: &mut Findings,
    workload: &mut Option<Workload>,
    (seed, lives_are_whole): (u64, bool),
    time: Duration,
) {
    site.run();
    site.cluster.healthy().await;
    let workload = workload.insert(Workload::start(site, seed));
    assert!(workload.acknowledges(200, LOOK, LOOKS).await, "no writes are acknowledged before any fault");
    samples.look(site).await;
    if !lives_are_whole {
        workload.expect_short_lives();
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        faults.end_due(site);
        let kind = faults.next();
        if faults.rests() || Faults::wants_health(kind) {
            recover(site, faults, workload).await;
            findings.rests += 1;
            samples.look(site).await;
        }
        if kind == Kind::Clock {
            workload.expect_short_lives();
        }
        if let Some(what) = faults.begin(kind, site).await {
            println!("{:8.3} {what}", begun.elapsed().as_secs_f64());
        }
        tokio::time::sleep(faults.pause()).await;
        samples.look(site).await;
    }
    recover(site, faults, workload).await;
    workload.stop();
    site.cluster.healthy().await;
    samples.look(site).await;
    findings.wrong.extend(workload.read_everything(site));
    findings.wrong.extend(samples.excesses());
}

/// Everything ends, and everybody must be in sync and serve.
async fn recover(site: &Site, faults: &mut Faults, workload: &Workload) {
    faults.end_all(site);
    let begun = Instant::now();
    let mut last = None;
    for look in 0.. {
        last = site.cluster.try_status().await.or(last);
        if last.as_ref().is_some_and(|status| site.cluster.whole(status).is_some()) {
            break;
        }
        let text = || last.as_ref().and_then(|status| serde_json::to_string(status).ok());
        assert!(look < LOOKS, "not recovered after {:?}; the last status: {:?}", begun.elapsed(), text());
        tokio::time::sleep(LOOK).await;
    }
    assert!(workload.acknowledges(50, LOOK, LOOKS).await, "all members are in sync and no writes are acknowledged");
    println!("         everything recovers within {:?}", begun.elapsed());
}

/// Judges and prints the table; the history, if there is one.
fn tell(
    site: &Site,
    faults: &Faults,
    samples: &Samples,
    findings: &mut Findings,
    workload: &mut Option<Workload>,
    took: Duration,
    seed: u64,
) -> Option<checker::History> {
    println!("\nfaults:");
    for (kind, count) in &faults.counts {
        println!("  {count:5} {}", kind.text());
    }
    println!("  {:5} in all; everything recovered {} times", faults.counts.values().sum::<u64>(), findings.rests);
    let (carried, lost) = site.wire.figures();
    let late = site.wire.latest();
    println!(
        "network: {carried} packets carried, {lost} lost on purpose; this machine kept it waiting for up to {late:?}"
    );
    println!("members: largest lag {} bytes", samples.max_lag_bytes);
    for line in samples.lines(site) {
        println!("  {line}");
    }
    let history = workload.as_mut().map(|workload| {
        workload.stop();
        println!("operations: {}", workload.told());
        let history = workload.history();
        let begun = Instant::now();
        let report = checker::check(&history);
        println!("verdict: {report}\n  judged in {:?}", begun.elapsed());
        if !report.is_linearizable() {
            findings.wrong.push("the history is not linearizable".into());
        }
        history
    });
    for wrong in &findings.wrong {
        println!("WRONG: {wrong}");
    }
    let minutes = took.as_secs_f64() / 60.0;
    println!("{minutes:.1} minutes; repeat with: tests/run torture --minutes {minutes:.0} --seed {seed}");
    println!("{}", if findings.wrong.is_empty() { "torture: passed" } else { "torture: FAILED" });
    history
}

/// Leaves everything where it is, with the history beside it.
fn keep(site: &mut Site, history: &checker::History) {
    let home = site.cluster.keep();
    if let Ok(member) = site.small {
        // The small disk is gone with this process; its log is what is looked at first.
        let _ = std::fs::copy(site.cluster.dir().join(site::name(member)).join("log"), home.join("log-of-small-disk"));
    }
    let text = serde_json::to_string(history).expect("a history can be written");
    std::fs::write(home.join("history.json"), text).expect("the history is written");
    println!("logs, data and history are in {}; judge it again with: --judge .../history.json", home.display());
}
