//! How long it takes, and what it costs: run by name, on a machine that does nothing else.
//!
//! `PROFILE=release tests/run kubernetes -- --ignored --nocapture measures`; `RUNS=2` for a look whether it works.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::http_get;
use crate::support::operator::{Cluster, NAMESPACE, operator};
use crate::support::replicas::replicas;
use crate::support::workload::Workload;
use crate::support::{audit, case_alone, get, harness, kubectl, processes};

const KILLS: usize = 20;
const PARTITIONS: usize = 5;
const SWITCHOVERS: usize = 20;
/// How many clusters lie idle, and for how long.
const IDLE_CLUSTERS: usize = 5;
const IDLE: Duration = Duration::from_secs(60);

fn runs(usual: usize) -> usize {
    std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(usual)
}

/// Rows of (what, how often, median or only value, worst).
#[derive(Default)]
struct Table(Vec<[String; 4]>);

impl Table {
    fn row(&mut self, what: &str, runs: usize, value: impl ToString, worst: impl ToString) {
        let row = [what.to_owned(), runs.to_string(), value.to_string(), worst.to_string()];
        println!("{}", row.join(" | "));
        self.0.push(row);
    }

    fn times(&mut self, what: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        let millis = |time: Duration| format!("{} ms", time.as_millis());
        self.row(what, times.len(), millis(times[times.len() / 2]), millis(times[times.len() - 1]));
    }

    fn print(&self) {
        println!("\n| measured | runs | median | worst |\n|---|---|---|---|");
        for row in &self.0 {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// The time without acknowledged writes around `disturb`, so many times; and how many operations failed in all.
async fn silences(
    table: &mut Table,
    cluster: &Cluster<'_>,
    what: &str,
    usual: usize,
    disturb: impl AsyncFn(&str),
    mend: impl AsyncFn(&str),
) {
    let (mut times, mut failed) = (Vec::new(), 0);
    for run in 0..runs(usual) {
        let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);
        let workload = Workload::start(&cluster.client().await, &format!("{what}-{run}"), 4);
        workload.acknowledges(200).await;
        disturb(&leader).await;
        cluster.led_anew(epoch).await;
        workload.acknowledges(200).await;
        let history = workload.finish().await;
        failed += history.failures().len();
        times.push(history.longest_silence());
        mend(&leader).await;
        cluster.ready().await;
    }
    let count = times.len();
    table.times(&format!("{what}: time without acknowledged writes"), times);
    table.row(&format!("{what}: operations that failed or are of unknown outcome"), count, failed, "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn failover_switchover_and_what_the_operator_takes() {
    case_alone("measures", async |namespace| {
        operator().await;
        let mut table = Table::default();
        let began = Instant::now();
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        table.times("from apply to Ready", vec![began.elapsed()]);

        let kill = async |leader: &str| drop(harness(&["signal", "KILL", namespace, leader]).await);
        // Another pod: Kubernetes lets a container that ends often wait for longer and longer.
        let renew = async |leader: &str| {
            kubectl(["-n", namespace, "delete", "pod", leader]).await.expect("deleted");
        };
        silences(&mut table, &cluster, "leader killed", KILLS, kill, renew).await;

        let node = async |leader: &str| {
            let pod = get(namespace, "pod", leader).await.expect("it is there");
            pod["spec"]["nodeName"].as_str().and_then(|name| name.strip_prefix("node")).expect("a node").to_owned()
        };
        let down = async |leader: &str| drop(harness(&["node-down", &node(leader).await]).await);
        let up = async |leader: &str| drop(harness(&["node-up", &node(leader).await]).await);
        silences(&mut table, &cluster, "leader's node unplugged", PARTITIONS, down, up).await;

        let request = std::sync::atomic::AtomicUsize::new(0);
        let switch = async |_: &str| {
            let id = request.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let annotations = json!({"armdb.io/switchover": format!("any@measure-{id}")});
            cluster.patch(json!({"metadata": {"annotations": annotations}})).await;
        };
        silences(&mut table, &cluster, "switchover", SWITCHOVERS, switch, async |_| {}).await;

        idle(&mut table, namespace).await;
        operators(&mut table).await;
        table.print();
    })
    .await;
}

/// What the operator writes for clusters that nobody uses, its leases left out.
async fn idle(table: &mut Table, namespace: &str) {
    let names: Vec<String> = (0..IDLE_CLUSTERS).map(|number| format!("idle{number}")).collect();
    let began = Instant::now();
    let mut clusters = Vec::new();
    for name in &names {
        clusters.push(Cluster::apply(namespace, name, json!({})).await);
    }
    for cluster in &clusters {
        cluster.ready().await;
    }
    table.times(&format!("from apply to Ready, {IDLE_CLUSTERS} at once"), vec![began.elapsed()]);
    // A status may be told once more when the last number has settled.
    tokio::time::sleep(IDLE / 4).await;
    let mark = audit::mark();
    tokio::time::sleep(IDLE).await;
    let mut writes = audit::writes_since(mark, NAMESPACE);
    writes.retain(|write| [namespace, NAMESPACE].iter().any(|here| write.contains(&format!(" {here}/"))));
    let told = writes.join("; ");
    table.row("write requests in a minute, all clusters idle, without leases", 1, writes.len(), told);
}

/// Memory of the operator's processes, and how long its looks at clusters take.
async fn operators(table: &mut Table) {
    let mut memory = Vec::new();
    for (process, _) in processes::armdb("operator") {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kibibytes = resident.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number");
        memory.push(kibibytes / 1024);
    }
    memory.sort_unstable();
    let mebibytes = |index: usize| format!("{} MiB", memory[index]);
    table.row("operator: resident memory of a replica", memory.len(), mebibytes(0), mebibytes(memory.len() - 1));

    // Looks of all replicas, by how long they took at most.
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for replica in replicas().await {
        let metrics = http_get((replica.ip.as_str(), 8080), "/metrics").await.expect("it answers");
        for line in metrics.lines().filter(|line| line.starts_with("armdb_operator_reconcile_seconds_bucket")) {
            let bound = line.split('"').nth(1).expect("a bound");
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a number") };
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count");
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = buckets.last().map_or(0, |(_, count)| *count);
    let within = |share: f64| {
        let (bound, _) = buckets.iter().find(|(_, count)| *count as f64 >= share * all as f64).expect("there are some");
        format!("<= {} ms", bound * 1000.0)
    };
    let count = usize::try_from(all).expect("few");
    table.row("operator: a look at a cluster, median and p99", count, within(0.5), within(0.99));
}
