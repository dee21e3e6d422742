//! Full sync over the wire: the leader pins a snapshot and gives its files, the follower stages and switches.
//!
//! A pin outlives a broken stream for [`PIN_IDLE`], so that a receiver that comes back goes on where it was. The
//! receiver persists `Syncing` before it touches anything (the engine does), and never takes a copy from someone
//! who has committed less (R11). Writes go on meanwhile; what came after the pin follows as log. A receiver that
//! finds pieces of a pin's files that its giver does not know of, because an earlier process of it staged them, asks
//! again and names them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::member_state::MemberState;
use super::protocol;
use super::rules::Following;
use crate::engine::{FullSync, SnapshotManifest, SnapshotPin};
use crate::ident::Sid;
use crate::net::peer::{PeerChannel, replication};
use crate::net::proto::{self, snapshot_response};
use crate::topology::message::Envelope;

/// How long a pin nobody reads from is kept.
const PIN_IDLE: Duration = Duration::from_secs(600);
/// Bytes of a file in one message.
const PART_BYTES: usize = 1 << 20;
const QUEUED: usize = 2;

/// What a receiver is sent.
pub(crate) type Snapshot = ReceiverStream<Result<proto::SnapshotResponse, Status>>;

/// A manifest as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WireManifest {
    pin: u64,
    snapshot: SnapshotManifest,
}

/// What a receiver has of a pin it began to read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Resume {
    pin: u64,
    files: HashMap<String, u64>,
}

// --- the giving side ----------------------------------------------------------------------------------------------

/// The pins of a leader, by receiver and shard.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<HashMap<(Sid, u16), Pinned>>);

#[derive(Debug, Clone)]
struct Pinned {
    number: u64,
    pin: Arc<SnapshotPin>,
    used: Instant,
}

impl Pins {
    /// Gives up what nobody has read from for long, or (with `all`) everything.
    pub(crate) fn expire(&self, all: bool) {
        self.0.lock().retain(|_, pinned| !all && pinned.used.elapsed() < PIN_IDLE);
    }

    fn kept(&self, key: (Sid, u16), number: u64) -> Option<Pinned> {
        self.0.lock().get(&key).filter(|pinned| pinned.number == number).cloned()
    }

    fn keep(&self, key: (Sid, u16), pin: SnapshotPin) -> Pinned {
        let mut number = [0; 8];
        // Any number will do that a receiver of an earlier process does not have by chance.
        let _ = getrandom::fill(&mut number);
        let pinned = Pinned { number: u64::from_le_bytes(number) >> 12, pin: Arc::new(pin), used: Instant::now() };
        self.0.lock().insert(key, pinned.clone());
        pinned
    }

    fn touch(&self, key: (Sid, u16)) {
        if let Some(pinned) = self.0.lock().get_mut(&key) {
            pinned.used = Instant::now();
        }
    }

    fn drop_pin(&self, key: (Sid, u16), number: u64) {
        let mut pins = self.0.lock();
        if pins.get(&key).is_some_and(|pinned| pinned.number == number) {
            pins.remove(&key);
        }
    }
}

/// Gives a snapshot of a shard.
pub(crate) fn give(
    state: &Arc<MemberState>,
    pins: &Arc<Pins>,
    request: proto::SnapshotRequest,
) -> Result<Snapshot, Status> {
    let missing = protocol::ProtocolError { field: "snapshot.envelope", problem: "missing" };
    let envelope: Envelope = request.envelope.ok_or(missing)?.try_into()?;
    let shard = u16::try_from(request.shard)
        .ok()
        .filter(|shard| usize::from(*shard) < state.engine.shards().len())
        .ok_or_else(|| Status::invalid_argument("no such shard"))?;
    let Some(term) = state.term().filter(|term| term.epoch() == request.epoch) else {
        return Err(Status::failed_precondition("this member does not lead that epoch"));
    };
    let standing = state.core.lock().standing();
    if standing.cluster_id != Some(envelope.cluster_id) || standing.lineage != envelope.lineage {
        return Err(Status::failed_precondition("another cluster or lineage"));
    }
    // In this request the envelope names the receiver: it is what a pin is kept for.
    let key = (envelope.to, shard);
    let resume: Option<Resume> = serde_json::from_slice(&request.resume_json).ok();
    let kept = resume.and_then(|resume| Some((pins.kept(key, resume.pin)?, resume.files)));
    let (sender, receiver) = mpsc::channel(QUEUED);
    let (state, pins) = (Arc::clone(state), Arc::clone(pins));
    tokio::spawn(async move {
        let (pinned, have) = match kept {
            Some(kept) => kept,
            None => {
                let pinning = Arc::clone(&state);
                let pin = tokio::task::spawn_blocking(move || pinning.shard(shard).pin_snapshot()).await;
                match pin {
                    Ok(Ok(pin)) => (pins.keep(key, pin), HashMap::new()),
                    Ok(Err(error)) => {
                        let _ = sender.send(Err(Status::unavailable(error.to_string()))).await;
                        return;
                    }
                    Err(error) => {
                        let _ = sender.send(Err(Status::internal(error.to_string()))).await;
                        return;
                    }
                }
            }
        };
        let end = tokio::select! {
            () = term.ended.cancelled() => Err(Status::unavailable("this member leads no more")),
            end = send_files(&pins, key, &pinned, &have, &sender) => end,
        };
        match end {
            Ok(()) => pins.drop_pin(key, pinned.number),
            Err(status) => {
                let _ = sender.send(Err(status)).await;
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn send_files(
    pins: &Pins,
    key: (Sid, u16),
    pinned: &Pinned,
    have: &HashMap<String, u64>,
    sender: &mpsc::Sender<Result<proto::SnapshotResponse, Status>>,
) -> Result<(), Status> {
    let gone = || Status::cancelled("the receiver is gone");
    let manifest = pinned.pin.manifest();
    let wire = WireManifest { pin: pinned.number, snapshot: manifest.clone() };
    let json = serde_json::to_vec(&wire).map_err(|error| Status::internal(error.to_string()))?;
    sender.send(Ok(response(snapshot_response::Message::ManifestJson(json.into())))).await.map_err(|_| gone())?;
    for file in &manifest.files {
        let mut offset = have.get(&file.name).copied().unwrap_or(0).min(file.len);
        while offset < file.len {
            let len = usize::try_from(file.len - offset).unwrap_or(PART_BYTES).min(PART_BYTES);
            let bytes = tokio::task::block_in_place(|| pinned.pin.read(&file.name, offset, len))
                .map_err(|error| Status::data_loss(error.to_string()))?;
            if bytes.is_empty() {
                return Err(Status::data_loss(format!("{} ends at {offset}", file.name)));
            }
            let read = bytes.len() as u64;
            let part = proto::FilePart { name: file.name.clone(), offset, bytes };
            sender.send(Ok(response(snapshot_response::Message::Part(part)))).await.map_err(|_| gone())?;
            offset += read;
            pins.touch(key);
        }
    }
    sender.send(Ok(response(snapshot_response::Message::Done(true)))).await.map_err(|_| gone())
}

fn response(message: snapshot_response::Message) -> proto::SnapshotResponse {
    proto::SnapshotResponse { message: Some(message) }
}

// --- the taking side ----------------------------------------------------------------------------------------------

/// How a request for a copy ended.
enum Pulled {
    /// The copy is in place.
    All,
    /// More is here than the giver was told.
    HereAlready,
}

/// Replaces a shard's data by a copy of the leader's; its state is `Syncing` until the log has caught up.
pub(crate) async fn pull(
    state: &Arc<MemberState>,
    following: &Following,
    channel: PeerChannel,
    shard: u16,
) -> Result<(), String> {
    let first = pull_once(state, following, channel.clone(), shard, true).await?;
    if let Pulled::HereAlready = first {
        pull_once(state, following, channel, shard, false).await?;
    }
    Ok(())
}

async fn pull_once(
    state: &Arc<MemberState>,
    following: &Following,
    channel: PeerChannel,
    shard: u16,
    may_ask_again: bool,
) -> Result<Pulled, String> {
    let envelope = {
        let core = state.core.lock();
        let durable = core.durable();
        let cluster_id = durable.cluster_id.ok_or("this storage belongs to no cluster yet")?;
        Envelope { cluster_id, lineage: durable.lineage, to: durable.sid }
    };
    let known = state.full_syncs.lock().get(&shard).cloned();
    let resume = known.as_ref().and_then(|resume| serde_json::to_vec(resume).ok());
    let request = proto::SnapshotRequest {
        envelope: Some(envelope.into()),
        epoch: following.epoch,
        shard: shard.into(),
        resume_json: resume.unwrap_or_default().into(),
    };
    let mut stream =
        replication(channel).snapshot(request).await.map_err(|status| status.message().to_owned())?.into_inner();
    let mut taking: Option<FullSync> = None;
    let mut bytes: u64 = 0;
    loop {
        let message = stream.message().await.map_err(|status| status.message().to_owned())?;
        let message = message.and_then(|message| message.message).ok_or("the leader ended the copy")?;
        // Asked for every piece, under the lock that FENCE takes: a copy for an epoch that is over stops.
        match message {
            snapshot_response::Message::ManifestJson(json) => {
                let manifest: WireManifest = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
                let (snapshot, total) = (&manifest.snapshot, manifest.snapshot.total_bytes());
                tracing::info!(shard, g0 = ?snapshot.g0.last, files = snapshot.files.len(), total, "full copy");
                let pin = manifest.pin;
                taking = Some(begin(state, following, shard, manifest).await?);
                let here: u64 = state.full_syncs.lock().get(&shard).map_or(0, |resume| resume.files.values().sum());
                if may_ask_again && here > 0 && known.as_ref().is_none_or(|known| known.pin != pin) {
                    tracing::info!(shard, here, total, "a part of it is here already: the rest is asked for");
                    return Ok(Pulled::HereAlready);
                }
            }
            snapshot_response::Message::Part(part) => {
                let taking = taking.as_mut().ok_or("a file before the manifest")?;
                bytes += part.bytes.len() as u64;
                state.copied_bytes.fetch_add(part.bytes.len() as u64, Ordering::Relaxed);
                let _append = state.append_lock(shard).lock();
                check(state, following)?;
                tokio::task::block_in_place(|| taking.write(&part.name, part.offset, &part.bytes))
                    .map_err(|error| error.to_string())?;
                if let Some(resume) = state.full_syncs.lock().get_mut(&shard) {
                    resume.files.insert(part.name, part.offset + part.bytes.len() as u64);
                }
            }
            snapshot_response::Message::Done(_) => {
                let taking = taking.take().ok_or("an end before the manifest")?;
                let (finishing, following) = (Arc::clone(state), following.clone());
                let end = tokio::task::spawn_blocking(move || {
                    let _append = finishing.append_lock(shard).lock();
                    check(&finishing, &following)?;
                    taking.finish().map_err(|error| error.to_string())
                });
                let end = end.await.map_err(|error| error.to_string())??;
                state.full_syncs.lock().remove(&shard);
                tracing::info!(shard, ?end, bytes, "full copy done: the log follows");
                return Ok(Pulled::All);
            }
        }
    }
}

async fn begin(
    state: &Arc<MemberState>,
    following: &Following,
    shard: u16,
    wire: WireManifest,
) -> Result<FullSync, String> {
    let (state, following) = (Arc::clone(state), following.clone());
    let beginning = tokio::task::spawn_blocking(move || {
        let _append = state.append_lock(shard).lock();
        check(&state, &following)?;
        let manifest = wire.snapshot;
        let names: Vec<String> = manifest.files.iter().map(|file| file.name.clone()).collect();
        // What is pinned is committed at the leader.
        let taking =
            state.shard(shard).begin_full_sync(&manifest, manifest.g0.last.gsn).map_err(|error| error.to_string())?;
        let files = names
            .into_iter()
            .map(|name| {
                let have = taking.have(&name);
                (name, have)
            })
            .collect();
        let resume = Resume { pin: wire.pin, files };
        state.full_syncs.lock().insert(shard, resume);
        state.health_changed();
        Ok::<_, String>(taking)
    });
    beginning.await.map_err(|error| error.to_string())?
}

fn check(state: &MemberState, following: &Following) -> Result<(), String> {
    if state.core.lock().follows(following.epoch, following.leader.sid) {
        Ok(())
    } else {
        Err("another epoch was promised meanwhile".into())
    }
}
