//! Every rule that a bound cannot say: its CEL form, its Rust form and its one message, side by side.
//!
//! The CEL form is attached to the type it speaks about (`#[x_kube(validation = &rules::…)]` in
//! [`super::spec`]) and judged by the API server; the Rust form is judged by [`super::validate()`]. Both say
//! [`Rule::message`], which tells what to do. The unit tests and `tests/kubernetes` feed both the same cases.
//!
//! In CEL, `self` is the object the rule is attached to. A rule that names `oldSelf` is judged on updates only.

use super::quantity;
use super::spec::ArmdbCluster;

const MIB: i128 = 1 << 20;

/// A rule of the API.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The field it speaks about, from the root of the object.
    pub path: &'static str,
    /// The same field, from the object the rule is attached to, as `fieldPath` wants it.
    pub field: &'static str,
    /// What the API server judges.
    pub cel: &'static str,
    /// What is wrong and what to do.
    pub message: &'static str,
    /// What Rust judges.
    pub holds: Holds,
}

/// The Rust form of a rule.
#[derive(Debug, Clone, Copy)]
pub enum Holds {
    /// Judged on every object.
    Always(fn(&ArmdbCluster) -> bool),
    /// Judged when `new` replaces `old`.
    OnUpdate(fn(old: &ArmdbCluster, new: &ArmdbCluster) -> bool),
}

impl From<&Rule> for kube::core::Rule {
    fn from(rule: &Rule) -> Self {
        let cel = Self::new(rule.cel).message(rule.message);
        if rule.field.is_empty() { cel } else { cel.field_path(rule.field) }
    }
}

/// All of them, in the order of the fields.
pub const ALL: &[&Rule] = &[
    &NAME,
    &IMAGE_PINNED,
    &PARTITIONS_FIXED,
    &SIZE,
    &STORAGE_CLASS_FIXED,
    &SHARDS_FIXED,
    &LOST_VOLUME_NEEDS_THREE,
    &MAX_LAG,
    &MIN_VOTERS_AMONG_REPLICAS,
    &MEMORY_BUDGET,
    &MAX_VALUE_SIZE,
    &LOG_RETENTION_SIZES,
    &COMPACTION_RATE,
    &BOOTSTRAP_ONE_OF,
    &ADOPT_CLUSTER_ID,
    &BOOTSTRAP_RESTORE_RESERVED,
];

/// Longest name of a cluster: names of pods, services and hashes are made from it and end at 63.
pub const NAME_MAX: usize = 40;

/// The name of a cluster.
pub const NAME: Rule = Rule {
    path: "metadata.name",
    field: "", // the API server allows no fieldPath into metadata
    cel: "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    message: "the name of a cluster is at most 40 of a-z, 0-9 and '-', begins with a letter and ends with a letter \
              or a digit: choose such a metadata.name",
    holds: Holds::Always(|cluster| {
        cluster.metadata.name.as_deref().is_some_and(|name| {
            name.len() <= NAME_MAX
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && !name.ends_with('-')
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
    }),
};

/// The image names one version.
pub const IMAGE_PINNED: Rule = Rule {
    path: "spec.image",
    field: ".image",
    cel: "self.image.matches('^[^ @]+(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$') \
          && !self.image.endsWith(':latest')",
    message: "the image must be pinned, so that every member runs one version: give a tag other than latest, or a \
              digest, as in ghcr.io/example/armdb:0.1.0",
    holds: Holds::Always(|cluster| is_pinned(&cluster.spec.image)),
};

fn is_pinned(image: &str) -> bool {
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if image.contains([' ', '\n']) || image.ends_with(":latest") {
        return false;
    }
    if image.split_once("@sha256:").is_some_and(|(name, digest)| !name.is_empty() && !name.contains('@') && hex(digest))
    {
        return true;
    }
    image.rsplit_once(':').is_some_and(|(name, tag)| {
        !name.is_empty()
            && !name.contains('@')
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    })
}

/// A partition's slots cannot move yet.
pub const PARTITIONS_FIXED: Rule = Rule {
    path: "spec.partitions",
    field: ".partitions",
    cel: "self.partitions == oldSelf.partitions",
    message: "the number of partitions is fixed when the cluster is created: put the old value back, or create \
              another cluster and copy the data",
    holds: Holds::OnUpdate(|old, new| old.spec.partitions == new.spec.partitions),
};

/// The size is a quantity.
pub const SIZE: Rule = Rule {
    path: "spec.storage.size",
    field: ".size",
    cel: "isQuantity(self.size) && quantity(self.size).isGreaterThan(quantity('0'))",
    message: "the size of a volume is a quantity greater than 0: write it as 100Gi",
    holds: Holds::Always(|cluster| quantity::bytes(&cluster.spec.storage.size).is_ok_and(|size| size > 0)),
};

/// The storage class cannot change.
pub const STORAGE_CLASS_FIXED: Rule = Rule {
    path: "spec.storage.storageClassName",
    field: "", // an absent field has no path the API server could report
    cel: "has(self.storageClassName) == has(oldSelf.storageClassName) \
          && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    message: "the storage class is fixed when the cluster is created: put the old value of \
              spec.storage.storageClassName back, or create another cluster and copy the data",
    holds: Holds::OnUpdate(|old, new| old.spec.storage.storage_class_name == new.spec.storage.storage_class_name),
};

/// The shard count is in every volume.
pub const SHARDS_FIXED: Rule = Rule {
    path: "spec.storage.shards",
    field: ".shards",
    cel: "self.shards == oldSelf.shards",
    message: "the number of shards is written into every volume when it is formatted and cannot change: put the old \
              value back, or create another cluster and copy the data",
    holds: Holds::OnUpdate(|old, new| old.spec.storage.shards == new.spec.storage.shards),
};

/// Giving volumes up by itself needs a quorum besides.
pub const LOST_VOLUME_NEEDS_THREE: Rule = Rule {
    path: "spec.storage.lostVolume.policy",
    field: ".storage.lostVolume.policy",
    cel: "self.storage.lostVolume.policy == 'Manual' || self.replicas >= 3",
    message: "volumes are given up automatically only where the other members are a safe quorum: set replicas to 3 \
              or more, or lostVolume.policy to Manual",
    holds: Holds::Always(|cluster| {
        cluster.spec.storage.lost_volume.policy == super::LostVolumePolicy::Manual || cluster.spec.replicas >= 3
    }),
};

/// The lag bound is a quantity.
pub const MAX_LAG: Rule = Rule {
    path: "spec.replication.followerReads.maxLag",
    field: ".maxLag",
    cel: "isQuantity(self.maxLag) && quantity(self.maxLag).compareTo(quantity('0')) >= 0",
    message: "the lag bound is a quantity of bytes, 0 or more: write it as 64Mi",
    holds: Holds::Always(|cluster| quantity::bytes(&cluster.spec.replication.follower_reads.max_lag).is_ok()),
};

/// A minimum above the members there are could never be met.
pub const MIN_VOTERS_AMONG_REPLICAS: Rule = Rule {
    path: "spec.failover.minVoters",
    field: ".failover.minVoters",
    cel: "!has(self.failover.minVoters) || self.failover.minVoters <= self.replicas",
    message: "minVoters counts among the replicas: set it to at most spec.replicas, or leave it out for a majority",
    holds: Holds::Always(|cluster| cluster.spec.failover.min_voters.is_none_or(|min| min <= cluster.spec.replicas)),
};

/// The memory budget holds two of the largest batches, and is within reason.
pub const MEMORY_BUDGET: Rule = Rule {
    path: "spec.engine.memoryBudget",
    field: ".memoryBudget",
    cel: "isQuantity(self.memoryBudget) && quantity(self.memoryBudget).compareTo(quantity('32Mi')) >= 0 \
          && quantity(self.memoryBudget).compareTo(quantity('64Gi')) <= 0",
    message: "the memory budget is a quantity from 32Mi to 64Gi: write it as 128Mi",
    holds: Holds::Always(|cluster| between(&cluster.spec.engine.memory_budget, 32 * MIB, 64 * 1024 * MIB)),
};

/// A value fits an atomic batch, which fits a quarter of a segment.
pub const MAX_VALUE_SIZE: Rule = Rule {
    path: "spec.engine.maxValueSize",
    field: ".maxValueSize",
    cel: "isQuantity(self.maxValueSize) && quantity(self.maxValueSize).compareTo(quantity('1Ki')) >= 0 \
          && quantity(self.maxValueSize).compareTo(quantity('15Mi')) <= 0",
    message: "the largest value is a quantity from 1Ki to 15Mi: write it as 8Mi",
    holds: Holds::Always(|cluster| between(&cluster.spec.engine.max_value_size, 1024, 15 * MIB)),
};

/// What is kept at least is not more than what is kept at most.
pub const LOG_RETENTION_SIZES: Rule = Rule {
    path: "spec.engine.logRetention",
    field: "",
    cel: "isQuantity(self.minSize) && isQuantity(self.maxSize) && quantity(self.minSize).compareTo(quantity('0')) >= 0 \
          && quantity(self.minSize).compareTo(quantity(self.maxSize)) <= 0",
    message: "logRetention.minSize and maxSize are quantities and minSize is not above maxSize: write them as 256Mi \
              and 1Gi",
    holds: Holds::Always(|cluster| {
        let retention = &cluster.spec.engine.log_retention;
        match (quantity::bytes(&retention.min_size), quantity::bytes(&retention.max_size)) {
            (Ok(min), Ok(max)) => min <= max,
            _ => false,
        }
    }),
};

/// Compaction must get somewhere.
pub const COMPACTION_RATE: Rule = Rule {
    path: "spec.engine.compaction.rate",
    field: ".rate",
    cel: "isQuantity(self.rate) && quantity(self.rate).compareTo(quantity('1Mi')) >= 0",
    message: "the compaction rate is a quantity of bytes a second of at least 1Mi: write it as 64Mi",
    holds: Holds::Always(|cluster| between(&cluster.spec.engine.compaction.rate, MIB, i128::MAX)),
};

/// One way to begin.
pub const BOOTSTRAP_ONE_OF: Rule = Rule {
    path: "spec.bootstrap",
    field: "",
    cel: "[has(self.empty), has(self.adopt), has(self.restore)].filter(x, x).size() == 1",
    message: "a cluster begins in one way: give exactly one of bootstrap.empty, bootstrap.adopt and \
              bootstrap.restore, or leave bootstrap out",
    holds: Holds::Always(|cluster| {
        cluster.spec.bootstrap.as_ref().is_none_or(|bootstrap| {
            usize::from(bootstrap.empty.is_some())
                + usize::from(bootstrap.adopt.is_some())
                + usize::from(bootstrap.restore.is_some())
                == 1
        })
    }),
};

/// Not there yet.
pub const BOOTSTRAP_RESTORE_RESERVED: Rule = Rule {
    path: "spec.bootstrap.restore",
    field: ".restore",
    cel: "!has(self.restore)",
    message: "bootstrap.restore is reserved and not supported by this version: leave it out",
    holds: Holds::Always(|cluster| cluster.spec.bootstrap.as_ref().is_none_or(|b| b.restore.is_none())),
};

/// A cluster id is an id.
pub const ADOPT_CLUSTER_ID: Rule = Rule {
    path: "spec.bootstrap.adopt.clusterID",
    field: ".clusterID",
    cel: "self.clusterID.matches('^[0-9a-f]{32}$')",
    message: "a cluster id is 32 lower-case hex digits: take it from the label armdb.io/cluster-id of a volume claim, \
              or from armdb inspect",
    holds: Holds::Always(|cluster| {
        cluster.spec.bootstrap.as_ref().and_then(|bootstrap| bootstrap.adopt.as_ref()).is_none_or(|adopt| {
            adopt.cluster_id.len() == 32 && adopt.cluster_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    }),
};

fn between(text: &str, min: i128, max: i128) -> bool {
    quantity::bytes(text).is_ok_and(|bytes| (min..=max).contains(&i128::from(bytes)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::cases::Case;
    use super::super::{schema, validate, validate_update};
    use super::*;

    fn cluster(manifest: Value) -> ArmdbCluster {
        serde_json::from_value(manifest).expect("the case is well-formed")
    }

    #[test]
    fn each_case_is_refused_by_the_rules_it_names_and_by_no_other() {
        for case in Case::all() {
            let new = cluster(case.manifest());
            let violations = match case.old_manifest() {
                Some(old) => validate_update(&cluster(old), &new),
                None => validate(&new),
            };
            let paths: BTreeSet<String> = violations.iter().map(|violation| violation.path.clone()).collect();
            assert_eq!(paths, case.refused, "{}: {violations:?}", case.name);
            assert_eq!(violations.len(), case.refused.len(), "{}: {violations:?}", case.name);
        }
    }

    #[test]
    fn every_rule_has_a_case_that_breaks_it() {
        let broken: BTreeSet<String> = Case::all().into_iter().flat_map(|case| case.refused).collect();
        for rule in ALL {
            assert!(broken.contains(rule.path), "no case breaks {}", rule.path);
        }
    }

    /// `(path, rule)` of every rule attached anywhere in `schema`.
    fn attached(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            found.push((path.to_owned(), rule.clone()));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            attached(property, &path, found);
        }
        for part in ["items", "additionalProperties"] {
            if schema[part].is_object() {
                attached(&schema[part], &format!("{path}[]"), found);
            }
        }
    }

    #[test]
    fn the_definition_carries_each_rule_once_with_the_same_message_at_its_field() {
        let mut found = Vec::new();
        attached(&schema::CLUSTER, "", &mut found);
        assert_eq!(found.len(), ALL.len(), "rules in the definition");
        for rule in ALL {
            let mut here = found.iter().filter(|(_, attached)| attached["rule"] == rule.cel);
            let (path, attached) = here.next().unwrap_or_else(|| panic!("{} is not in the definition", rule.path));
            assert!(here.next().is_none(), "{} is there twice", rule.path);
            assert_eq!(attached["message"], rule.message);
            match attached["fieldPath"].as_str() {
                Some(field) => assert_eq!(format!("{path}{field}"), rule.path),
                None => assert!(rule.path.starts_with(path.as_str()), "{path} {}", rule.path),
            }
            let is_transition = matches!(rule.holds, Holds::OnUpdate(_));
            assert_eq!(rule.cel.contains("oldSelf"), is_transition, "{}", rule.path);
        }
    }

    #[test]
    fn a_message_says_what_to_do_and_fits_the_api_server() {
        for rule in ALL {
            assert!(rule.message.contains(": "), "{}: a cause, a colon, a remedy", rule.path);
            assert!(rule.message.len() < 2048 && !rule.message.contains('\n'));
            assert!(!rule.message.contains("  ") && !rule.cel.contains("  "), "{}: joined lines", rule.path);
        }
    }
}
