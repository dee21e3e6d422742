//! ASSEMBLE: a candidate pulls the tails it lacks from donors that promised the same epoch.
//!
//! The donor finds the last common position from both epoch tables and gives what follows it, up to the target. If its
//! log begins later, and the controller says that nobody else can lead, the shard is copied first (`full_sync`).
//! Both sides ask again before every batch (R6): an attempt that was superseded, or whose epoch this member
//! follows already, changes nothing any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::full_sync::{self, StagedCopy};
use super::member_state::{MemberState, data_state};
use super::protocol::{self, WireChunk};
use super::rules::{MemberCore, Reconcile, reconcile};
use super::server::view;
use crate::engine::{LogChunk, TailRead};
use crate::net::peer::{Lane, PeerChannel, dial, replication};
use crate::net::proto::{self, fetch_tail_response};
use crate::position::{Epoch, Gsn, LogTail};
use crate::topology::message::{AssembleReply, AssembleRequest, Donor, Envelope, Refusal, Reply, ShardTarget};

const CONNECT: Duration = Duration::from_secs(1);
/// A copy that takes longer is answered with how far it is, and asked about again.
const COPY_SLICE: Duration = Duration::from_secs(3);
const QUEUED: usize = 2;
const CHUNK_BYTES: usize = 1 << 20;

/// What a candidate is sent.
pub(crate) type Tail = ReceiverStream<Result<proto::FetchTailResponse, Status>>;

// --- the candidate ------------------------------------------------------------------------------------------------

/// Carries an ASSEMBLE out.
pub(crate) async fn assemble(state: &Arc<MemberState>, request: AssembleRequest) -> Result<Reply, Refusal> {
    let states: Vec<_> = state.engine.shards().iter().map(|shard| data_state(&shard.state())).collect();
    state.core.lock().begin_assemble(&request, &states)?;
    if request.targets.len() != states.len() {
        return Err(Refusal::Failed(format!("{} targets for {} shards", request.targets.len(), states.len())));
    }
    for (shard, target) in (0..).zip(&request.targets) {
        if state.shard(shard).tail() != target.tail {
            tracing::info!(shard, donor = target.donor.name, to = ?target.tail.last, "pulls what is missing");
            let wanted = target.copy.then_some((target.donor.sid, request.epoch));
            StagedCopy::end_others(state, shard, wanted).await;
            match pull(state, &request, shard, target).await {
                Err(Refusal::BelowFloor { common, floor, .. }) if target.copy => {
                    let commit = state.shard(shard).commit();
                    if common.gsn < commit {
                        let why =
                            format!("shares no more than {common:?} with its donor although {commit} is committed");
                        state.quarantine(shard, why.clone());
                        return Err(Refusal::Failed(why));
                    }
                    tracing::warn!(
                        shard,
                        donor = target.donor.name,
                        ?common,
                        floor,
                        "its log begins later: it is copied"
                    );
                    copy(state, &request, shard, target).await?;
                    pull(state, &request, shard, target).await?;
                }
                pulled => pulled?,
            }
        }
    }
    let synced = Arc::clone(state);
    tokio::task::spawn_blocking(move || synced.engine.sync_all())
        .await
        .map_err(|error| Refusal::Failed(error.to_string()))?
        .map_err(|error| Refusal::Failed(error.to_string()))?;
    let shards = state.shard_reports();
    let targets: Vec<LogTail> = request.targets.iter().map(|target| target.tail).collect();
    let core = state.core.lock();
    core.check_assemble(request.epoch)?;
    if let Some((shard, (have, want))) =
        (0..).zip(shards.iter().zip(&targets)).find(|(_, (have, want))| have.tail != **want)
    {
        return Err(Refusal::NotAtTarget { shard, have: have.tail, want: *want });
    }
    if !MemberCore::at_targets(&shards, &targets) {
        return Err(Refusal::Failed("what was pulled is not durable yet".into()));
    }
    Ok(Reply::Assembled(AssembleReply { standing: core.standing(), tails: targets }))
}

async fn reach(state: &MemberState, shard: u16, donor: &Donor) -> Result<PeerChannel, Refusal> {
    let dialled = dial(&donor.address, &state.addresses.auth, Lane::Main, CONNECT).await;
    dialled.map_err(|error| Refusal::Failed(format!("shard {shard} from {}: {error}", donor.name)))
}

/// Copies the shard as the donor has it committed.
async fn copy(
    state: &Arc<MemberState>,
    request: &AssembleRequest,
    shard: u16,
    target: &ShardTarget,
) -> Result<(), Refusal> {
    let channel = reach(state, shard, &target.donor).await?;
    full_sync::staged_copy(state, (target.donor.sid, request.epoch), channel, shard, COPY_SLICE).await
}

async fn pull(
    state: &Arc<MemberState>,
    request: &AssembleRequest,
    shard: u16,
    target: &ShardTarget,
) -> Result<(), Refusal> {
    let failed = |why: String| Refusal::Failed(format!("shard {shard} from {}: {why}", target.donor.name));
    let channel = reach(state, shard, &target.donor).await?;
    let own = state.shard(shard);
    let epochs = own.epoch_table();
    let message = proto::FetchTailRequest {
        envelope: Some(Envelope { to: target.donor.sid, ..request.envelope.clone() }.into()),
        epoch: request.epoch,
        shard: shard.into(),
        tail: Some(own.tail().into()),
        epochs: protocol::wire_epochs(&epochs),
        target: Some(target.tail.into()),
    };
    let mut tail = replication(channel)
        .fetch_tail(message)
        .await
        .map_err(|status| failed(status.message().to_owned()))?
        .into_inner();
    while let Some(response) = tail.message().await.map_err(|status| failed(status.message().to_owned()))? {
        match response.message {
            Some(fetch_tail_response::Message::TruncateTo(to)) => cut(state, request.epoch, shard, to).await?,
            Some(fetch_tail_response::Message::Chunk(chunk)) => {
                let chunk = WireChunk::try_from(chunk).map_err(|error| failed(error.to_string()))?;
                append(state, request.epoch, shard, chunk)?;
            }
            Some(fetch_tail_response::Message::Refused(refused)) => return Err(protocol::refusal(&refused)),
            None => return Err(failed("an empty message".into())),
        }
    }
    Ok(())
}

async fn cut(state: &Arc<MemberState>, epoch: Epoch, shard: u16, to: Gsn) -> Result<(), Refusal> {
    let cutting = Arc::clone(state);
    let cut = tokio::task::spawn_blocking(move || {
        let _append = cutting.append_lock(shard).lock();
        let own = cutting.shard(shard);
        cutting.core.lock().check_assemble(epoch)?;
        if own.tail_gsn() == to {
            return Ok(());
        }
        if to < own.commit() {
            let why = format!("told to cut to {to} although {} is committed", own.commit());
            cutting.quarantine(shard, why.clone());
            return Err(Refusal::Failed(why));
        }
        own.truncate_to(to).map(drop).map_err(|error| Refusal::Failed(error.to_string()))
    });
    cut.await.map_err(|error| Refusal::Failed(error.to_string()))?
}

fn append(state: &MemberState, epoch: Epoch, shard: u16, chunk: WireChunk) -> Result<(), Refusal> {
    let _append = state.append_lock(shard).lock();
    state.core.lock().check_assemble(epoch)?;
    let chunk = LogChunk {
        shard,
        epoch: chunk.epoch,
        prev: chunk.prev,
        first_gsn: chunk.first_gsn,
        last: chunk.last,
        bytes: chunk.records,
    };
    state.shard(shard).append_chunk(&chunk).map(drop).map_err(|error| Refusal::Failed(error.to_string()))
}

// --- the donor ----------------------------------------------------------------------------------------------------

/// Gives a candidate what it lacks.
pub(crate) fn give(state: &Arc<MemberState>, request: proto::FetchTailRequest) -> Result<Tail, Status> {
    let missing = |field| protocol::ProtocolError { field, problem: "missing" };
    let envelope: Envelope = request.envelope.ok_or(missing("fetch.envelope"))?.try_into()?;
    let shard = u16::try_from(request.shard)
        .ok()
        .filter(|shard| usize::from(*shard) < state.engine.shards().len())
        .ok_or_else(|| Status::invalid_argument("no such shard"))?;
    let theirs_tail: LogTail = request.tail.ok_or(missing("fetch.tail"))?.try_into()?;
    let target: LogTail = request.target.ok_or(missing("fetch.target"))?.try_into()?;
    let epochs = protocol::epochs(&request.epochs)?;
    let (sender, receiver) = mpsc::channel(QUEUED);
    let state = Arc::clone(state);
    let epoch = request.epoch;
    tokio::spawn(async move {
        let refuse = |refusal: Refusal| {
            let wire = protocol::wire_refusal(&refusal, Some(state.core.lock().standing()));
            Ok(response(fetch_tail_response::Message::Refused(wire)))
        };
        if let Err(refusal) = check(&state, &envelope, epoch) {
            let _ = sender.send(refuse(refusal)).await;
            return;
        }
        let ours = view(state.shard(shard));
        let theirs = super::rules::LogView {
            state: crate::topology::message::DataState::Ready,
            tail: theirs_tail,
            commit: 0,
            log_floor: 1,
            epochs,
        };
        let common = match reconcile(&ours, &theirs) {
            Reconcile::Match { at } => at,
            Reconcile::Truncate { to } => to,
            Reconcile::Full { .. } | Reconcile::Diverged { .. } | Reconcile::Lacking { .. } => {
                let common = ours.epochs.last_common(ours.tail.last.gsn, &theirs.epochs, theirs.tail.last.gsn);
                let _ = sender.send(refuse(Refusal::BelowFloor { shard, common, floor: ours.log_floor })).await;
                return;
            }
        };
        let first = response(fetch_tail_response::Message::TruncateTo(common.gsn.min(target.last.gsn)));
        if sender.send(Ok(first)).await.is_err() {
            return;
        }
        let mut at = common.gsn;
        while at < target.last.gsn {
            if let Err(refusal) = check(&state, &envelope, epoch) {
                let _ = sender.send(refuse(refusal)).await;
                return;
            }
            let own = state.shard(shard);
            let read = tokio::task::block_in_place(|| match own.tail_read(at, CHUNK_BYTES) {
                TailRead::Chunk(chunk) => Ok(Some(chunk)),
                TailRead::AtEnd => Ok(None),
                TailRead::Overrun => {
                    let mut reader = own.log_reader(at).map_err(|error| error.to_string())?;
                    reader.next_chunk(CHUNK_BYTES).map_err(|error| error.to_string())
                }
            });
            let chunk = match read {
                Ok(Some(chunk)) if chunk.last.last.gsn <= target.last.gsn => chunk,
                Ok(_) => {
                    let _ =
                        sender.send(refuse(Refusal::Failed("the donor's log does not end at the target".into()))).await;
                    return;
                }
                Err(why) => {
                    let _ = sender.send(refuse(Refusal::Failed(why))).await;
                    return;
                }
            };
            at = chunk.last.last.gsn;
            let chunk = proto::Chunk {
                shard: chunk.shard.into(),
                epoch: chunk.epoch,
                prev: Some(chunk.prev.into()),
                first_gsn: chunk.first_gsn,
                last: Some(chunk.last.into()),
                records: chunk.bytes,
                commit: own.commit(),
            };
            if sender.send(Ok(response(fetch_tail_response::Message::Chunk(chunk)))).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Whether this member may give as a donor.
pub(super) fn check(state: &MemberState, envelope: &Envelope, epoch: Epoch) -> Result<(), Refusal> {
    let core = state.core.lock();
    let standing = core.standing();
    if envelope.to != standing.sid {
        return Err(Refusal::WrongSid { have: standing.sid, want: envelope.to });
    }
    if let Some(have) = standing.cluster_id.filter(|have| *have != envelope.cluster_id) {
        return Err(Refusal::WrongCluster { have, want: envelope.cluster_id });
    }
    if standing.lineage != envelope.lineage {
        return Err(Refusal::WrongLineage { have: standing.lineage, want: envelope.lineage });
    }
    core.check_promise(epoch)
}

fn response(message: fetch_tail_response::Message) -> proto::FetchTailResponse {
    proto::FetchTailResponse { message: Some(message) }
}
