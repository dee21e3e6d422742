//! What a manifest means on one machine: which members, with which files and ports, under which wishes.
//!
//! Pure but for the choice of ports. Refuses what cannot be changed once data is formatted, with both values.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::directory::{ClusterFile, MemberEntry};
use super::error::LocalError;
use super::ports;
use crate::api::{self, ArmdbClusterSpec, ArmdbPartitionSpec};
use crate::drive::partition_wish;
use crate::ident::ClusterId;
use crate::topology::spec::{ExpectedMember, PartitionSpec};

/// A cluster to run: its name and what its owner asks for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cluster's name.
    pub name: String,
    /// The manifest's spec.
    pub spec: ArmdbClusterSpec,
}

impl Plan {
    /// The wish for each partition, as topology reads it.
    pub fn partition(&self) -> PartitionSpec {
        // What partitions are run by does not depend on which one it is, nor on the id.
        partition_wish(&ArmdbPartitionSpec::of(&self.name, "", &self.spec, 0))
    }

    /// The cluster to take over when the register is lost, if the manifest names one.
    pub fn adopt(&self) -> Option<ClusterId> {
        self.spec.bootstrap.as_ref()?.adopt.as_ref()?.cluster_id.parse().ok()
    }

    /// The cluster's file with every member of this plan in it: the old one checked and completed, or a new one.
    pub fn complete(&self, old: Option<ClusterFile>, dir: &Path) -> Result<ClusterFile, LocalError> {
        let (partitions, shards) = (unsigned(self.spec.partitions), unsigned(self.spec.storage.shards));
        let mut file = match old {
            Some(file) => {
                self.check(&file, dir)?;
                file
            }
            None => ClusterFile::new(
                self.name.clone(),
                self.adopt().unwrap_or_else(ClusterId::random),
                partitions,
                shards,
                dir,
            ),
        };
        file.control_socket = dir.join("control.sock");
        for member in &mut file.members {
            member.pid = None;
        }
        let mut missing = Vec::new();
        for partition in 0..partitions {
            for ordinal in 0..unsigned(self.spec.replicas) {
                if !file.members.iter().any(|member| member.partition == partition && member.ordinal == ordinal) {
                    missing.push((partition, ordinal));
                }
            }
        }
        let taken: BTreeSet<u16> =
            file.members.iter().flat_map(|m| [m.client.port(), m.peer.port(), m.http.port()]).collect();
        let free = ports::choose(missing.len() * 3, &taken)?;
        for ((partition, ordinal), ports) in missing.into_iter().zip(free.chunks_exact(3)) {
            let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            file.members.push(MemberEntry {
                name: api::names::member(&self.name, partition as i32, ordinal as i32),
                partition,
                ordinal,
                client: at(ports[0]),
                peer: at(ports[1]),
                http: at(ports[2]),
                pid: None,
            });
        }
        file.members.sort_by_key(|member| (member.partition, member.ordinal));
        Ok(file)
    }

    /// Refuses a manifest that contradicts what the directory holds.
    fn check(&self, file: &ClusterFile, dir: &Path) -> Result<(), LocalError> {
        if file.cluster != self.name {
            return Err(LocalError::OtherCluster {
                dir: dir.to_owned(),
                found: file.cluster.clone(),
                wanted: self.name.clone(),
            });
        }
        let fixed = |what, formatted: u32, wanted: i32| {
            if formatted == unsigned(wanted) {
                return Ok(());
            }
            Err(LocalError::Immutable {
                what,
                cluster: self.name.clone(),
                dir: dir.to_owned(),
                formatted,
                wanted: unsigned(wanted),
            })
        };
        fixed("spec.storage.shards", file.shards, self.spec.storage.shards)?;
        fixed("spec.partitions", file.partitions, self.spec.partitions)?;
        let replicas = file.members.iter().map(|member| member.ordinal + 1).max().unwrap_or(0);
        if replicas > unsigned(self.spec.replicas) {
            return Err(LocalError::Shrunk {
                cluster: self.name.clone(),
                dir: dir.to_owned(),
                had: replicas,
                wanted: unsigned(self.spec.replicas),
            });
        }
        Ok(())
    }
}

/// The members of `partition`, as topology knows them.
pub fn expected(file: &ClusterFile, partition: u32) -> Vec<ExpectedMember> {
    file.members
        .iter()
        .filter(|member| member.partition == partition)
        .map(|member| ExpectedMember {
            name: member.name.clone(),
            peer_address: member.peer.to_string(),
            client_address: member.client.to_string(),
            ordinal: member.ordinal,
        })
        .collect()
}

/// The API's integers are signed, its bounds are not negative, and the manifest was checked against them.
fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::spec::AckRule;

    fn plan(yaml: &str) -> Plan {
        let cluster: api::ArmdbCluster = serde_yaml::from_str(&format!(
            "apiVersion: armdb.io/v1alpha1\nkind: ArmdbCluster\nmetadata: {{name: kv}}\nspec:\n  image: a/b:1\n{yaml}"
        ))
        .expect("a manifest");
        Plan { name: "kv".into(), spec: cluster.spec }
    }

    #[test]
    fn members_get_ports_once_and_keep_them() {
        let dir = Path::new("/nowhere");
        let plan = plan("  replicas: 3\n  storage: {size: 1Gi}\n");
        let first = plan.complete(None, dir).expect("a file");
        assert_eq!(first.members.len(), 3);
        assert_eq!(first.members[1].name, "kv-0-1");
        let ports: BTreeSet<_> = first.members.iter().flat_map(|m| [m.client, m.peer, m.http]).collect();
        assert_eq!(ports.len(), 9);
        assert_eq!(plan.complete(Some(first.clone()), dir).expect("a file"), first);
    }

    #[test]
    fn another_shard_count_is_refused_with_both_numbers() {
        let dir = Path::new("/nowhere");
        let old = plan("  storage: {size: 1Gi, shards: 2}\n").complete(None, dir).expect("a file");
        let error = plan("  storage: {size: 1Gi, shards: 4}\n").complete(Some(old), dir).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("spec.storage.shards") && text.contains("is 2") && text.contains("4 in"), "{text}");
    }

    #[test]
    fn another_clusters_directory_is_refused_by_both_names() {
        let dir = Path::new("/nowhere");
        let mut other = plan("  storage: {size: 1Gi}\n");
        let old = other.complete(None, dir).expect("a file");
        other.name = "orders".into();
        let text = other.complete(Some(old), dir).expect_err("refused").to_string();
        assert!(text.contains("kv") && text.contains("orders"), "{text}");
    }

    #[test]
    fn more_replicas_get_ports_beside_the_old_ones_and_fewer_are_refused() {
        let dir = Path::new("/nowhere");
        let one = plan("  replicas: 1\n  storage: {size: 1Gi}\n");
        let three = plan("  replicas: 3\n  storage: {size: 1Gi}\n");
        let small = one.complete(None, dir).expect("a file");
        let large = three.complete(Some(small.clone()), dir).expect("a file");
        assert_eq!(large.members[0], small.members[0]);
        assert_eq!(large.members.len(), 3);
        assert!(matches!(one.complete(Some(large), dir), Err(LocalError::Shrunk { had: 3, wanted: 1, .. })));
    }

    #[test]
    fn all_means_every_voter_and_leader_still_commits_by_majority() {
        let all = plan("  replicas: 3\n  storage: {size: 1Gi}\n  replication: {ack: All}\n");
        assert_eq!(all.partition().ack, AckRule::All);
        let leader = plan("  replicas: 3\n  storage: {size: 1Gi}\n  replication: {ack: Leader, durability: Os}\n");
        assert_eq!(leader.partition().ack, AckRule::Quorum);
        assert_eq!(leader.partition().min_voters, 2);
    }
}
