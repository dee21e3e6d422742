//! Makes one object what it shall be: creates it, or replaces it whole.
//!
//! Whether an object is as it shall be, only the API server can say: it fills in defaults that change from version to
//! version, and webhooks may have their way. So a replacement is tried out (dry run) and its outcome compared with what
//! is there; that both are equal is remembered by the generations of the two, and costs nothing until one of them
//! changes. Whatever of a StatefulSet is not ours goes; of other kinds, foreign labels and annotations stay, because
//! other controllers keep theirs there.
//!
//! Invariants: an object that somebody else controls, or that is on its way out, is never touched: a forced write
//! would make the remains of a deleted namesake one's own. Every write carries the uid and resource version it was
//! decided from.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::build::hash::short;
use super::build::{Desired, Mode};
use super::cache::{Cache, Key};
use super::client::{ErrorKind, Kube, KubeError};
use super::facts::is_terminating;
use super::kinds::Kind;
use super::metrics::Metrics;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it shall be.
    Unchanged,
    /// It was made.
    Created,
    /// It was replaced.
    Replaced,
}

/// Why an object is not as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It belongs to a cluster of the same name that is gone; Kubernetes collects it.
    #[error("{kind} {key} is left of a deleted cluster of this name; it is made anew when it is gone")]
    Remains {
        /// Its kind.
        kind: &'static str,
        /// Where it is.
        key: Key,
    },
    /// It belongs to somebody else.
    #[error(
        "{kind} {key} exists and does not belong to this cluster: remove it, or give the cluster another name; nothing \
         is done until it is gone"
    )]
    Foreign {
        /// Its kind.
        kind: &'static str,
        /// Where it is.
        key: Key,
    },
    /// It is being deleted.
    #[error("{kind} {key} is being deleted; it is made again when it is gone")]
    Terminating {
        /// Its kind.
        kind: &'static str,
        /// Where it is.
        key: Key,
    },
    /// The API server does not take it.
    #[error("{0}")]
    Refused(KubeError),
    /// Another failure.
    #[error(transparent)]
    Kube(#[from] KubeError),
}

/// Objects that were found to be as they shall be, and what both sides were then.
#[derive(Debug, Default)]
pub struct Compared(BTreeMap<(Kind, Key), Mark>);

#[derive(Debug, PartialEq, Eq)]
struct Mark {
    desired: String,
    live: String,
}

impl Mark {
    fn of(desired: &Desired, live: &DynamicObject) -> Self {
        let meta = &live.metadata;
        // A generation counts changes of the spec alone; kinds without one change seldom.
        let changes = match meta.generation {
            Some(generation) => generation.to_string(),
            None => meta.resource_version.clone().unwrap_or_default(),
        };
        let live = json!([meta.uid, changes, meta.labels, meta.annotations, meta.owner_references, meta.finalizers]);
        Self { desired: short(&essence(&desired.object)), live: short(&live) }
    }
}

/// Brings objects about for one cluster.
pub struct Applier<'a> {
    /// The way to the API server.
    pub kube: &'a Kube,
    /// What it has.
    pub cache: &'a Cache,
    /// Counts writes.
    pub metrics: &'a Metrics,
    /// The cluster's uid.
    pub owner: &'a str,
    /// See there.
    pub compared: &'a mut Compared,
}

impl Applier<'_> {
    /// Makes the object what it shall be.
    pub async fn apply(&mut self, desired: &Desired) -> Result<Outcome, ApplyError> {
        let key = Key::of(&desired.object);
        let live = match desired.kind {
            // Not watched: the operator needs no right to see every Secret of a cluster.
            Kind::Secret => self.kube.get(desired.kind, &key.namespace, &key.name).await?.map(Into::into),
            kind => self.cache.get(kind, &key),
        };
        let Some(live) = live else {
            match self.create(desired).await {
                // Its labels may have been taken off, so that it is not watched.
                Err(ApplyError::Kube(error)) if error.kind == ErrorKind::AlreadyExists => {
                    return match self.kube.get(desired.kind, &key.namespace, &key.name).await? {
                        Some(live) => self.replace(desired, &key, &live).await,
                        None => Err(error.into()),
                    };
                }
                other => return other.map(|()| Outcome::Created),
            }
        };
        self.replace(desired, &key, &live).await
    }

    async fn create(&self, desired: &Desired) -> Result<(), ApplyError> {
        let made = self.kube.create(desired.kind, &desired.object).await.map_err(refused)?;
        self.wrote(desired, made, "create");
        Ok(())
    }

    async fn replace(&mut self, desired: &Desired, key: &Key, live: &DynamicObject) -> Result<Outcome, ApplyError> {
        check_owner(desired.kind, key, live, self.owner)?;
        let kind = desired.kind.name();
        if desired.mode == Mode::CreateOnly {
            return Ok(Outcome::Unchanged);
        }
        let place = (desired.kind, key.clone());
        let mark = Mark::of(desired, live);
        if self.compared.0.get(&place) == Some(&mark) {
            return Ok(Outcome::Unchanged);
        }
        let body = successor(desired, live);
        let outcome = self.kube.replace(desired.kind, &body, true).await.map_err(refused)?;
        if essence(&outcome) == essence(live) {
            self.compared.0.insert(place, mark);
            return Ok(Outcome::Unchanged);
        }
        tracing::debug!(kind, %key, "replaced: it was not as it shall be");
        let stored = self.kube.replace(desired.kind, &body, false).await.map_err(refused)?;
        self.compared.0.insert(place, Mark::of(desired, &stored));
        self.wrote(desired, stored, "replace");
        Ok(Outcome::Replaced)
    }

    fn wrote(&self, desired: &Desired, stored: DynamicObject, verb: &'static str) {
        self.metrics.wrote(desired.kind.name(), verb);
        if desired.kind != Kind::Secret {
            self.cache.put(desired.kind, stored);
        }
    }
}

/// Whether `live` is this cluster's and stays.
pub fn check_owner(kind: Kind, key: &Key, live: &DynamicObject, owner: &str) -> Result<(), ApplyError> {
    let (kind, key) = (kind.name(), key.clone());
    let owners = live.metadata.owner_references.iter().flatten();
    match owners.into_iter().find(|owner| owner.controller == Some(true)) {
        Some(controller) if controller.uid == owner && is_terminating(live) => {
            Err(ApplyError::Terminating { kind, key })
        }
        Some(controller) if controller.uid == owner => Ok(()),
        // Names begin with the cluster's: of all clusters only a namesake can have made it.
        Some(controller) if controller.kind == Kind::Cluster.name() => Err(ApplyError::Remains { kind, key }),
        _ => Err(ApplyError::Foreign { kind, key }),
    }
}

fn refused(error: KubeError) -> ApplyError {
    if error.kind == ErrorKind::Invalid { ApplyError::Refused(error) } else { ApplyError::Kube(error) }
}

/// What `live` is to be replaced by.
fn successor(desired: &Desired, live: &DynamicObject) -> DynamicObject {
    let mut object = desired.object.clone();
    let (meta, known) = (&mut object.metadata, &live.metadata);
    meta.resource_version.clone_from(&known.resource_version);
    meta.uid.clone_from(&known.uid);
    // Not ours to decide: whoever put it there waits for something.
    meta.finalizers.clone_from(&known.finalizers);
    if desired.kind != Kind::StatefulSet {
        meta.labels = united(&known.labels, &meta.labels);
        meta.annotations = united(&known.annotations, &meta.annotations);
        let ours = meta.owner_references.clone().unwrap_or_default();
        let others = known.owner_references.iter().flatten();
        let others = others.filter(|other| ours.iter().all(|own| own.uid != other.uid)).cloned();
        meta.owner_references = Some(ours.iter().cloned().chain(others).collect());
    }
    if desired.kind == Kind::ServiceAccount {
        // Some distributions keep pull secrets there.
        for field in ["secrets", "imagePullSecrets"] {
            if let Some(value) = live.data.get(field) {
                object.data[field] = value.clone();
            }
        }
    }
    object
}

type Strings = Option<BTreeMap<String, String>>;

fn united(live: &Strings, ours: &Strings) -> Strings {
    let mut all = live.clone().unwrap_or_default();
    all.extend(ours.clone().unwrap_or_default());
    Some(all).filter(|all| !all.is_empty())
}

/// What of an object is somebody's wish.
fn essence(object: &DynamicObject) -> Value {
    let meta = &object.metadata;
    let mut data = object.data.clone();
    if let Value::Object(data) = &mut data {
        data.remove("status");
    }
    let empty_as_none = |map: &Strings| map.clone().filter(|map| !map.is_empty());
    json!({
        "labels": empty_as_none(&meta.labels),
        "annotations": empty_as_none(&meta.annotations),
        "owners": meta.owner_references,
        "finalizers": meta.finalizers,
        "data": data,
    })
}
