//! How long it takes, and what it costs: run by name, on a machine that does nothing else.
//!
//! `PROFILE=release tests/run kubernetes -- --ignored --nocapture measures`

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::http_get;
use crate::support::operator::{Cluster, NAMESPACE, operator};
use crate::support::workload::Workload;
use crate::support::{case_alone, get, harness, kubectl};

const KILLS: usize = 20;
const PARTITIONS: usize = 5;
const SWITCHOVERS: usize = 20;

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:?}, worst {worst:?} of {}", times.len());
}

/// The time without acknowledged writes around `disturb`, `runs` times; and how many operations failed in all.
async fn silences(
    cluster: &Cluster<'_>,
    what: &str,
    runs: usize,
    disturb: impl AsyncFn(&str),
    mend: impl AsyncFn(&str),
) {
    let (mut times, mut failed) = (Vec::new(), 0);
    for run in 0..runs {
        let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);
        let workload = Workload::start(&cluster.client().await, &format!("{what}-{run}"), 4);
        workload.acknowledges(200).await;
        disturb(&leader).await;
        cluster.led_anew(epoch).await;
        workload.acknowledges(200).await;
        mend(&leader).await;
        cluster.ready().await;
        let history = workload.finish().await;
        failed += history.failures().len();
        times.push(history.longest_silence());
    }
    tell(&format!("{what}, time without acknowledged writes"), times);
    println!("{what}: {failed} operations failed or are of unknown outcome");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn failover_switchover_and_what_the_operator_takes() {
    case_alone("measures", async |namespace| {
        operator().await;
        let began = Instant::now();
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        println!("from apply to Ready: {:?}", began.elapsed());

        let kill = async |leader: &str| drop(harness(&["signal", "KILL", namespace, leader]).await);
        silences(&cluster, "leader killed", KILLS, kill, async |_| {}).await;

        let node = async |leader: &str| {
            let pod = get(namespace, "pod", leader).await.expect("it is there");
            pod["spec"]["nodeName"].as_str().and_then(|name| name.strip_prefix("node")).expect("a node").to_owned()
        };
        let down = async |leader: &str| drop(harness(&["node-down", &node(leader).await]).await);
        let up = async |leader: &str| drop(harness(&["node-up", &node(leader).await]).await);
        silences(&cluster, "leader's node unplugged", PARTITIONS, down, up).await;

        let request = std::sync::atomic::AtomicUsize::new(0);
        let switch = async |_: &str| {
            let id = request.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let annotations = json!({"armdb.io/switchover": format!("any@measure-{id}")});
            cluster.patch(json!({"metadata": {"annotations": annotations}})).await;
        };
        silences(&cluster, "switchover", SWITCHOVERS, switch, async |_| {}).await;

        operators().await;
    })
    .await;
}

/// Memory of the operator's processes, and how long its looks at clusters take.
async fn operators() {
    for process in std::fs::read_dir("/proc").expect("there is one").flatten() {
        let read = |file: &str| std::fs::read_to_string(process.path().join(file)).unwrap_or_default();
        if read("cmdline").starts_with("/armdb\0operator\0") {
            let status = read("status");
            let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
            println!("operator: {}", memory.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let selector = "app.kubernetes.io/name=armdb-operator";
    let pods = kubectl(["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "json"]).await.expect("they are listed");
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    for pod in pods["items"].as_array().expect("a list") {
        let ip = pod["status"]["podIP"].as_str().expect("it runs");
        let metrics = http_get((ip, 8080), "/metrics").await.expect("it answers");
        for line in metrics.lines().filter(|line| line.starts_with("armdb_operator_reconcile_seconds")) {
            println!("{line}");
        }
    }
}
