//! The kinds of objects that the operator touches, as the API server knows them.
//!
//! All of them are handled as [`DynamicObject`]s: comparing, creating and replacing is the same for each, and an
//! object that does not fit its type can never stop the watch of the others.

use kube::core::{ApiResource, DynamicObject};

use crate::api;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What a user asks for.
    Cluster,
    /// The register of a partition, and what its drivers must know.
    Partition,
    /// The members of a partition.
    StatefulSet,
    /// Names and addresses for clients and members.
    Service,
    /// How many members of a partition others may take away.
    DisruptionBudget,
    /// The members' configuration.
    ConfigMap,
    /// The members' identity, without rights.
    ServiceAccount,
    /// Identity and keys.
    Secret,
    /// Pod templates that are known to be good.
    Revision,
    /// Members.
    Pod,
    /// Their volumes.
    VolumeClaim,
    /// Which replica of the operator acts.
    Lease,
    /// What happened.
    Event,
}

impl Kind {
    /// As the API server knows it.
    pub fn resource(self) -> ApiResource {
        let (group, version, plural) = match self {
            Self::Cluster => (api::GROUP, api::VERSION, "armdbclusters"),
            Self::Partition => (api::GROUP, api::VERSION, "armdbpartitions"),
            Self::StatefulSet => ("apps", "v1", "statefulsets"),
            Self::Service => ("", "v1", "services"),
            Self::DisruptionBudget => ("policy", "v1", "poddisruptionbudgets"),
            Self::ConfigMap => ("", "v1", "configmaps"),
            Self::ServiceAccount => ("", "v1", "serviceaccounts"),
            Self::Secret => ("", "v1", "secrets"),
            Self::Revision => ("apps", "v1", "controllerrevisions"),
            Self::Pod => ("", "v1", "pods"),
            Self::VolumeClaim => ("", "v1", "persistentvolumeclaims"),
            Self::Lease => ("coordination.k8s.io", "v1", "leases"),
            Self::Event => ("events.k8s.io", "v1", "events"),
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            kind: self.name().to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "ArmdbCluster",
            Self::Partition => "ArmdbPartition",
            Self::StatefulSet => "StatefulSet",
            Self::Service => "Service",
            Self::DisruptionBudget => "PodDisruptionBudget",
            Self::ConfigMap => "ConfigMap",
            Self::ServiceAccount => "ServiceAccount",
            Self::Secret => "Secret",
            Self::Revision => "ControllerRevision",
            Self::Pod => "Pod",
            Self::VolumeClaim => "PersistentVolumeClaim",
            Self::Lease => "Lease",
            Self::Event => "Event",
        }
    }

    /// An object of this kind out of one of its type.
    ///
    /// # Panics
    /// If the type has map keys that are not strings; none of Kubernetes' has.
    pub fn object<T: serde::Serialize>(self, typed: &T) -> DynamicObject {
        let mut value = serde_json::to_value(typed).expect("an object of Kubernetes is JSON");
        let resource = self.resource();
        value["apiVersion"] = resource.api_version.into();
        value["kind"] = resource.kind.into();
        serde_json::from_value(value).expect("every object has metadata")
    }
}
