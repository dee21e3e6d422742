//! Full sync over the wire: the leader pins a snapshot and gives its files, the follower stages and switches.
//!
//! Two calls: the giver pins and sends the manifest; the receiver stages, keeps what an earlier attempt of it, or an
//! earlier process, has staged of the same files whole, and asks for the rest. A pin outlives a broken stream for
//! [`PIN_IDLE`], so that a receiver that comes back goes on within a file too; it is not dropped before the receiver
//! has named what it lacks and was given that. The receiver persists `Syncing` before it touches anything (the engine
//! does), and never takes a copy from someone who has committed less (R11). Writes go on meanwhile; what came after
//! the pin follows as log.
//!
//! A follower copies from its leader. A candidate that nobody better could replace copies from the donor of an ASSEMBLE
//! what is no longer in that donor's log (`staged_copy`): its own data stay in force until the switch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::DropGuard;
use tonic::Status;

use super::member_state::MemberState;
use super::protocol;
use super::rules::{Following, MemberCore};
use super::tail_fetch;
use super::term::LeaderTerm;
use crate::engine::{EngineError, FullSync, Shard, SnapshotManifest, SnapshotPin};
use crate::ident::Sid;
use crate::net::peer::{PeerChannel, replication};
use crate::net::proto::{self, snapshot_response};
use crate::position::Epoch;
use crate::topology::message::{Envelope, Refusal};

/// How long a pin nobody reads from is kept.
const PIN_IDLE: Duration = Duration::from_secs(600);
/// Bytes of a file in one message.
const PART_BYTES: usize = 1 << 20;
const QUEUED: usize = 2;

/// What a receiver is sent.
pub(crate) type Snapshot = ReceiverStream<Result<proto::SnapshotResponse, Status>>;

/// A manifest as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireManifest {
    /// Never 0.
    pin: u64,
    snapshot: SnapshotManifest,
}

// --- the giving side ----------------------------------------------------------------------------------------------

/// The pins of a leader or donor, by receiver and shard.
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
        let pinned =
            Pinned { number: (u64::from_le_bytes(number) >> 12).max(1), pin: Arc::new(pin), used: Instant::now() };
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
    let envelope: Envelope = request.envelope.clone().ok_or(missing)?.try_into()?;
    let shard = u16::try_from(request.shard)
        .ok()
        .filter(|shard| usize::from(*shard) < state.engine.shards().len())
        .ok_or_else(|| Status::invalid_argument("no such shard"))?;
    let standing = state.core.lock().standing();
    if standing.cluster_id != Some(envelope.cluster_id) || standing.lineage != envelope.lineage {
        return Err(Status::failed_precondition("another cluster or lineage"));
    }
    let right = Right::find(state, &envelope, &request)?;
    // In this request the envelope names the receiver: it is what a pin is kept for.
    let key = (envelope.to, shard);
    let kept = match request.pin {
        0 => None,
        number => Some(pins.kept(key, number).ok_or_else(|| Status::not_found("that pin is not kept any more"))?),
    };
    let have = request.have;
    let (sender, receiver) = mpsc::channel(QUEUED);
    let (state, pins) = (Arc::clone(state), Arc::clone(pins));
    tokio::spawn(async move {
        let giving = async {
            match kept {
                None => send_manifest(&state, &pins, key, &sender).await,
                Some(pinned) => {
                    send_files(&pins, key, &pinned, &have, &sender, || right.check(&state)).await?;
                    pins.drop_pin(key, pinned.number);
                    Ok(())
                }
            }
        };
        let end = tokio::select! {
            () = right.ended() => Err(Status::unavailable("this member leads no more")),
            end = giving => end,
        };
        if let Err(status) = end {
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// What gives a member the right to have its data copied.
enum Right {
    /// It leads.
    Term(Arc<LeaderTerm>),
    /// It is a donor, and has promised the epoch that is assembled.
    Promise { donor: Envelope, epoch: Epoch },
}

impl Right {
    fn find(state: &MemberState, receiver: &Envelope, request: &proto::SnapshotRequest) -> Result<Self, Status> {
        let epoch = request.epoch;
        let right = if request.donor.is_empty() {
            let term = state.term().filter(|term| term.epoch() == epoch);
            Self::Term(term.ok_or_else(|| Status::failed_precondition("this member does not lead that epoch"))?)
        } else {
            let to = protocol::sid(&request.donor, "snapshot.donor")?;
            Self::Promise { donor: Envelope { to, ..receiver.clone() }, epoch }
        };
        right.check(state)?;
        Ok(right)
    }

    /// Asked before every piece (R6).
    fn check(&self, state: &MemberState) -> Result<(), Status> {
        match self {
            Self::Term(_) => Ok(()),
            Self::Promise { donor, epoch } => tail_fetch::check(state, donor, *epoch)
                .map_err(|refusal| Status::failed_precondition(refusal.to_string())),
        }
    }

    async fn ended(&self) {
        match self {
            Self::Term(term) => term.ended.cancelled().await,
            Self::Promise { .. } => std::future::pending().await,
        }
    }
}

type Sender = mpsc::Sender<Result<proto::SnapshotResponse, Status>>;

fn receiver_gone<T>(_: T) -> Status {
    Status::cancelled("the receiver is gone")
}

/// Pins, and tells what.
async fn send_manifest(state: &Arc<MemberState>, pins: &Pins, key: (Sid, u16), sender: &Sender) -> Result<(), Status> {
    let pinning = Arc::clone(state);
    let pin = tokio::task::spawn_blocking(move || pinning.shard(key.1).pin_snapshot()).await;
    let pin = pin.map_err(|error| Status::internal(error.to_string()))?;
    let pinned = pins.keep(key, pin.map_err(|error| Status::unavailable(error.to_string()))?);
    let wire = WireManifest { pin: pinned.number, snapshot: pinned.pin.manifest().clone() };
    let json = serde_json::to_vec(&wire).map_err(|error| Status::internal(error.to_string()))?;
    sender.send(Ok(response(snapshot_response::Message::ManifestJson(json.into())))).await.map_err(receiver_gone)
}

async fn send_files(
    pins: &Pins,
    key: (Sid, u16),
    pinned: &Pinned,
    have: &HashMap<String, u64>,
    sender: &Sender,
    check: impl Fn() -> Result<(), Status>,
) -> Result<(), Status> {
    for file in &pinned.pin.manifest().files {
        let mut offset = have.get(&file.name).copied().unwrap_or(0).min(file.len);
        while offset < file.len {
            check()?;
            let len = usize::try_from(file.len - offset).unwrap_or(PART_BYTES).min(PART_BYTES);
            let bytes = tokio::task::block_in_place(|| pinned.pin.read(&file.name, offset, len))
                .map_err(|error| Status::data_loss(error.to_string()))?;
            if bytes.is_empty() {
                return Err(Status::data_loss(format!("{} ends at {offset}", file.name)));
            }
            let read = bytes.len() as u64;
            let part = proto::FilePart { name: file.name.clone(), offset, bytes };
            sender.send(Ok(response(snapshot_response::Message::Part(part)))).await.map_err(receiver_gone)?;
            offset += read;
            pins.touch(key);
        }
    }
    sender.send(Ok(response(snapshot_response::Message::Done(true)))).await.map_err(receiver_gone)
}

fn response(message: snapshot_response::Message) -> proto::SnapshotResponse {
    proto::SnapshotResponse { message: Some(message) }
}

// --- the taking side ----------------------------------------------------------------------------------------------

/// Whom a shard is copied from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The leader that is followed. The shard is `Syncing` until the log has caught up.
    Leader(Following),
    /// A donor of an ASSEMBLE. The shard keeps its data, and its vote, until the switch.
    Donor { sid: Sid, epoch: Epoch },
}

impl Source {
    fn giver(&self) -> Sid {
        match self {
            Self::Leader(following) => following.leader.sid,
            Self::Donor { sid, .. } => *sid,
        }
    }

    fn epoch(&self) -> Epoch {
        match self {
            Self::Leader(following) => following.epoch,
            Self::Donor { epoch, .. } => *epoch,
        }
    }

    /// Asked for every piece, under the lock that FENCE takes: a copy for an epoch that is over stops (R6, R11).
    fn check(&self, core: &MemberCore) -> Result<(), String> {
        match self {
            Self::Leader(following) if core.follows(following.epoch, following.leader.sid) => Ok(()),
            Self::Leader(_) => Err("another epoch was promised meanwhile".into()),
            Self::Donor { epoch, .. } => core.check_assemble(*epoch).map_err(|refusal| refusal.to_string()),
        }
    }

    fn begin(&self, shard: &Arc<Shard>, manifest: &SnapshotManifest) -> Result<FullSync, EngineError> {
        // What is pinned is committed at whoever gives it.
        let commit = manifest.g0.last.gsn;
        match self {
            Self::Leader(_) => shard.begin_full_sync(manifest, commit),
            Self::Donor { .. } => shard.begin_staged_copy(manifest, commit),
        }
    }
}

/// How much of a copy is here, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    staged: AtomicU64,
    total: AtomicU64,
}

/// Replaces a shard's data by a copy.
pub(crate) async fn pull(
    state: &Arc<MemberState>,
    source: &Source,
    channel: PeerChannel,
    shard: u16,
    progress: &Progress,
) -> Result<(), String> {
    let known = state.full_syncs.lock().remove(&shard);
    // What somebody else had pinned is of no use here.
    let known = known.and_then(|(giver, manifest)| (giver == source.giver()).then_some(manifest));
    let anew = known.is_none();
    let manifest = match known {
        Some(known) => known,
        None => ask_manifest(state, source, channel.clone(), shard).await?,
    };
    match pull_files(state, source, channel.clone(), shard, manifest, progress).await {
        Err(Ended::PinGone) if !anew => {
            let manifest = ask_manifest(state, source, channel.clone(), shard).await?;
            pull_files(state, source, channel, shard, manifest, progress).await.map_err(String::from)
        }
        other => other.map_err(String::from),
    }
}

/// Why the files did not come.
enum Ended {
    /// The giver does not know the pin (any more): another leader, or too late.
    PinGone,
    Failed(String),
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<Ended> for String {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::PinGone => "what was pinned for it was given up".into(),
            Ended::Failed(why) => why,
        }
    }
}

fn request(state: &MemberState, source: &Source, shard: u16) -> Result<proto::SnapshotRequest, String> {
    let core = state.core.lock();
    let durable = core.durable();
    let cluster_id = durable.cluster_id.ok_or("this storage belongs to no cluster yet")?;
    let envelope = Envelope { cluster_id, lineage: durable.lineage, to: durable.sid };
    Ok(proto::SnapshotRequest {
        envelope: Some(envelope.into()),
        epoch: source.epoch(),
        shard: shard.into(),
        donor: match source {
            Source::Leader(_) => Default::default(),
            Source::Donor { sid, .. } => protocol::sid_bytes(*sid),
        },
        ..Default::default()
    })
}

fn said(status: tonic::Status) -> String {
    status.message().to_owned()
}

async fn ask_manifest(
    state: &MemberState,
    source: &Source,
    channel: PeerChannel,
    shard: u16,
) -> Result<WireManifest, String> {
    let request = request(state, source, shard)?;
    let mut stream = replication(channel).snapshot(request).await.map_err(said)?.into_inner();
    match stream.message().await.map_err(said)?.and_then(|message| message.message) {
        Some(snapshot_response::Message::ManifestJson(json)) => {
            serde_json::from_slice(&json).map_err(|error| error.to_string())
        }
        _ => Err("no manifest was sent".into()),
    }
}

async fn pull_files(
    state: &Arc<MemberState>,
    source: &Source,
    channel: PeerChannel,
    shard: u16,
    manifest: WireManifest,
    progress: &Progress,
) -> Result<(), Ended> {
    let mut taking = begin(state, source, shard, &manifest.snapshot).await?;
    let (files, total) = (&manifest.snapshot.files, manifest.snapshot.total_bytes());
    let have: HashMap<String, u64> =
        files.iter().map(|file| (file.name.clone(), taking.have(&file.name))).filter(|(_, have)| *have > 0).collect();
    let here: u64 = have.values().sum();
    tracing::info!(shard, g0 = ?manifest.snapshot.g0.last, files = files.len(), total, here, "full copy");
    progress.total.store(total, Ordering::Relaxed);
    progress.staged.store(here, Ordering::Relaxed);
    let request = proto::SnapshotRequest { pin: manifest.pin, have, ..request(state, source, shard)? };
    let opened = replication(channel).snapshot(request).await;
    let mut stream = match opened {
        Ok(opened) => opened.into_inner(),
        Err(status) if status.code() == tonic::Code::NotFound => return Err(Ended::PinGone),
        Err(status) => {
            state.full_syncs.lock().insert(shard, (source.giver(), manifest));
            return Err(Ended::Failed(said(status)));
        }
    };
    // Where the stream breaks, the next attempt goes on with this pin.
    state.full_syncs.lock().insert(shard, (source.giver(), manifest));
    let mut bytes: u64 = 0;
    loop {
        let message = stream.message().await.map_err(said)?;
        let message = message.and_then(|message| message.message);
        match message.ok_or_else(|| "the copy was ended by whoever gives it".to_owned())? {
            snapshot_response::Message::ManifestJson(_) => return Err(Ended::Failed("a manifest unasked".into())),
            snapshot_response::Message::Part(part) => {
                bytes += part.bytes.len() as u64;
                state.copied_bytes.fetch_add(part.bytes.len() as u64, Ordering::Relaxed);
                progress.staged.fetch_add(part.bytes.len() as u64, Ordering::Relaxed);
                let _append = state.append_lock(shard).lock();
                source.check(&state.core.lock())?;
                tokio::task::block_in_place(|| taking.write(&part.name, part.offset, &part.bytes))
                    .map_err(|error| error.to_string())?;
            }
            snapshot_response::Message::Done(_) => {
                let (finishing, source) = (Arc::clone(state), source.clone());
                let end = tokio::task::spawn_blocking(move || {
                    let _append = finishing.append_lock(shard).lock();
                    source.check(&finishing.core.lock())?;
                    taking.finish().map_err(|error| error.to_string())
                });
                state.full_syncs.lock().remove(&shard);
                let end = end.await.map_err(|error| error.to_string())??;
                tracing::info!(shard, ?end, bytes, "full copy done: the log follows");
                return Ok(());
            }
        }
    }
}

async fn begin(
    state: &Arc<MemberState>,
    source: &Source,
    shard: u16,
    manifest: &SnapshotManifest,
) -> Result<FullSync, String> {
    let (state, source, manifest) = (Arc::clone(state), source.clone(), manifest.clone());
    let beginning = tokio::task::spawn_blocking(move || {
        let _append = state.append_lock(shard).lock();
        source.check(&state.core.lock())?;
        let taking = source.begin(state.shard(shard), &manifest).map_err(|error| error.to_string())?;
        state.health_changed();
        Ok::<_, String>(taking)
    });
    beginning.await.map_err(|error| error.to_string())?
}

// --- the taking side of an ASSEMBLE ---------------------------------------------------------------------------------

/// A copy that a candidate makes of a donor's shard. It goes on between the controller's questions; dropping it ends it.
#[derive(Debug)]
pub(crate) struct StagedCopy {
    source: (Sid, Epoch),
    progress: Arc<Progress>,
    ended: watch::Receiver<Option<Result<(), String>>>,
    _ends: DropGuard,
}

/// Copies a shard from a donor, which `dial` reaches, beside its data; what an earlier call of the same ASSEMBLE has
/// begun goes on. While it is not done within `patience` the answer is [`Refusal::Copying`].
pub(crate) async fn staged_copy(
    state: &Arc<MemberState>,
    donor: (Sid, Epoch),
    channel: PeerChannel,
    shard: u16,
    patience: Duration,
) -> Result<(), Refusal> {
    let (progress, mut ended) = {
        let mut copies = state.staged_copies.lock();
        let copy = copies.entry(shard).or_insert_with(|| StagedCopy::start(state, donor, channel.clone(), shard));
        if copy.source != donor {
            *copy = StagedCopy::start(state, donor, channel, shard);
        }
        (Arc::clone(&copy.progress), copy.ended.clone())
    };
    let end = tokio::time::timeout(patience, ended.wait_for(Option::is_some)).await;
    let Ok(end) = end else {
        let (staged, total) = (progress.staged.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        return Err(Refusal::Copying { shard, staged, total });
    };
    let end = end.ok().and_then(|end| end.clone()).unwrap_or_else(|| Err("the copy was given up".into()));
    let mut copies = state.staged_copies.lock();
    if copies.get(&shard).is_some_and(|copy| copy.source == donor && copy.ended.borrow().is_some()) {
        copies.remove(&shard);
    }
    end.map_err(|why| Refusal::Failed(format!("shard {shard} could not be copied: {why}")))
}

impl StagedCopy {
    fn start(state: &Arc<MemberState>, (sid, epoch): (Sid, Epoch), channel: PeerChannel, shard: u16) -> Self {
        let (end, ended) = watch::channel(None);
        let progress = Arc::new(Progress::default());
        let stop = state.stop.child_token();
        let (state, told, stopped) = (Arc::clone(state), Arc::clone(&progress), stop.clone());
        tokio::spawn(async move {
            let source = Source::Donor { sid, epoch };
            let copied = tokio::select! {
                () = stopped.cancelled() => Err("it was given up".to_owned()),
                copied = pull(&state, &source, channel, shard, &told) => copied,
            };
            // Whoever gave it up before this let go of what was staged could not throw that away.
            if state.core.lock().check_assemble(epoch).is_err() {
                let shard = Arc::clone(state.shard(shard));
                let _ = tokio::task::spawn_blocking(move || shard.discard_staged()).await;
            }
            let _ = end.send(Some(copied));
        });
        Self { source: (sid, epoch), progress, ended, _ends: stop.drop_guard() }
    }

    /// Ends a copy of a shard that is not from `wanted`, and waits until it has let go of the shard.
    pub(crate) async fn end_others(state: &MemberState, shard: u16, wanted: Option<(Sid, Epoch)>) {
        let other = {
            let mut copies = state.staged_copies.lock();
            match copies.get(&shard) {
                Some(copy) if Some(copy.source) != wanted => copies.remove(&shard),
                _ => None,
            }
        };
        if let Some(Self { mut ended, _ends, .. }) = other {
            drop(_ends);
            let _ = ended.wait_for(Option::is_some).await;
        }
    }

    /// Ends the copies for epochs before `epoch`.
    pub(crate) fn end_older(state: &MemberState, epoch: Epoch) {
        state.staged_copies.lock().retain(|_, copy| copy.source.1 >= epoch);
    }
}
