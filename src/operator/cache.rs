//! What the API server was last heard to have: one watch a kind and namespace, in one place.
//!
//! Everything is kept as it came; whoever reads it makes of it what it can, so an object that makes no sense harms
//! nobody but itself. Reading from here is free, and as old as a watch may be: whatever is written goes with the
//! resource version that was read, so that an old picture costs a conflict, never a wrong write. Registers are not
//! read from here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use kube::Client;
use kube::api::Api;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::kinds::Kind;
use super::names;
use crate::api::names::label;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Of these parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Where `object` is.
    pub fn of(object: &DynamicObject) -> Self {
        let meta = &object.metadata;
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is watched. Clusters and partitions all of them; of other kinds, what the operator made.
pub const WATCHED: [Kind; 10] = [
    Kind::Cluster,
    Kind::Partition,
    Kind::StatefulSet,
    Kind::Service,
    Kind::DisruptionBudget,
    Kind::ConfigMap,
    Kind::ServiceAccount,
    Kind::Revision,
    Kind::Pod,
    Kind::VolumeClaim,
];

/// After an error a watch is tried again after so long, at first and at most: a failed API server that is back must be
/// noticed within seconds, and must not be overrun.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// A watch whose connection died without a word is noticed after this long and five seconds.
const WATCH_SECONDS: u32 = 60;

/// Uids of objects that went are remembered, so many: more do not go while one answer is on its way.
const GONE: usize = 512;

type Objects = BTreeMap<Key, Arc<DynamicObject>>;

/// See the module.
pub struct Cache {
    objects: RwLock<BTreeMap<Kind, Objects>>,
    /// Uids of objects that went last: no word of one that was written before, and answered after, brings it back.
    gone: Mutex<VecDeque<String>>,
    /// Watches that have not listed everything yet.
    missing: watch::Sender<BTreeSet<(Kind, Option<String>)>>,
    /// Told the cluster whenever something of it changed.
    changed: Box<dyn Fn(Kind, Key) + Send + Sync>,
    /// Rises with every change.
    revision: AtomicU64,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("missing", &*self.missing.borrow()).finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty one. `changed` is told the kind and the cluster of every change, on the task of the watch: it must not
    /// wait.
    pub fn new(changed: impl Fn(Kind, Key) + Send + Sync + 'static) -> Self {
        Self {
            objects: RwLock::default(),
            gone: Mutex::default(),
            missing: watch::Sender::new(BTreeSet::new()),
            changed: Box::new(changed),
            revision: AtomicU64::new(0),
        }
    }

    /// A number that rises with every change of anything here.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Objects of a kind in a namespace that `is` says yes to.
    pub fn select(&self, kind: Kind, namespace: &str, is: impl Fn(&DynamicObject) -> bool) -> Vec<Arc<DynamicObject>> {
        let objects = self.objects.read();
        let from = Key::new(namespace, "");
        let of_kind = objects.get(&kind).into_iter().flat_map(|of_kind| of_kind.range(from.clone()..));
        of_kind
            .take_while(|(key, _)| key.namespace == namespace)
            .filter(|(_, object)| is(object))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Objects of a kind that are labelled as parts of a cluster.
    pub fn of_cluster(&self, kind: Kind, cluster: &Key) -> Vec<Arc<DynamicObject>> {
        self.select(kind, &cluster.namespace, |object| {
            object.metadata.labels.as_ref().is_some_and(|labels| labels.get(label::CLUSTER) == Some(&cluster.name))
        })
    }

    /// One object.
    pub fn get(&self, kind: Kind, key: &Key) -> Option<Arc<DynamicObject>> {
        self.objects.read().get(&kind)?.get(key).cloned()
    }

    /// Every key of a kind.
    pub fn keys(&self, kind: Kind) -> Vec<Key> {
        self.objects.read().get(&kind).map(|of_kind| of_kind.keys().cloned().collect()).unwrap_or_default()
    }

    /// What was written just now is known at once; the watch will say so too.
    pub fn put(&self, kind: Kind, object: DynamicObject) {
        let key = Key::of(&object);
        let mut objects = self.objects.write();
        if object.metadata.uid.as_ref().is_some_and(|uid| self.gone.lock().contains(uid)) {
            return;
        }
        let of_kind = objects.entry(kind).or_default();
        // The watch may have been faster: of one object, the higher generation of writes is the newer.
        let version =
            |object: &DynamicObject| object.metadata.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
        let newer = of_kind
            .get(&key)
            .is_some_and(|known| known.metadata.uid == object.metadata.uid && version(known) > version(&object));
        if !newer {
            of_kind.insert(key, Arc::new(trimmed(object)));
            self.revision.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Watches that have not listed everything yet.
    pub fn missing(&self) -> Vec<String> {
        self.missing.borrow().iter().map(|(kind, _)| kind.name().to_owned()).collect()
    }

    /// Waits until every watch has listed everything once.
    pub async fn synced(&self) {
        let mut missing = self.missing.subscribe();
        // The sender is in `self`: it cannot be gone.
        let _ = missing.wait_for(BTreeSet::is_empty).await;
    }

    /// Announces a watch, so that [`Self::synced`] waits for it.
    pub fn expect(&self, kind: Kind, namespace: Option<&str>) {
        self.missing.send_modify(|missing| {
            missing.insert((kind, namespace.map(str::to_owned)));
        });
    }

    /// Watches a kind until `stop`.
    pub async fn keep(self: Arc<Self>, client: Client, kind: Kind, namespace: Option<String>, stop: CancellationToken) {
        let resource = kind.resource();
        let api: Api<DynamicObject> = match &namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if !matches!(kind, Kind::Cluster | Kind::Partition) {
            config = config.labels(&names::managed_selector());
        }
        let mut events = std::pin::pin!(watcher::watcher(api, config).backoff(Backoff::default()));
        let mut listed = Objects::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    listed.insert(Key::of(&object), Arc::new(trimmed(object)));
                }
                Some(Ok(Event::InitDone)) => {
                    self.replace(kind, namespace.as_deref(), std::mem::take(&mut listed));
                    self.missing.send_if_modified(|missing| missing.remove(&(kind, namespace.clone())));
                }
                Some(Ok(Event::Apply(object))) => self.set(kind, Arc::new(trimmed(object))),
                Some(Ok(Event::Delete(object))) => self.remove(kind, &object),
                Some(Err(error)) => tracing::warn!(kind = kind.name(), %error, "watching; it is tried again"),
            }
        }
    }

    fn set(&self, kind: Kind, object: Arc<DynamicObject>) {
        let before = {
            let mut objects = self.objects.write();
            self.note_here(std::iter::once(&object));
            objects.entry(kind).or_default().insert(Key::of(&object), Arc::clone(&object))
        };
        self.tell(kind, before.as_deref(), Some(&object));
    }

    fn remove(&self, kind: Kind, object: &DynamicObject) {
        let before = {
            let (mut objects, key) = (self.objects.write(), Key::of(object));
            self.note_gone(object);
            let of_kind = objects.entry(kind).or_default();
            // A namesake may have been made here since.
            let known = of_kind.get(&key).is_some_and(|known| known.metadata.uid == object.metadata.uid);
            if known { of_kind.remove(&key) } else { None }
        };
        if before.is_some() {
            self.tell(kind, before.as_deref(), None);
        }
    }

    fn replace(&self, kind: Kind, namespace: Option<&str>, listed: Objects) {
        let changes: Vec<_> = {
            let mut objects = self.objects.write();
            let of_kind = objects.entry(kind).or_default();
            let mut before = std::mem::take(of_kind);
            let mut changes = Vec::new();
            for (key, now) in &listed {
                let known = before.remove(key);
                let same =
                    |known: &Arc<DynamicObject>| known.metadata.resource_version == now.metadata.resource_version;
                if !known.as_ref().is_some_and(same) {
                    changes.push((known, Some(Arc::clone(now))));
                }
            }
            for (key, known) in before {
                if namespace.is_none_or(|namespace| key.namespace == namespace) {
                    self.note_gone(&known);
                    changes.push((Some(known), None));
                } else {
                    of_kind.insert(key, known);
                }
            }
            self.note_here(listed.values());
            of_kind.extend(listed);
            changes
        };
        for (before, after) in changes {
            self.tell(kind, before.as_deref(), after.as_deref());
        }
    }

    /// Under the lock of the objects.
    fn note_gone(&self, object: &DynamicObject) {
        let Some(uid) = object.metadata.uid.clone() else { return };
        let mut gone = self.gone.lock();
        if gone.len() == GONE {
            gone.pop_front();
        }
        gone.push_back(uid);
    }

    /// Under the lock of the objects: what a watch shows is there, whatever it said before (who lost the label that is
    /// watched has gone for the watch).
    fn note_here<'a>(&self, objects: impl Iterator<Item = &'a Arc<DynamicObject>>) {
        let mut gone = self.gone.lock();
        if !gone.is_empty() {
            let here: BTreeSet<&String> = objects.filter_map(|object| object.metadata.uid.as_ref()).collect();
            gone.retain(|uid| !here.contains(uid));
        }
    }

    fn tell(&self, kind: Kind, before: Option<&DynamicObject>, after: Option<&DynamicObject>) {
        self.revision.fetch_add(1, Ordering::Relaxed);
        let clusters: BTreeSet<Key> =
            [before, after].into_iter().flatten().filter_map(|o| cluster_of(kind, o)).collect();
        for cluster in clusters {
            (self.changed)(kind, cluster);
        }
    }
}

/// The cluster that an object is a part of.
pub fn cluster_of(kind: Kind, object: &DynamicObject) -> Option<Key> {
    if kind == Kind::Cluster {
        return Some(Key::of(object));
    }
    let labelled = object.metadata.labels.as_ref().and_then(|labels| labels.get(label::CLUSTER)).cloned();
    let specified = || (kind == Kind::Partition).then(|| object.data["spec"]["cluster"].as_str().map(str::to_owned))?;
    let name = labelled.or_else(specified)?;
    Some(Key::new(object.metadata.namespace.clone()?, name))
}

/// Who wrote which field is half of an object, and of no use here.
fn trimmed(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object
}

/// Doubles from the first to the longest pause, with jitter.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << self.0.min(10)).min(longest);
        self.0 += 1;
        Some(super::queue::jittered(pause))
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, version: u64, cluster: &str) -> Arc<DynamicObject> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": version.to_string(),
                    "labels": {"armdb.io/cluster": cluster}},
            }))
            .expect("an object"),
        )
    }

    fn listing(objects: &[Arc<DynamicObject>]) -> Objects {
        objects.iter().map(|object| (Key::of(object), Arc::clone(object))).collect()
    }

    #[test]
    fn every_change_is_told_to_the_cluster_it_concerns() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let cache = Cache::new(move |_, key| sink.lock().push(key.name));
        let take = || std::mem::take(&mut *told.lock());
        cache.replace(Kind::Pod, None, listing(&[object("a", "p", 1, "kv"), object("b", "q", 2, "other")]));
        assert_eq!(take(), ["kv", "other"]);
        cache.set(Kind::Pod, object("a", "p", 3, "stolen"));
        assert_eq!(take(), ["kv", "stolen"], "the one it was taken from must hear of it too");
        cache.replace(Kind::Pod, None, listing(&[object("a", "p", 3, "stolen")]));
        assert_eq!(take(), ["other"], "only what changed meanwhile");
        cache.remove(Kind::Pod, &object("a", "p", 3, "stolen"));
        assert_eq!(take(), ["stolen"]);
    }

    #[test]
    fn a_list_of_one_namespace_leaves_the_others_alone() {
        let cache = Cache::new(|_, _| {});
        cache.replace(Kind::Pod, Some("a"), listing(&[object("a", "p", 1, "kv")]));
        cache.replace(Kind::Pod, Some("b"), listing(&[object("b", "q", 1, "kv")]));
        cache.replace(Kind::Pod, Some("a"), Objects::new());
        assert_eq!(cache.keys(Kind::Pod), [Key::new("b", "q")]);
        assert_eq!(cache.of_cluster(Kind::Pod, &Key::new("b", "kv")).len(), 1);
        assert!(cache.of_cluster(Kind::Pod, &Key::new("a", "kv")).is_empty());
    }

    #[test]
    fn what_was_written_here_is_not_taken_back_by_an_older_word_nor_takes_back_a_newer_one() {
        let cache = Cache::new(|_, _| {});
        cache.set(Kind::Pod, object("a", "p", 5, "kv"));
        cache.put(Kind::Pod, (*object("a", "p", 4, "kv")).clone());
        let version = || cache.get(Kind::Pod, &Key::new("a", "p")).expect("there").metadata.resource_version.clone();
        assert_eq!(version().as_deref(), Some("5"));
        cache.put(Kind::Pod, (*object("a", "p", 6, "kv")).clone());
        assert_eq!(version().as_deref(), Some("6"));
    }

    #[test]
    fn what_went_is_not_brought_back_by_the_answer_to_an_earlier_write_and_its_namesake_is_another() {
        let cache = Cache::new(|_, _| {});
        let pod = |uid: &str| {
            let mut pod = (*object("a", "p", 5, "kv")).clone();
            pod.metadata.uid = Some(uid.to_owned());
            pod
        };
        let key = Key::new("a", "p");
        cache.set(Kind::Pod, Arc::new(pod("first")));
        cache.remove(Kind::Pod, &pod("first"));
        cache.put(Kind::Pod, pod("first"));
        assert!(cache.get(Kind::Pod, &key).is_none());
        cache.put(Kind::Pod, pod("second"));
        cache.replace(Kind::Pod, None, Objects::new());
        cache.put(Kind::Pod, pod("second"));
        assert!(cache.get(Kind::Pod, &key).is_none());
        cache.put(Kind::Pod, pod("third"));
        cache.remove(Kind::Pod, &pod("second"));
        assert!(cache.get(Kind::Pod, &key).is_some(), "the namesake is not the one that went");
        // It had only lost the label by which it is watched.
        cache.set(Kind::Pod, Arc::new(pod("first")));
        cache.put(Kind::Pod, pod("first"));
        let uid = cache.get(Kind::Pod, &key).and_then(|found| found.metadata.uid.clone());
        assert_eq!(uid.as_deref(), Some("first"));
        cache.remove(Kind::Pod, &pod("first"));
        assert!(cache.get(Kind::Pod, &key).is_none());
    }
}
