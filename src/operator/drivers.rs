//! The failover of every partition, driven in every replica of the operator: one driver an `ArmdbPartition`.
//!
//! ```text
//! ArmdbPartition.spec --> wish         pods --> members' addresses, who is leaving
//!                      \-> drive::Driver <--/      ArmdbPartition.status.register <--> compare and swap
//! ```
//! Invariants: a driver reads the partition's object and its pods, never the cluster's spec, so that a cluster nobody
//! can read still fails over; a partition that is being deleted, or whose cluster is gone, is driven no more, so that
//! its members end without moving their leadership about; what cannot be understood changes nothing.
//! Which replica holds the lease changes only who proposes first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use kube::core::DynamicObject;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::build::certificate_of;
use super::cache::{Cache, Key};
use super::client::{Kube, KubeError};
use super::events::{Events, Regarding};
use super::facts::{PodFacts, controller_uid, is_terminating};
use super::kinds::Kind;
use super::labels::{self, Labeller};
use super::members::{LastKnown, reach};
use super::metrics::Metrics;
use super::register::PartitionRegister;
use crate::api::{ArmdbPartitionSpec, names};
use crate::drive::status::PartitionPicture;
use crate::drive::{Driver, Reach, Setup, partition_wish};
use crate::net::peer::PeerAuth;
use crate::net::pki;
use crate::net::tls::PeerTls;
use crate::topology::controller::{ControlRequest, ControllerConfig};

/// After a partition could not be driven: its Secret is not there yet, or the API server does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// The members' certificate is looked at this often; whoever renews it allows for that.
const CERTIFICATES_AGAIN: Duration = Duration::from_secs(120);
/// A replica that does not hold the lease proposes this much later.
const STAND_BY_RANK: u32 = 1;

/// A partition that is driven.
struct Driven {
    uid: String,
    driver: Driver,
    spec: ArmdbPartitionSpec,
    members: Vec<Reach>,
    last: LastKnown,
    /// What its members are dialled with.
    tls: Arc<PeerTls>,
    /// The register in the object changed last at this version.
    version: Option<String>,
    stop: CancellationToken,
}

/// See the module. Shared by the watches, the controller and the drivers.
pub struct Drivers {
    identity: String,
    kube: Kube,
    cache: Arc<Cache>,
    events: Events,
    metrics: Arc<Metrics>,
    running: Mutex<BTreeMap<Key, Driven>>,
    rank: Arc<AtomicU32>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Told the cluster when something happened to one of its partitions.
    changed: mpsc::UnboundedSender<Key>,
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers").field("running", &self.running.lock().len()).finish_non_exhaustive()
    }
}

/// What drivers are made with.
pub struct Parts {
    /// This replica.
    pub identity: String,
    /// The way to the API server.
    pub kube: Kube,
    /// What it has.
    pub cache: Arc<Cache>,
    /// Where notices go.
    pub events: Events,
    /// Counted here.
    pub metrics: Arc<Metrics>,
    /// Told the cluster when something happened to one of its partitions.
    pub changed: mpsc::UnboundedSender<Key>,
}

impl Drivers {
    /// None yet; everything ends with `stop`.
    pub fn new(parts: Parts, tasks: &TaskTracker, stop: &CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            identity: parts.identity,
            kube: parts.kube,
            cache: parts.cache,
            events: parts.events,
            metrics: parts.metrics,
            running: Mutex::default(),
            rank: Arc::new(AtomicU32::new(STAND_BY_RANK)),
            tasks: tasks.clone(),
            stop: stop.clone(),
            changed: parts.changed,
        })
    }

    /// What the driver of a partition sees.
    pub fn picture(&self, partition: &Key, now: Timestamp) -> Option<PartitionPicture> {
        self.running.lock().get(partition).map(|driven| driven.driver.picture(now))
    }

    /// The driver of a partition.
    pub fn driver(&self, partition: &Key) -> Option<Driver> {
        self.running.lock().get(partition).map(|driven| driven.driver.clone())
    }

    /// Hands a wish to the driver of a partition.
    pub async fn request(&self, partition: &Key, request: ControlRequest) {
        if let Some(driver) = self.driver(partition) {
            driver.request(request).await;
        }
    }

    /// Follows `clusters`, each named whenever something of it changed, and the lease.
    pub async fn run(self: Arc<Self>, mut clusters: mpsc::UnboundedReceiver<Key>, mut holds: watch::Receiver<bool>) {
        let mut again: BTreeSet<Key> = BTreeSet::new();
        let mut retry = tokio::time::interval(AGAIN);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renew = tokio::time::interval(CERTIFICATES_AGAIN);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What is not listed yet is not gone.
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = self.cache.synced() => {}
        }
        loop {
            let mut due = BTreeSet::new();
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(cluster) = clusters.recv() => {
                    due.insert(cluster);
                    while let Ok(cluster) = clusters.try_recv() {
                        due.insert(cluster);
                    }
                }
                _ = renew.tick() => self.renew_certificates().await,
                _ = retry.tick(), if !again.is_empty() => due.append(&mut again),
                changed = holds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let acting = *holds.borrow_and_update();
                    self.set_rank(if acting { 0 } else { STAND_BY_RANK }).await;
                }
            }
            for cluster in due {
                if !self.look_after(&cluster).await {
                    again.insert(cluster);
                }
            }
        }
    }

    /// Takes up renewed certificates, each before the one it replaces expires.
    async fn renew_certificates(&self) {
        let mut clusters: BTreeMap<Key, Vec<Arc<PeerTls>>> = BTreeMap::new();
        for (key, driven) in &*self.running.lock() {
            let cluster = Key::new(&key.namespace, &driven.spec.cluster);
            clusters.entry(cluster).or_default().push(Arc::clone(&driven.tls));
        }
        for (cluster, users) in clusters {
            // Gone for a moment, or unreadable: the drivers go on with what they have.
            let Ok(Some(certificate)) = self.certificate(&cluster).await else { continue };
            for tls in users {
                if let Err(error) = tls.renew(certificate.clone()) {
                    tracing::warn!(%cluster, %error, "its members are dialled with the certificate before");
                }
            }
        }
    }

    /// The certificate of a cluster's members. None: there is none yet.
    async fn certificate(&self, cluster: &Key) -> Result<Option<pki::Identity>, KubeError> {
        let secret = self.kube.get(Kind::Secret, &cluster.namespace, &names::member_tls(&cluster.name)).await?;
        Ok(secret.as_ref().and_then(certificate_of))
    }

    async fn set_rank(&self, rank: u32) {
        self.rank.store(rank, Ordering::Relaxed);
        let drivers: Vec<Driver> = self.running.lock().values().map(|driven| driven.driver.clone()).collect();
        for driver in drivers {
            driver.set_rank(rank).await;
        }
    }

    /// Starts, changes and ends the drivers of a cluster's partitions. False: something must be tried again.
    async fn look_after(&self, cluster: &Key) -> bool {
        let objects = self.cache.select(Kind::Partition, &cluster.namespace, |object| {
            super::cache::cluster_of(Kind::Partition, object).as_ref() == Some(cluster)
        });
        let mut wanted = BTreeMap::new();
        for object in &objects {
            if self.is_driven(object) {
                wanted.insert(Key::of(object), Arc::clone(object));
            }
        }
        self.end_others(cluster, &wanted);
        let mut through = true;
        for (key, object) in wanted {
            through &= self.drive(&key, &object).await;
        }
        self.metrics.drivers(self.running.lock().len());
        through
    }

    /// Neither it nor its cluster is on its way out.
    fn is_driven(&self, partition: &DynamicObject) -> bool {
        if is_terminating(partition) {
            return false;
        }
        let Some(owner) = controller_uid(partition) else { return true };
        let Some(cluster) = super::cache::cluster_of(Kind::Partition, partition) else { return true };
        match self.cache.get(Kind::Cluster, &cluster) {
            None => false,
            Some(object) if object.metadata.uid.as_deref() != Some(owner) => false,
            // With the foreground finalizer its parts go first; with any other it may stand so for long, and serves.
            Some(object) => {
                let finalizers = object.metadata.finalizers.iter().flatten();
                !(is_terminating(&object) && finalizers.into_iter().any(|name| name == "foregroundDeletion"))
            }
        }
    }

    fn end_others(&self, cluster: &Key, wanted: &BTreeMap<Key, Arc<DynamicObject>>) {
        self.running.lock().retain(|key, driven| {
            let here = key.namespace == cluster.namespace && driven.spec.cluster == cluster.name;
            let stays =
                !here || wanted.get(key).is_some_and(|object| object.metadata.uid.as_deref() == Some(&driven.uid));
            if !stays {
                tracing::info!(partition = %key, "its driver ends");
                driven.stop.cancel();
            }
            stays
        });
    }

    /// Starts or changes the driver of a partition. False: try again.
    async fn drive(&self, key: &Key, object: &DynamicObject) -> bool {
        let spec = match serde_json::from_value::<ArmdbPartitionSpec>(object.data["spec"].clone()) {
            Ok(spec) => spec,
            Err(error) => {
                tracing::warn!(partition = %key, %error, "its spec is not understood; what runs goes on as it was");
                return true;
            }
        };
        let pods = self.pods(&key.namespace, &spec);
        let changed = {
            let mut running = self.running.lock();
            running.get_mut(key).map(|driven| driven.take(object, &spec, &pods))
        };
        match changed {
            Some(None) => true,
            Some(Some(change)) => {
                change.tell().await;
                true
            }
            None => self.start(key, object, spec, &pods).await,
        }
    }

    fn pods(&self, namespace: &str, spec: &ArmdbPartitionSpec) -> Vec<PodFacts> {
        labels::pods_of(&self.cache, namespace, &spec.cluster, spec.partition)
    }

    async fn start(&self, key: &Key, object: &DynamicObject, spec: ArmdbPartitionSpec, pods: &[PodFacts]) -> bool {
        let place = format!("Secret {}/{}", key.namespace, names::member_tls(&spec.cluster));
        let certificate = match self.certificate(&Key::new(&key.namespace, &spec.cluster)).await {
            Ok(Some(certificate)) => certificate,
            Ok(None) => {
                tracing::debug!(partition = %key, "the {place} is not there yet, or holds no certificate");
                return false;
            }
            Err(error) => {
                tracing::warn!(partition = %key, %error, "its members' certificate is not known; it is tried again");
                return false;
            }
        };
        let tls = match PeerTls::given(certificate, place, &names::peer_name(&spec.cluster, &key.namespace)) {
            Ok(tls) => Arc::new(tls),
            Err(error) => {
                tracing::warn!(partition = %key, %error, "it is not driven until they are in order");
                return false;
            }
        };
        let Ok(cluster_id) = spec.cluster_id.parse() else {
            tracing::warn!(partition = %key, id = spec.cluster_id, "its clusterID is no id; it is not driven");
            return true;
        };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut last = LastKnown::new();
        let members = reach(&spec.cluster, spec.partition, spec.replicas, pods, &mut last);
        let partition = u32::try_from(spec.partition).unwrap_or(0);
        let config = ControllerConfig {
            name: self.identity.clone(),
            rank: self.rank.load(Ordering::Relaxed),
            cluster_id,
            members: members.iter().map(|member| member.expected.clone()).collect(),
            spec: partition_wish(&spec),
            seed: getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())),
        };
        let (events, metrics) = (self.events.clone(), Arc::clone(&self.metrics));
        let regarding = self.regarding(object, &spec);
        let setup = Setup {
            partition,
            config,
            register: Arc::new(PartitionRegister::new(&self.kube, key.clone(), uid.clone())),
            auth: PeerAuth::Tls(Arc::clone(&tls)),
            tell: Box::new(move |notice| {
                metrics.noticed(notice.reason);
                events.notice(&regarding, partition, &notice);
            }),
        };
        let stop = self.stop.child_token();
        let driver = Driver::start(setup, &self.tasks, &stop);
        tracing::info!(partition = %key, "its driver begins");
        if let Some(id) = spec.adopt.as_ref().and_then(|id| id.parse().ok()) {
            driver.request(ControlRequest::AdoptCluster { cluster_id: id }).await;
        }
        let labeller = Labeller {
            kube: self.kube.clone(),
            cache: Arc::clone(&self.cache),
            driver: driver.clone(),
            rank: Arc::clone(&self.rank),
            namespace: key.namespace.clone(),
            cluster: spec.cluster.clone(),
            partition: spec.partition,
            changed: self.changed.clone(),
        };
        self.tasks.spawn(labeller.run(stop.clone()));
        let version = object.metadata.resource_version.clone();
        let driven = Driven { uid, driver, spec, members, last, tls, version, stop };
        self.running.lock().insert(key.clone(), driven);
        true
    }

    /// Notices are about the cluster, where people look; about the partition if there is none.
    fn regarding(&self, partition: &DynamicObject, spec: &ArmdbPartitionSpec) -> Regarding {
        let namespace = partition.metadata.namespace.clone().unwrap_or_default();
        match self.cache.get(Kind::Cluster, &Key::new(namespace, &spec.cluster)) {
            Some(cluster) => Regarding::object(Kind::Cluster, &cluster),
            None => Regarding::object(Kind::Partition, partition),
        }
    }
}

/// What a driver must be told.
struct Change {
    driver: Driver,
    shape: Option<(ArmdbPartitionSpec, Vec<Reach>)>,
    adopt: Option<String>,
    refresh: bool,
}

impl Change {
    async fn tell(self) {
        if let Some((spec, members)) = self.shape {
            self.driver.change(partition_wish(&spec), members).await;
        }
        if let Some(cluster_id) = self.adopt.and_then(|id| id.parse().ok()) {
            self.driver.request(ControlRequest::AdoptCluster { cluster_id }).await;
        }
        if self.refresh {
            self.driver.request(ControlRequest::RefreshRegister).await;
        }
    }
}

impl Driven {
    /// Takes what is known now; what the driver must be told of it, if anything.
    fn take(&mut self, object: &DynamicObject, spec: &ArmdbPartitionSpec, pods: &[PodFacts]) -> Option<Change> {
        let members = reach(&spec.cluster, spec.partition, spec.replicas, pods, &mut self.last);
        let reshaped = *spec != self.spec || members != self.members;
        let adopt = spec.adopt.clone().filter(|_| spec.adopt != self.spec.adopt);
        let refresh = object.metadata.resource_version != self.version;
        self.version.clone_from(&object.metadata.resource_version);
        self.spec = spec.clone();
        self.members.clone_from(&members);
        (reshaped || refresh).then(|| Change {
            driver: self.driver.clone(),
            shape: reshaped.then(|| (spec.clone(), members)),
            adopt,
            refresh,
        })
    }
}
