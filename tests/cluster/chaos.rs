//! Everything at once, in an order that a seed decides: members killed, stopped and moved, the register removed,
//! the supervisor killed, while writers and readers keep books.
//!
//! `ARMDB_CHAOS_SEED` repeats a run's decisions (not its timing), `ARMDB_CHAOS_EVENTS` makes it longer.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers, counters::Counters, process};

const EVENTS: u64 = 25;

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_in_whatever_order_no_acknowledged_write_is_lost_and_no_read_is_stale() {
    let seed = number("ARMDB_CHAOS_SEED").unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(time.subsec_nanos())
    });
    eprintln!("repeat with ARMDB_CHAOS_SEED={seed}");
    let mut dice = Dice(seed);
    // What most people run, most of the time.
    let members = [3, 3, 3, 2, 5][dice.below(5) as usize];
    let replication = ["{}", "{}", "{durability: Os}", "{ack: All}"][dice.below(4) as usize];
    let manifest = Manifest::members(members).shards(1 + dice.below(2) as u32);
    let manifest = manifest.with(&format!("replication: {replication}"));
    eprintln!("{}", manifest.text());
    let mut cluster = Cluster::start(manifest).await;
    let writers = Writers::start(&cluster, 4).await;
    let counters = Counters::start(&cluster, 3).await;
    for event in 0..number("ARMDB_CHAOS_EVENTS").unwrap_or(EVENTS) {
        let what = happens(&mut cluster, &mut dice).await;
        eprintln!("event {event}: {what}");
        tokio::time::sleep(Duration::from_millis(dice.below(1200))).await;
        if dice.below(4) == 0 {
            cluster.healthy().await;
            writers.acknowledge(20).await;
        }
    }
    cluster.healthy().await;
    writers.acknowledge(50).await;
    counters.finish().await;
    writers.finish().await.compare_everywhere(&cluster).await;
}

/// Lets one thing happen, and says which.
async fn happens(cluster: &mut Cluster, dice: &mut Dice) -> String {
    let running: Vec<(String, i32)> = cluster
        .file()
        .members
        .into_iter()
        .filter_map(|member| Some((member.name, i32::try_from(member.pid?).expect("a pid"))))
        .collect();
    let Some((name, pid)) = running.get(dice.below(running.len().max(1) as u64) as usize).cloned() else {
        return "nothing: nobody runs".into();
    };
    match dice.below(10) {
        0 | 1 => {
            cluster.signal(pid, Signal::KILL);
            format!("{name} is killed")
        }
        2 => {
            let Some(leader) = cluster.try_status().await.as_ref().and_then(crate::support::cluster::leader_of) else {
                return "nothing: nobody leads".into();
            };
            cluster.signal(leader.pid.expect("it runs"), Signal::KILL);
            format!("{} is killed while it leads", leader.name)
        }
        3 => {
            for (_, pid) in &running {
                cluster.signal(*pid, Signal::KILL);
            }
            "everybody is killed".into()
        }
        4 | 5 => {
            let time = Duration::from_millis(50 + dice.below(2500));
            cluster.signal(pid, Signal::STOP);
            tokio::time::sleep(time).await;
            cluster.signal(pid, Signal::CONT);
            format!("{name} is stopped for {time:?}")
        }
        6 => {
            cluster.signal(pid, Signal::TERM);
            format!("{name} is told to end")
        }
        7 => {
            let moved = cluster.ask(["switchover"]).await;
            format!("the lead is moved: {}", moved.status)
        }
        8 => {
            let removed = std::fs::remove_file(cluster.dir().join("register.json")).is_ok();
            format!("the register is removed: {removed}")
        }
        _ => {
            cluster.end(Signal::KILL).await;
            crate::support::eventually("nobody is left", async || {
                process::naming(&cluster.dir()).is_empty().then_some(())
            })
            .await;
            cluster.run();
            "the supervisor is killed and started again".into()
        }
    }
}
