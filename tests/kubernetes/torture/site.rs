//! The cluster under torture: who leads, where members are. Nobody may answer now: then it is as it was last known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::support::operator::{Cluster, NAMESPACE};
use crate::support::{kubectl, processes};

/// A question that takes longer is given up: faults go on.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How many members there are, and nodes.
pub const MEMBERS: u64 = 3;

/// See the module.
pub struct Site<'a> {
    pub namespace: &'a str,
    pub cluster: &'a Cluster<'a>,
    /// Pods that were deleted because Kubernetes let them wait.
    pub renewed: usize,
    nodes: BTreeMap<String, u64>,
    leader: String,
}

/// `kubectl` with a limit of time.
pub async fn ask(arguments: &[&str]) -> Option<String> {
    let asked = kubectl([&["--request-timeout=3s"], arguments].concat());
    tokio::time::timeout(TIMEOUT, asked).await.ok()?.ok()
}

/// The name of a member.
pub fn name(member: u64) -> String {
    format!("kv-0-{member}")
}

impl<'a> Site<'a> {
    pub fn new(namespace: &'a str, cluster: &'a Cluster<'a>) -> Self {
        let nodes = (0..MEMBERS).map(|member| (name(member), member + 1)).collect();
        Self { namespace, cluster, renewed: 0, nodes, leader: name(0) }
    }

    pub async fn ask(&self, arguments: &[&str]) -> Option<String> {
        ask(&[&["-n", self.namespace], arguments].concat()).await
    }

    /// Who leads.
    pub async fn leader(&mut self) -> String {
        let path = "jsonpath={.status.partitions[0].leader}";
        let told = self.ask(&["get", "armdb", "kv", "-o", path]).await;
        if let Some(leader) = told.filter(|leader| !leader.is_empty()) {
            self.leader = leader;
        }
        self.leader.clone()
    }

    /// The number of the node where a member is.
    pub async fn node(&mut self, member: &str) -> u64 {
        let node = self.ask(&["get", "pod", member, "-o", "jsonpath={.spec.nodeName}"]).await;
        if let Some(number) = node.and_then(|node| node.strip_prefix("node")?.parse().ok()) {
            self.nodes.insert(member.to_owned(), number);
        }
        self.nodes[member]
    }

    /// The number of a member's process, if it runs.
    pub fn process(&self, member: &str) -> Option<i32> {
        let mut found = processes::armdb("node").into_iter().filter(|(_, line)| self.is_of(member, line));
        found.next().map(|(number, _)| number)
    }

    /// Whether these are the arguments of a member's process.
    pub fn is_of(&self, member: &str, line: &[String]) -> bool {
        let peer = armdb::api::names::peer_name("kv", self.namespace);
        [member, &peer].iter().all(|word| line.iter().any(|argument| argument == word))
    }

    /// Whether the operator says so of what is asked for now.
    pub async fn is_ready(&self) -> bool {
        let wait = ["wait", "--for=condition=Ready", "armdb/kv", "--timeout=2s"];
        self.ask(&wait).await.is_some()
    }

    /// Name and address of each member.
    pub async fn addresses(&self) -> Vec<(String, String)> {
        let each = "{range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let told = self.ask(&["get", "pods", "-l", "armdb.io/cluster=kv", "-o", &format!("jsonpath={each}")]).await;
        let told = told.expect("pods can be listed when everything is well");
        let pods = told.lines().filter_map(|line| line.split_once(' '));
        let addresses: Vec<_> = pods.map(|(name, ip)| (name.to_owned(), format!("{ip}:7400"))).collect();
        assert_eq!(addresses.len() as u64, MEMBERS, "{told}");
        addresses
    }

    /// Kubernetes starts a container that ended often after a longer and longer time, of minutes in the end. Another pod
    /// is started at once, which is what somebody in a hurry does.
    pub async fn renew_those_who_wait(&mut self) {
        for namespace in [self.namespace, NAMESPACE] {
            let Some(pods) = ask(&["-n", namespace, "get", "pods", "-o", "json"]).await else { return };
            let pods: Value = serde_json::from_str(&pods).expect("kubectl prints JSON");
            let waits = |pod: &&Value| {
                let state = &pod["status"]["containerStatuses"][0]["state"];
                state["waiting"]["reason"] == "CrashLoopBackOff" && pod["metadata"]["deletionTimestamp"].is_null()
            };
            let waiting: BTreeSet<&str> = pods["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(waits)
                .filter_map(|pod| pod["metadata"]["name"].as_str())
                .collect();
            for pod in waiting {
                if ask(&["-n", namespace, "delete", "pod", pod, "--wait=false"]).await.is_some() {
                    self.renewed += 1;
                }
            }
        }
    }
}
