//! What is done to the cluster, its nodes, its operator and Kubernetes itself: a seed decides what comes, to whom, for how
//! long; some faults last while the next ones come.
//!
//! A volume is given up, and etcd put back, only when every member is in sync: the promise is that a minority may be lost.
//! For the same reason etcd never goes back behind the loss of a volume: the claims of then name volumes that were emptied.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::task::JoinSet;

use super::site::{MEMBERS, Site, ask, name};
use crate::dice::Dice;
use crate::kinds::kinds;
use crate::lasting::Lasting;
use crate::support::etcd::Backup;
use crate::support::harness::harness_outcome;
use crate::support::operator::NAMESPACE;
use crate::support::processes;

/// How long somebody may be cut off, or a part of Kubernetes be away.
const AWAY: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(20));
/// How long a process may be stopped.
const STOP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(20));
/// The node that loses its power: no application stands there, whose network would be gone.
const POWER: u64 = 3;
const OPERATORS: &str = "app.kubernetes.io/name=armdb-operator";
const PODS: &str = "armdb.io/cluster=kv";
const NO_GRACE: &[&str] = &["--grace-period=0", "--force"];

kinds! {
    KillMember 10 "a member killed (SIGKILL)",
    KillLeader 8 "the leader killed",
    KillAll 3 "all members killed at once",
    StopMember 5 "a member stopped (SIGSTOP)",
    StopLeader 4 "the leader stopped",
    DeletePod 5 "a pod deleted",
    DeleteLeader 4 "the leader's pod deleted",
    ForcePod 5 "a pod deleted without grace",
    DeleteAll 2 "all pods deleted",
    Unplug 6 "a node unplugged",
    UnplugLeader 6 "the leader's node unplugged",
    Apart 6 "two nodes that do not reach each other",
    PowerCut 3 "a node's power cut",
    KillOperator 5 "an operator killed",
    KillOperators 4 "all operators killed",
    DeleteOperators 3 "the operator's pods deleted without grace",
    RestartApiServer 4 "the API server restarted",
    ApiServerAway 5 "the API server away",
    EtcdAway 3 "etcd away",
    OtherAway 3 "another part of the control plane away",
    Several 6 "several at once",
    LoseVolume 4 "a volume claim deleted with its pod",
    EtcdBack 4 "etcd put back to an older state",
    Switchover 5 "a switchover asked for",
}

/// What ends when a fault ends.
enum Undo {
    Continue(i32, Vec<String>),
    Plug(u64),
    Power,
    Join(u64, u64),
    Start(&'static str),
}

/// See the module.
pub struct Faults {
    dice: Dice,
    active: Lasting<Undo>,
    /// Nodes that are being plugged in or booted again.
    coming: JoinSet<()>,
    backup: Option<Backup>,
    requests: u64,
    /// How many of each kind were begun.
    pub counts: BTreeMap<Kind, u64>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            active: Lasting::new(),
            coming: JoinSet::new(),
            backup: None,
            requests: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Ends what is due.
    pub async fn end_due(&mut self) {
        let due = self.active.due();
        self.end(due).await;
    }

    /// Ends everything.
    pub async fn end_all(&mut self) {
        let all = self.active.all();
        self.end(all).await;
        while self.coming.join_next().await.is_some() {}
    }

    async fn end(&mut self, faults: Vec<Undo>) {
        for undo in faults {
            match undo {
                // Its number may have been given to another process since.
                Undo::Continue(process, line) if processes::arguments(process) == line => {
                    signal(process, Signal::CONT);
                }
                Undo::Continue(..) => {}
                Undo::Plug(node) => self.come("node-up", node),
                Undo::Power => self.come("power-on", POWER),
                // Gone already if the node was without power since.
                Undo::Join(one, other) => drop(route("del", one, other).await),
                Undo::Start(component) => drop(harness_outcome(&["start", component]).await),
            }
        }
    }

    /// Not waited for: where the API server does not answer, that takes as long as it is away.
    fn come(&mut self, how: &'static str, node: u64) {
        self.coming.spawn(async move { drop(harness_outcome(&[how, &node.to_string()]).await) });
    }

    /// Remembers what Kubernetes knows, now and then: when all is well.
    pub async fn back_up(&mut self) {
        if self.backup.is_none() && self.dice.one_in(2) {
            self.backup = Some(Backup::take().await);
        }
    }

    /// How long to wait for the next.
    pub fn pause(&mut self) -> Duration {
        self.dice.time(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// Whether to let everything recover now.
    pub fn rests(&mut self) -> bool {
        self.dice.one_in(12)
    }

    /// Which comes next.
    pub fn next(&mut self) -> Kind {
        Kind::draw(&mut self.dice)
    }

    /// Whether it may begin only when every member is in sync.
    pub fn wants_health(kind: Kind) -> bool {
        matches!(kind, Kind::LoseVolume | Kind::EtcdBack)
    }

    /// Begins a fault; what happened, in words. Nothing = it could not be begun now.
    pub async fn begin(&mut self, kind: Kind, site: &mut Site<'_>) -> Vec<String> {
        let mut kinds = vec![kind];
        if kind == Kind::Several {
            let count = 2 + self.dice.below(2);
            let mut others = std::iter::from_fn(|| Some(self.next()));
            let fits = |kind: &Kind| *kind != Kind::Several && !Self::wants_health(*kind);
            kinds = others.by_ref().filter(fits).take(count as usize).collect();
            *self.counts.entry(kind).or_default() += 1;
        }
        let mut told = Vec::new();
        for kind in kinds {
            if let Some(begun) = self.try_begin(kind, site).await {
                *self.counts.entry(kind).or_default() += 1;
                told.push(begun);
            }
        }
        told
    }

    async fn try_begin(&mut self, kind: Kind, site: &mut Site<'_>) -> Option<String> {
        let member = name(self.dice.below(MEMBERS));
        match kind {
            Kind::KillMember => kill(site, &member).map(|()| format!("{member} is killed")),
            Kind::KillLeader => {
                let leader = site.leader().await;
                kill(site, &leader).map(|()| format!("{leader} is killed while it leads"))
            }
            Kind::KillAll => {
                let killed = (0..MEMBERS).filter_map(|member| kill(site, &name(member))).count();
                (killed > 0).then(|| format!("all {killed} members that run are killed"))
            }
            Kind::StopMember => self.stop(site, member),
            Kind::StopLeader => {
                let leader = site.leader().await;
                self.stop(site, leader)
            }
            Kind::DeletePod => delete(site, &[&member]).await,
            Kind::DeleteLeader => {
                let leader = site.leader().await;
                delete(site, &[&leader]).await
            }
            Kind::ForcePod => delete(site, &[&[&*member], NO_GRACE].concat()).await,
            Kind::DeleteAll => delete(site, &["-l", PODS]).await,
            Kind::Unplug => {
                let node = 1 + self.dice.below(MEMBERS);
                self.unplug(node, "").await
            }
            Kind::UnplugLeader => {
                let leader = site.leader().await;
                let node = site.node(&leader).await;
                self.unplug(node, &format!(", where {leader} leads,")).await
            }
            Kind::Apart => {
                let one = 1 + self.dice.below(MEMBERS);
                let other = 1 + (one + self.dice.below(MEMBERS - 1)) % MEMBERS;
                route("add", one, other).await?;
                let time = self.last(AWAY, Undo::Join(one, other));
                Some(format!("nodes {one} and {other} do not reach each other for {time:?}"))
            }
            Kind::PowerCut => {
                harness_outcome(&["power-cut", &POWER.to_string()]).await.ok()?;
                let time = self.last(AWAY, Undo::Power);
                Some(format!("node {POWER} is without power for {time:?}"))
            }
            Kind::KillOperator => {
                let running = operators();
                let operator = *self.dice.pick(&running)?;
                signal(operator, Signal::KILL).then(|| "an operator is killed".to_owned())
            }
            Kind::KillOperators => {
                let killed = operators().into_iter().filter(|operator| signal(*operator, Signal::KILL)).count();
                (killed > 0).then(|| format!("all {killed} operators that run are killed"))
            }
            Kind::DeleteOperators => {
                let pods = ["-n", NAMESPACE, "delete", "pods", "-l", OPERATORS, "--wait=false"];
                ask(&[&pods, NO_GRACE].concat()).await.map(|_| "the operator's pods are taken away".to_owned())
            }
            Kind::RestartApiServer => {
                harness_outcome(&["stop", "kube-apiserver"]).await.ok()?;
                harness_outcome(&["start", "kube-apiserver"]).await.ok()?;
                Some("the API server is killed and started again".to_owned())
            }
            Kind::ApiServerAway => self.away("kube-apiserver").await,
            Kind::EtcdAway => self.away("etcd").await,
            Kind::OtherAway => {
                let others = ["kube-controller-manager", "kube-scheduler", "dns", "kube-proxy"];
                let other = *self.dice.pick(&others).expect("not empty");
                self.away(other).await
            }
            Kind::Several => None,
            Kind::LoseVolume => {
                self.backup = None;
                site.ask(&["delete", "pvc", &format!("data-{member}"), "--wait=false"]).await?;
                site.ask(&["delete", "pod", &member, "--wait=false"]).await?;
                Some(format!("{member} has lost its volume"))
            }
            Kind::EtcdBack => {
                self.backup.take()?.restore().await;
                Some("etcd is put back".to_owned())
            }
            Kind::Switchover => {
                self.requests += 1;
                let request = format!("armdb.io/switchover=any@torture-{}", self.requests);
                site.ask(&["annotate", "--overwrite", "armdb", "kv", &request]).await?;
                Some("the lead is asked to move".to_owned())
            }
        }
    }

    fn stop(&mut self, site: &Site<'_>, member: String) -> Option<String> {
        let process = site.process(&member)?;
        let line = processes::arguments(process);
        signal(process, Signal::STOP).then_some(())?;
        let time = self.last(STOP, Undo::Continue(process, line));
        Some(format!("{member} is stopped for {time:?}"))
    }

    async fn unplug(&mut self, node: u64, whose: &str) -> Option<String> {
        harness_outcome(&["node-down", &node.to_string()]).await.ok()?;
        let time = self.last(AWAY, Undo::Plug(node));
        Some(format!("node {node}{whose} is unplugged for {time:?}"))
    }

    async fn away(&mut self, component: &'static str) -> Option<String> {
        harness_outcome(&["stop", component]).await.ok()?;
        let time = self.last(AWAY, Undo::Start(component));
        Some(format!("{component} is away for {time:?}"))
    }

    fn last(&mut self, (from, to): (Duration, Duration), undo: Undo) -> Duration {
        let time = self.dice.time(from, to);
        self.active.begin(time, undo);
        time
    }
}

/// No pod of node `one` reaches any of node `other`, nor is answered by one. Everybody else does.
async fn route(verb: &str, one: u64, other: u64) -> Option<()> {
    let network = format!("10.244.{other}.0/24");
    harness_outcome(&["node-run", &one.to_string(), "ip", "route", verb, "blackhole", &network]).await.ok().map(drop)
}

async fn delete(site: &Site<'_>, which: &[&str]) -> Option<String> {
    site.ask(&[&["delete", "pod", "--wait=false"], which].concat()).await?;
    Some(format!("deleted: pod {}", which.join(" ")))
}

fn kill(site: &Site<'_>, member: &str) -> Option<()> {
    signal(site.process(member)?, Signal::KILL).then_some(())
}

fn operators() -> Vec<i32> {
    processes::armdb("operator").into_iter().map(|(process, _)| process).collect()
}

/// False = there is no such process.
fn signal(process: i32, signal: Signal) -> bool {
    Pid::from_raw(process).is_some_and(|process| rustix::process::kill_process(process, signal).is_ok())
}
