//! The control socket: what a user asks of a running local cluster (`armdb status`, `switchover`, adopt).
//!
//! A unix socket in the cluster's directory, mode 0600: whoever may use it is whoever owns the cluster. Each call
//! answers when what was asked for is done, or says why it is not.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::directory::control_socket;
use super::running::{Running, wait_for};
use crate::api::names;
use crate::drive::Driver;
use crate::ident::{AttemptId, ClusterId, Sid};
use crate::net::proto::local_client::LocalClient;
use crate::net::proto::local_server::{Local, LocalServer};
use crate::net::proto::{
    AdoptRequest, AdoptResponse, LocalStatusRequest, LocalStatusResponse, RecoverClusterRequest,
    RecoverClusterResponse, SetAsideMemberRequest, SetAsideMemberResponse, SwitchoverRequest, SwitchoverResponse,
};
use crate::topology::controller::{ControlRequest, REFUSED};
use crate::topology::view::PartitionState;

/// A switchover that is not done by then is told as such; it may still happen.
const SWITCHOVER: Duration = Duration::from_secs(30);
/// As above, for a register that is rebuilt.
const ADOPT: Duration = Duration::from_secs(30);
/// As above, for an unsafe recovery.
const RECOVER: Duration = Duration::from_secs(30);
/// As above, for a member that comes back with new storage.
const SET_ASIDE: Duration = Duration::from_secs(90);
/// A local supervisor that does not take a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(2);

/// No supervisor answers at a directory.
#[derive(Debug, thiserror::Error)]
#[error("no running armdb local answers in {dir}; start it with armdb local -f FILE")]
pub struct NotRunning {
    dir: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Connects to the supervisor of the cluster in `dir`.
pub async fn connect(dir: &Path) -> Result<LocalClient<Channel>, NotRunning> {
    let failed = |source| NotRunning { dir: dir.display().to_string(), source };
    // The descriptor must outlive the attempt: a long path goes by way of it.
    let (path, _dir) = control_socket(dir).map_err(|error| failed(error.into()))?;
    let endpoint = Endpoint::try_from(format!("unix://{}", path.display())).map_err(|error| failed(error.into()))?;
    let channel = endpoint.connect_timeout(CONNECT).connect().await.map_err(|error| failed(error.into()))?;
    Ok(LocalClient::new(channel))
}

/// Binds the socket; a leftover of an earlier run is replaced, because the directory is locked.
pub(crate) fn bind(dir: &Path) -> io::Result<UnixListener> {
    let (path, _dir) = control_socket(dir)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: UnixListener, running: Arc<Running>, stop: CancellationToken) {
    let served = Server::builder()
        .add_service(LocalServer::new(Service { running }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "the control socket failed");
    }
}

struct Service {
    running: Arc<Running>,
}

impl Service {
    /// The partition that a member belongs to; partition 0 for `any`.
    fn driver_of(&self, member: Option<&str>) -> Result<&Driver, Status> {
        let partition = match member {
            None => 0,
            Some(name) => self
                .running
                .file
                .members
                .iter()
                .find(|member| member.name == name)
                .map(|member| member.partition)
                .ok_or_else(|| {
                    let known: Vec<_> = self.running.file.members.iter().map(|m| m.name.as_str()).collect();
                    let hint =
                        if names::parse_member(name).is_none() { " (a name is cluster-partition-ordinal)" } else { "" };
                    Status::not_found(format!("no member {name}{hint}; the members are {}", known.join(", ")))
                })?,
        };
        self.running
            .drivers
            .iter()
            .find(|driver| driver.partition() == partition)
            .ok_or_else(|| Status::unavailable("the cluster is starting"))
    }
}

#[tonic::async_trait]
impl Local for Service {
    async fn status(&self, _: Request<LocalStatusRequest>) -> Result<Response<LocalStatusResponse>, Status> {
        let status_json = serde_json::to_string(&self.running.status())
            .map_err(|error| Status::internal(format!("the status cannot be written as JSON: {error}")))?;
        Ok(Response::new(LocalStatusResponse { status_json, endpoints: self.running.file.endpoints() }))
    }

    async fn switchover(&self, request: Request<SwitchoverRequest>) -> Result<Response<SwitchoverResponse>, Status> {
        let target = request.into_inner().target;
        let target = Some(target).filter(|target| !target.is_empty() && target != "any");
        let driver = self.driver_of(target.as_deref())?;
        let before = driver.view();
        if target.is_some() && target == before.leader && before.state == PartitionState::Available {
            return Ok(Response::new(SwitchoverResponse {
                leader: before.leader.unwrap_or_default(),
                epoch: before.epoch,
                duration_ms: 0,
            }));
        }
        let id = AttemptId::random().to_string();
        let asked = Instant::now();
        driver.request(ControlRequest::Switchover { target: target.clone(), id: id.clone() }).await;
        // Done when the register says what became of this very request, and, if it went through, the new
        // leader serves.
        let done = wait_for(driver, |view| {
            let outcome = view.last_request.as_ref().filter(|request| request.id == id)?.outcome.clone();
            let moved = view.leader.is_some() && view.leader != before.leader && view.epoch > before.epoch;
            match (moved, view.state) {
                (true, PartitionState::Available) => Some(Ok(view)),
                (true, _) => None,
                (false, _) => Some(Err(outcome)),
            }
        });
        match tokio::time::timeout(SWITCHOVER, done).await {
            Ok(Ok(view)) => {
                let told = view.transitions.iter().rev().find(|transition| transition.epoch == view.epoch);
                Ok(Response::new(SwitchoverResponse {
                    leader: view.leader.unwrap_or_default(),
                    epoch: view.epoch,
                    duration_ms: told
                        .map_or_else(|| asked.elapsed(), |transition| transition.duration)
                        .as_millis()
                        .try_into()
                        .unwrap_or(u64::MAX),
                }))
            }
            Ok(Err(outcome)) => {
                let why = outcome.strip_prefix(REFUSED).unwrap_or(&outcome);
                Err(Status::failed_precondition(format!("the leadership was not moved: {why}")))
            }
            Err(_) => Err(Status::deadline_exceeded(format!(
                "the leadership was not moved within {} s; {}",
                SWITCHOVER.as_secs(),
                self.running.obstacles()
            ))),
        }
    }

    async fn adopt(&self, request: Request<AdoptRequest>) -> Result<Response<AdoptResponse>, Status> {
        let cluster_id: ClusterId =
            request.into_inner().cluster_id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let lost: Vec<_> =
            self.running.drivers.iter().filter(|driver| driver.view().state == PartitionState::RegisterLost).collect();
        if lost.is_empty() {
            return Err(Status::failed_precondition("no register is lost: there is nothing to adopt"));
        }
        for driver in &lost {
            if let Some(found) = driver.view().cluster_id.filter(|found| *found != cluster_id) {
                return Err(Status::failed_precondition(format!(
                    "the members of partition {} hold data of cluster {found}, not of {cluster_id}",
                    driver.partition()
                )));
            }
        }
        for driver in &lost {
            driver.request(ControlRequest::AdoptCluster { cluster_id }).await;
        }
        let all = async {
            for driver in &lost {
                wait_for(driver, |view| (view.state == PartitionState::Available).then_some(())).await;
            }
        };
        match tokio::time::timeout(ADOPT, all).await {
            Ok(()) => Ok(Response::new(AdoptResponse {
                message: format!("cluster {cluster_id} is adopted and serves ({} register rebuilt)", lost.len()),
            })),
            Err(_) => Err(Status::failed_precondition(format!(
                "cluster {cluster_id} does not serve after {} s; {}",
                ADOPT.as_secs(),
                self.running.obstacles()
            ))),
        }
    }

    async fn recover(
        &self,
        request: Request<RecoverClusterRequest>,
    ) -> Result<Response<RecoverClusterResponse>, Status> {
        let request = request.into_inner();
        let cluster_id: ClusterId =
            request.cluster_id.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        if !request.accept_data_loss {
            return Err(Status::failed_precondition("nothing was done: the loss of data was not accepted"));
        }
        let driver = self.driver_of(Some(&request.from))?;
        let id = AttemptId::random().to_string();
        driver.request(ControlRequest::Recover { cluster_id, from: request.from.clone(), id: id.clone() }).await;
        let done = wait_for(driver, |view| {
            let outcome = view.last_request.as_ref().filter(|request| request.id == id)?.outcome.clone();
            match (outcome.strip_prefix(REFUSED), view.state) {
                (Some(why), _) => Some(Err(why.to_owned())),
                (None, PartitionState::Available) => Some(Ok(outcome)),
                (None, _) => None,
            }
        });
        match tokio::time::timeout(RECOVER, done).await {
            Ok(Ok(message)) => Ok(Response::new(RecoverClusterResponse { message })),
            Ok(Err(why)) => Err(Status::failed_precondition(format!("nothing was given up: {why}"))),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "{} does not lead after {} s; {}",
                request.from,
                RECOVER.as_secs(),
                self.running.obstacles()
            ))),
        }
    }

    async fn set_aside(
        &self,
        request: Request<SetAsideMemberRequest>,
    ) -> Result<Response<SetAsideMemberResponse>, Status> {
        let SetAsideMemberRequest { member, sid } = request.into_inner();
        let sid: Sid = sid.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let driver = self.driver_of(Some(&member))?;
        let id = AttemptId::random().to_string();
        driver.request(ControlRequest::SetAside { member: member.clone(), sid, id: id.clone() }).await;
        let done = wait_for(driver, |view| {
            let outcome = view.last_request.as_ref().filter(|request| request.id == id)?.outcome.clone();
            Some(match outcome.strip_prefix(REFUSED) {
                Some(why) => Err(why.to_owned()),
                None => Ok(outcome),
            })
        });
        match tokio::time::timeout(SET_ASIDE, done).await {
            Ok(Ok(message)) => Ok(Response::new(SetAsideMemberResponse { message })),
            Ok(Err(why)) => Err(Status::failed_precondition(format!("nothing was set aside: {why}"))),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "{member} did not come back with new storage within {} s; {}",
                SET_ASIDE.as_secs(),
                self.running.obstacles()
            ))),
        }
    }
}
