//! A cluster on Kubernetes under random faults: run by name, for as long as one likes.
//!
//! `tests/run kubernetes -- --ignored --nocapture torture`; ARMDB_TORTURE_MINUTES (10) says how long faults go on, and
//! ARMDB_TORTURE_SEED repeats the faults of another run (not the timing: that is the machine's). Applications work all the
//! while in three places of the network; from time to time everything must recover. The checker judges the history, every
//! member is compared with the leader, and one table tells it all.

mod faults;
mod site;

use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use armdb::checker;
use armdb::client::{Client, ClientOptions};
use futures::FutureExt as _;
use serde_json::json;

use crate::applications::{Applications, mark, up_to};
use crate::namespace::within;
use crate::support::operator::{Cluster, operator};
use crate::support::{LOOK, PATIENCE, case_alone, eventually, harness};
use faults::Faults;
use site::Site;

const NAME: &str = "torture";
/// Where applications stand, and by which service they enter. With a node that is cut off, its applications are.
const PLACES: [(&str, Service); 3] = [
    ("/proc/self/ns/net", armdb::api::names::service_read_write),
    ("/run/netns/node1", armdb::api::names::service_any),
    ("/run/netns/node2", armdb::api::names::service_read_write),
];
type Service = fn(&str) -> String;
/// Applications in each place.
const APPLICATIONS: u32 = 3;

/// How many writes were acknowledged in a place, and the longest time between two of them.
fn acknowledgements(history: &checker::History, place: u32) -> (usize, Duration) {
    let done = |operation: &&checker::Operation| {
        let written = operation.outcome == checker::Outcome::Done && !operation.changes.is_empty();
        written && operation.client / APPLICATIONS == place
    };
    let mut ends: Vec<checker::Time> = history.operations.iter().filter(done).map(|write| write.end).collect();
    ends.sort_unstable();
    let silence = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    (ends.len(), Duration::from_nanos(silence))
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} makes no sense")))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of faults"]
async fn whatever_fails_nothing_acknowledged_is_lost_nothing_read_is_stale_and_all_recovers() {
    case_alone(NAME, async |namespace| {
        let minutes: f64 = setting("ARMDB_TORTURE_MINUTES").unwrap_or(10.0);
        let seed: u64 = setting("ARMDB_TORTURE_SEED").unwrap_or_else(|| {
            let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            u64::from(time.subsec_nanos())
        });
        println!("torture: {minutes} minutes, seed {seed}");
        operator().await;
        let cluster = Cluster::apply(
            namespace,
            "kv",
            json!({"storage": {"storageClassName": "nvme-local", "size": "1Gi", "shards": 2}}),
        )
        .await;
        cluster.ready().await;
        let mut torture = Torture {
            site: Site::new(namespace, &cluster),
            faults: Faults::new(seed),
            applications: Arc::new(Applications::new(PLACES.len() as u32 * APPLICATIONS)),
            recoveries: Vec::new(),
            wrong: Vec::new(),
        };
        let places = torture.start(seed);
        let run = AssertUnwindSafe(torture.run(Duration::from_secs_f64(minutes * 60.0))).catch_unwind().await;
        torture.applications.stop();
        for place in places {
            tokio::task::block_in_place(|| place.join()).expect("no application panics");
        }
        let survived = run.is_ok();
        if survived {
            torture.compare().await;
        }
        torture.tell();
        println!("repeat with: ARMDB_TORTURE_SEED={seed} ARMDB_TORTURE_MINUTES={minutes}");
        if let Err(panic) = run {
            std::panic::resume_unwind(panic);
        }
        assert!(torture.wrong.is_empty(), "{}", torture.wrong.join("\n"));
    })
    .await;
}

/// See the module.
struct Torture<'a> {
    site: Site<'a>,
    faults: Faults,
    applications: Arc<Applications>,
    recoveries: Vec<Duration>,
    wrong: Vec<String>,
}

impl Torture<'_> {
    fn options(&self, service: Service) -> ClientOptions {
        ClientOptions::new([self.site.cluster.address(service)])
    }

    /// The applications, each place on a thread of its own.
    fn start(&self, seed: u64) -> Vec<std::thread::JoinHandle<()>> {
        let place = |(number, (path, service)): (u32, (&str, Service))| {
            let (applications, options) = (Arc::clone(&self.applications), self.options(service));
            let first = number * APPLICATIONS;
            within(path.to_owned(), move || async move {
                applications.run(options, first..first + APPLICATIONS, seed).await;
            })
        };
        (0..).zip(PLACES).map(place).collect()
    }

    async fn run(&mut self, time: Duration) {
        self.works(200).await;
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.faults.end_due().await;
            let kind = self.faults.next();
            if self.faults.rests() || Faults::wants_health(kind) {
                self.recover().await;
                self.faults.back_up().await;
            }
            for told in self.faults.begin(kind, &mut self.site).await {
                println!("{:8.3} {told}", begun.elapsed().as_secs_f64());
            }
            tokio::time::sleep(self.faults.pause()).await;
        }
        self.recover().await;
    }

    async fn works(&self, more: u64) {
        let looks = (PATIENCE.as_millis() / LOOK.as_millis()) as u32;
        let works = self.applications.acknowledges(more, LOOK, looks).await;
        assert!(works, "{more} more writes are not acknowledged within {PATIENCE:?}");
    }

    /// Everything ends, and the cluster must be Ready, acknowledge writes, and have each of its members up to date.
    async fn recover(&mut self) {
        let over = Instant::now();
        self.faults.end_all().await;
        harness(&["mend"]).await;
        let (begun, mended) = (Instant::now(), over.elapsed());
        // A new generation: a Ready that was told before the faults were over does not count.
        let timeout = json!({"podTimeoutSeconds": 600 + self.recoveries.len()});
        self.site.cluster.patch(json!({"spec": {"update": timeout}})).await;
        eventually("the cluster is Ready again", async || {
            self.site.renew_those_who_wait().await;
            self.site.is_ready().await.then_some(())
        })
        .await;
        self.works(50).await;
        // kube-proxy hears of the endpoints some time after the API server was away.
        let client = eventually("the service of the leaders answers", async || {
            Client::connect(self.options(armdb::api::names::service_read_write)).await.ok()
        })
        .await;
        let marks = eventually("every shard takes a write", async || mark(&client).await.ok()).await;
        for (member, address) in self.site.addresses().await {
            for number in 0..64 {
                let read = client.get_with(format!("mark/{number}"), &up_to(&marks, &address)).await;
                read.unwrap_or_else(|why| panic!("{member} does not have what was acknowledged: {why}"));
            }
        }
        let took = begun.elapsed();
        println!("         Kubernetes is mended after {mended:.1?}, everything recovers within another {took:.1?}");
        self.recoveries.push(took);
    }

    async fn compare(&mut self) {
        let members = self.site.addresses().await;
        let options = self.options(armdb::api::names::service_read_write);
        let differences = self.applications.differences(options, &members).await;
        println!("compared with the leader: {} members, {} differences", members.len(), differences.len());
        self.wrong.extend(differences);
    }

    /// Judges, and prints the table.
    fn tell(&mut self) {
        println!("\nfaults:");
        for (kind, count) in &self.faults.counts {
            println!("  {count:5} {}", kind.text());
        }
        println!("  {:5} in all", self.faults.counts.values().sum::<u64>());
        self.recoveries.sort_unstable();
        if let (Some(longest), half) = (self.recoveries.last(), self.recoveries.len() / 2) {
            let (times, median) = (self.recoveries.len(), self.recoveries[half]);
            println!("everything recovered {times} times: median {median:.1?}, longest {longest:.1?}");
        }
        println!("pods renewed that Kubernetes made wait: {}", self.site.renewed);
        println!("operations: {}", self.applications.told());
        let history = self.applications.history();
        for (number, (path, _)) in (0..).zip(PLACES) {
            let (acknowledged, silence) = acknowledgements(&history, number);
            println!("  at {path}: {acknowledged} writes acknowledged, none for {silence:.1?} at most");
        }
        let begun = Instant::now();
        let report = checker::check(&history);
        println!("verdict: {report}\n  judged in {:?}", begun.elapsed());
        if !report.is_linearizable() {
            self.wrong.push("the history is not linearizable".to_owned());
            let folder = crate::support::harness::failures(NAME);
            let text = serde_json::to_string(&history).expect("a history can be written");
            let left =
                std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("history.json"), text));
            left.expect("the history is left");
            println!("judge it again with: tests/run torture -- --judge {}/history.json", folder.display());
        }
        for wrong in &self.wrong {
            println!("WRONG: {wrong}");
        }
    }
}
