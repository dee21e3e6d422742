//! The process of one member: listeners, opening, serving, and the way out.
//!
//! The HTTP port is up first, because opening may recover for long and probes must see that the process
//! lives. The client and peer ports are bound at once too, so that a port in use is told before any data is
//! touched, but answer only once the member is open.
//!
//! The way out: draining is announced while everything still serves (a controller moves the leadership and
//! clients follow it); then nothing new is taken, what is in flight is finished, streams are closed; the
//! engine's `clean` mark is the very last write.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use super::admission::Budget;
use super::config::NodeConfig;
use super::core::{Core, Identity};
use super::http::{self, Lifecycle};
use super::intake::IntakeLayer;
use super::kv_service::KvService;
use super::listener::{GuardedListener, MAX_FRAME_BYTES, Port, Protocol};
use super::member::{Member, MemberConfig, OpenError};
use super::metrics::{self, Metrics};
use super::replica::Replica;
use crate::disk::{Disk as _, RealDisk};
use crate::engine::{EngineError, NodeMeta};
use crate::ident::ClusterId;
use crate::net::listen;
use crate::net::peer::PeerAuth;
use crate::net::proto;
use crate::net::proto::kv_server::KvServer;

/// What a member process is started with.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The cluster's name.
    pub cluster: String,
    /// The partition.
    pub partition: u32,
    /// The member's name.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Shards of the partition.
    pub shards: u16,
    /// Where clients are listened for, `host:port`.
    pub client: String,
    /// Where members and controllers are listened for.
    pub peer: String,
    /// Where probes and scrapes are listened for.
    pub http: String,
    /// Where clients reach this member, if not where they are listened for.
    pub advertise_client: Option<String>,
    /// Where members reach this member, if not where they are listened for.
    pub advertise_peer: Option<String>,
    /// The configuration file's content.
    pub config: NodeConfig,
    /// How the peer port's two ends know each other.
    pub auth: PeerAuth,
}

/// Why a member process does not run (any longer).
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process listens there.
    #[error(
        "the {port} port {address} is in use by another process: stop that one, or give another address with {flag}"
    )]
    PortInUse {
        /// Which port.
        port: &'static str,
        /// Its address.
        address: String,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// It cannot be listened there.
    #[error("cannot listen for {port} connections on {address}: {source}; {flag} wants an address of this machine")]
    Listen {
        /// Which port.
        port: &'static str,
        /// Its address.
        address: String,
        /// The flag that sets it.
        flag: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory belongs to another cluster.
    #[error(
        "{dir} belongs to cluster {have}, the configuration says {want}: give the directory of this cluster, or an \
         empty one; nothing was changed"
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        have: ClusterId,
        /// The configured one.
        want: ClusterId,
    },
    /// The engine stopped.
    #[error("the engine has stopped after a failure: {0}; nothing was acknowledged after it, restart the process")]
    EngineFailed(String),
    /// Closing the data failed.
    #[error("closing the data: {0}; nothing that was acknowledged is lost, the next start recovers")]
    Close(EngineError),
    /// The data could not be renamed.
    #[error("setting the data of an older lineage aside: {0}; it is as it was, ask again")]
    SetAside(io::Error),
    /// A listener ended.
    #[error("serving {port} connections: {reason}")]
    Serve {
        /// Which port.
        port: &'static str,
        /// Why it ended.
        reason: String,
    },
}

impl NodeError {
    /// Whether trying again later may succeed without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::PortInUse { .. } | Self::Open(OpenError::Engine(EngineError::Locked(_))))
    }
}

/// Connections on the peer port.
const MAX_PEER_CONNECTIONS: usize = 256;

/// Connections on the HTTP port.
const MAX_HTTP_CONNECTIONS: usize = 256;

/// How long connections may take to end once everything in flight is answered.
const CLOSE_GRACE: Duration = Duration::from_secs(3);

/// How often the engine is asked whether it has failed, and readiness is told on.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A member whose ports are bound and whose data is not open yet.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    client: TcpListener,
    peer: std::net::TcpListener,
    http: TcpListener,
    /// Where it listens.
    pub addresses: Addresses,
}

/// Where a member listens: what was asked for, with real port numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For members and controllers.
    pub peer: SocketAddr,
    /// For probes and scrapes.
    pub http: SocketAddr,
}

impl Node {
    /// Binds the three ports.
    pub async fn bind(options: NodeOptions) -> Result<Self, NodeError> {
        let (client, client_address) = bind("client", "--client", &options.client).await?;
        let (peer, peer_address) = bind("peer", "--peer", &options.peer).await?;
        let (http, http_address) = bind("http", "--http", &options.http).await?;
        let peer = peer.into_std().map_err(|source| NodeError::Listen {
            port: "peer",
            address: options.peer.clone(),
            flag: "--peer",
            source,
        })?;
        let addresses = Addresses { client: client_address, peer: peer_address, http: http_address };
        Ok(Self { options, client, peer, http, addresses })
    }

    /// Opens the data and serves until `stop` resolves (then it goes out in order) or something fails.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
        let Self { options, client, peer, http, addresses } = self;
        let limits = options.config.limits();
        let lifecycle = Arc::new(Lifecycle::default());
        let measured = Arc::new(Metrics::default());
        let buffered = Budget::new(limits.max_buffered_bytes);
        let client_port = Port::new("client", Protocol::Http2, limits.max_connections, limits.max_in_flight_bytes);
        let peer_port = Port::new("peer", Protocol::Http2, MAX_PEER_CONNECTIONS, usize::MAX);
        let http_port = Port::new("http", Protocol::Http1, MAX_HTTP_CONNECTIONS, usize::MAX);
        let registry = metrics::registry(metrics::Sources {
            metrics: Arc::clone(&measured),
            ports: vec![Arc::clone(&client_port), Arc::clone(&peer_port), Arc::clone(&http_port)],
            buffered: Arc::clone(&buffered),
            lifecycle: Arc::clone(&lifecycle),
            labels: vec![
                ("cluster", options.cluster.clone()),
                ("partition", options.partition.to_string()),
                ("member", options.name.clone()),
            ],
        });
        let probes = http::routes(Arc::clone(&lifecycle), registry);
        let probes = AbortOnDrop(tokio::spawn(async move {
            // axum's server never ends by itself.
            let _ = axum::serve(GuardedListener::new(http, http_port), probes).await;
        }));

        tokio::pin!(stop);
        let client_address = options.advertise_client.clone().unwrap_or_else(|| addresses.client.to_string());
        let peer_address = options.advertise_peer.clone().unwrap_or_else(|| addresses.peer.to_string());
        let opening = open(&options, client_address.clone(), peer_address);
        let member = tokio::select! {
            member = opening => member?,
            () = &mut stop => {
                tracing::info!("stopped while opening the data");
                return Ok(());
            }
        };
        let replica: Arc<dyn Replica> = member.clone();
        lifecycle.running(Arc::clone(&replica));
        tracing::info!(
            cluster = options.cluster,
            partition = options.partition,
            member = options.name,
            client = %addresses.client,
            peer = %addresses.peer,
            http = %addresses.http,
            data = %options.data.display(),
            "open"
        );

        let (stopping_tx, stopping) = watch::channel(false);
        let identity = Identity {
            cluster: options.cluster.clone(),
            partition: options.partition,
            member: options.name.clone(),
            client_address,
        };
        let core =
            Core::new(Arc::clone(&replica), identity, limits, options.config.default_ack(), measured, stopping.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut clients = AbortOnDrop(tokio::spawn(serve_clients(core, health_service, client, client_port, buffered)));
        let peers_member = Arc::clone(&member);
        let mut peers = AbortOnDrop(tokio::spawn(async move { peers_member.serve_peer(peer, peer_port).await }));
        let failure = watch_health(Arc::clone(&replica), Arc::clone(&lifecycle), health.clone());

        tokio::select! {
            () = &mut stop => {}
            () = member.set_aside_asked() => {}
            reason = failure => return Err(NodeError::EngineFailed(reason)),
            ended = &mut clients.0 => return Err(serve_error("client", &ended)),
            ended = &mut peers.0 => return Err(serve_error("peer", &ended)),
        }

        tracing::info!("stopping: giving leadership away");
        member.announce_draining().await;
        lifecycle.stopping();
        health.set_service_status(KV_SERVICE, ServingStatus::NotServing).await;
        let _ = stopping_tx.send(true);
        if tokio::time::timeout(CLOSE_GRACE, &mut clients.0).await.is_err() {
            tracing::warn!("connections that did not end in time are closed");
        }
        drop(clients);
        member.shutdown().await.map_err(NodeError::Close)?;
        drop((peers, probes));
        if member.is_set_aside() {
            set_aside(&options.data, &member.engine().meta()).map_err(NodeError::SetAside)?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

const KV_SERVICE: &str = "armdb.v1.Kv";

/// Renames data of an older lineage; whoever starts the process again starts it with an empty directory. One rename:
/// the data is under one name or the other, whatever dies meanwhile.
fn set_aside(data: &Path, meta: &NodeMeta) -> io::Result<()> {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    let aside = data.with_file_name(format!("{name}.lineage-{}-{}", meta.lineage, meta.sid));
    let disk = RealDisk::new();
    disk.rename(data, &aside)?;
    // A relative path of one name has the empty path as its parent.
    let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_dir(parent)?;
    tracing::warn!(aside = %aside.display(), "the data of the older lineage is set aside: remove it when nobody needs it");
    Ok(())
}

/// Serves the client port until the member stops and every connection has ended.
pub(super) async fn serve_clients<H: tonic_health::pb::health_server::Health>(
    core: Arc<Core>,
    health: tonic_health::pb::health_server::HealthServer<H>,
    listener: TcpListener,
    port: Arc<Port>,
    buffered: Arc<Budget>,
) -> Result<(), tonic::transport::Error> {
    let limits = core.limits;
    let malformed = Arc::clone(&core.metrics.malformed_requests);
    let intake = IntakeLayer { all: buffered, max_request_bytes: limits.max_request_bytes, malformed };
    let mut stopping = core.stopping.clone();
    let stopped = async move {
        // An error says that whoever could tell is gone: as good as told.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let kv = KvServer::new(KvService::new(core))
        .max_decoding_message_size(limits.max_request_bytes)
        // What is sent is bounded where it is made; one large value must not be refused here.
        .max_encoding_message_size(usize::MAX);
    Server::builder()
        .layer(intake)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_concurrent_streams(u32::try_from(limits.max_in_flight_requests).unwrap_or(u32::MAX))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_max_header_list_size(16 << 10)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(kv)
        .add_service(health)
        .add_service(reflection())
        .serve_with_incoming_shutdown(GuardedListener::new(listener, port).into_stream(), stopped)
        .await
}

/// Opens the member, and refuses data of another cluster before anything is served.
async fn open(options: &NodeOptions, client_address: String, peer_address: String) -> Result<Arc<Member>, NodeError> {
    let member = Member::open(MemberConfig {
        name: options.name.clone(),
        cluster: options.cluster.clone(),
        partition: options.partition,
        dir: options.data.clone(),
        shards: options.shards,
        client_address,
        peer_address,
        auth: options.auth.clone(),
        engine: options.config.engine_options(),
        disk: Arc::new(RealDisk::new()),
    })
    .await?;
    let have = member.engine().meta().cluster_id;
    if let (Some(have), Some(want)) = (have, options.config.cluster_id)
        && have != want
    {
        member.shutdown().await.map_err(NodeError::Close)?;
        return Err(NodeError::OtherCluster { dir: options.data.clone(), have, want });
    }
    Ok(member)
}

async fn bind(port: &'static str, flag: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), NodeError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => NodeError::PortInUse { port, address: address.to_owned(), flag },
        _ => NodeError::Listen { port, address: address.to_owned(), flag, source },
    };
    let listener = listen::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn reflection()
-> tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled into this binary")
}

fn serve_error<E: std::fmt::Display>(
    port: &'static str,
    ended: &Result<Result<(), E>, tokio::task::JoinError>,
) -> NodeError {
    let reason = match ended {
        Ok(Ok(())) => "the listener ended".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    NodeError::Serve { port, reason }
}

/// Tells gRPC health what `/readyz` says; returns when the engine has failed.
async fn watch_health(
    replica: Arc<dyn Replica>,
    lifecycle: Arc<Lifecycle>,
    health: tonic_health::server::HealthReporter,
) -> String {
    let mut told = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Some(reason) = replica.engine().failure() {
            return reason;
        }
        let ready = lifecycle.ready();
        if told != Some(ready.ok) {
            told = Some(ready.ok);
            let status = if ready.ok { ServingStatus::Serving } else { ServingStatus::NotServing };
            // The empty name stands for the whole server.
            health.set_service_status(KV_SERVICE, status).await;
            health.set_service_status("", status).await;
            tracing::info!(ready = ready.ok, reason = ready.reason, "readiness changed");
        }
    }
}

/// A task that ends with its owner.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
