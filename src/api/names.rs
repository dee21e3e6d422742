//! The names of everything that is made from a cluster: one table, told to users in `docs/api.md`.
//!
//! A name is an address, never an identity (that is the storage id). Cluster names end at 40 characters, so
//! that the longest of these, with the suffixes Kubernetes adds, stays within 63.

/// The StatefulSet of a partition: `<cluster>-<partition>`.
pub fn stateful_set(cluster: &str, partition: i32) -> String {
    format!("{cluster}-{partition}")
}

/// A member, and its pod: `<cluster>-<partition>-<ordinal>`.
pub fn member(cluster: &str, partition: i32, ordinal: i32) -> String {
    format!("{cluster}-{partition}-{ordinal}")
}

/// The volume claim of a member.
pub fn volume_claim(member: &str) -> String {
    format!("data-{member}")
}

/// The service of the leaders.
pub fn service_read_write(cluster: &str) -> String {
    format!("{cluster}-rw")
}

/// The service of the followers within the lag bound.
pub fn service_read_only(cluster: &str) -> String {
    format!("{cluster}-ro")
}

/// The service of any member.
pub fn service_any(cluster: &str) -> String {
    format!("{cluster}-r")
}

/// The headless service that gives members their addresses.
pub fn service_nodes(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// The ConfigMap of a partition.
pub fn config_map(cluster: &str, partition: i32) -> String {
    format!("{}-config", stateful_set(cluster, partition))
}

/// The disruption budget of a partition.
pub fn disruption_budget(cluster: &str, partition: i32) -> String {
    stateful_set(cluster, partition)
}

/// The register object of a partition.
pub fn register(cluster: &str, partition: i32) -> String {
    stateful_set(cluster, partition)
}

/// The Secret with the members' certificate.
pub fn member_tls(cluster: &str) -> String {
    format!("{cluster}-member-tls")
}

/// The immutable Secret with the certificate authority and the cluster id.
pub fn certificate_authority(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// The name that the certificate of every member, and of whoever else dials members, is valid for.
pub fn peer_name(cluster: &str, namespace: &str) -> String {
    member_host("member", cluster, namespace)
}

/// What is in those certificates: any host of the members' service.
pub fn peer_wildcard(cluster: &str, namespace: &str) -> String {
    member_host("*", cluster, namespace)
}

/// The ServiceAccount of the members; it has no right to anything.
pub fn service_account(cluster: &str) -> String {
    format!("{cluster}-member")
}

/// The ControllerRevision that keeps a pod template every member ran with; `hash` is of the template.
pub fn good_template(cluster: &str, partition: i32, hash: &str) -> String {
    format!("{}-good-{hash}", stateful_set(cluster, partition))
}

/// The host name of a member within Kubernetes.
pub fn member_host(member: &str, cluster: &str, namespace: &str) -> String {
    format!("{member}.{}.{namespace}.svc", service_nodes(cluster))
}

/// Cluster, partition and ordinal of a member's name.
pub fn parse_member(name: &str) -> Option<(&str, i32, i32)> {
    let (rest, ordinal) = name.rsplit_once('-')?;
    let (cluster, partition) = rest.rsplit_once('-')?;
    let number = |text: &str| {
        let canonical = text == "0" || !text.starts_with('0');
        (canonical && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    (!cluster.is_empty()).then_some(())?;
    Some((cluster, number(partition)?, number(ordinal)?))
}

/// Labels.
pub mod label {
    /// Name of the cluster.
    pub const CLUSTER: &str = "armdb.io/cluster";
    /// Identity of the cluster's data.
    pub const CLUSTER_ID: &str = "armdb.io/cluster-id";
    /// Number of the partition.
    pub const PARTITION: &str = "armdb.io/partition";
    /// `leader` or `follower`.
    pub const ROLE: &str = "armdb.io/role";
    /// `true` on followers within the lag bound.
    pub const SERVES_READS: &str = "armdb.io/serves-reads";
    /// What it is: [`APP_NAME`].
    pub const NAME: &str = "app.kubernetes.io/name";
    /// Which one of them: the cluster.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Who writes it: [`OPERATOR`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// Value of [`NAME`].
    pub const APP_NAME: &str = "armdb";
    /// Value of [`MANAGED_BY`].
    pub const OPERATOR: &str = "armdb-operator";
    /// Value of [`ROLE`] on leaders.
    pub const LEADER: &str = "leader";
    /// Value of [`ROLE`] on members that follow.
    pub const FOLLOWER: &str = "follower";
}

/// Annotations.
pub mod annotation {
    /// The epoch a role label was written in.
    pub const ROLE_EPOCH: &str = "armdb.io/role-epoch";
    /// Hash of what users set, on a pod and on its template.
    pub const SPEC_HASH: &str = "armdb.io/spec-hash";
    /// The hash that a failed rollout was taken back from.
    pub const REJECTED_SPEC_HASH: &str = "armdb.io/rejected-spec-hash";
    /// Asks for a failed rollout to be tried again.
    pub const RETRY_ROLLOUT: &str = "armdb.io/retry-rollout";
    /// Asks for a switchover: `<member|any>@<requestID>`.
    pub const SWITCHOVER: &str = "armdb.io/switchover";
    /// Makes one member's data the truth, giving up whatever else was acknowledged:
    /// `<member>@<clusterID>@<requestID>`.
    pub const RECOVER: &str = "armdb.io/recover-accepting-data-loss";
    /// Renames data that an unsafe recovery left behind aside: `<member>@<storageID>@<requestID>`.
    pub const SET_ASIDE: &str = "armdb.io/set-aside";
    /// The value of [`RETRY_ROLLOUT`] that was heeded last, on a StatefulSet.
    pub const RETRIED_ROLLOUT: &str = "armdb.io/retried-rollout";
}

/// Named ports.
pub mod port {
    /// Clients.
    pub const CLIENT: &str = "client";
    /// Members among themselves.
    pub const PEER: &str = "peer";
    /// Metrics and probes.
    pub const HTTP: &str = "http";
    /// Redis protocol.
    pub const RESP: &str = "resp";
    /// Number of [`CLIENT`].
    pub const CLIENT_NUMBER: i32 = 7400;
    /// Number of [`PEER`].
    pub const PEER_NUMBER: i32 = 7401;
    /// Number of [`HTTP`].
    pub const HTTP_NUMBER: i32 = 7402;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_name_can_be_taken_apart_again() {
        assert_eq!(parse_member(&member("my-kv", 12, 3)), Some(("my-kv", 12, 3)));
        for bad in ["kv", "kv-0", "-0-1", "kv-0-", "kv-x-1", "kv-0-01", "kv--1", "kv-+1-0"] {
            assert_eq!(parse_member(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_longest_name_is_a_valid_label_value() {
        let cluster = "k".repeat(super::super::rules::NAME_MAX);
        let longest = [
            volume_claim(&member(&cluster, 63, 8)),
            config_map(&cluster, 63),
            member_tls(&cluster),
            // The controller-revision-hash that Kubernetes appends to a StatefulSet's name.
            format!("{}-{}", stateful_set(&cluster, 63), "0123456789"),
            good_template(&cluster, 63, "0123456789"),
            service_account(&cluster),
        ];
        for name in longest {
            assert!(name.len() <= 63, "{name} has {}", name.len());
        }
    }
}
