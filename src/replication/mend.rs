//! A follower whose files rotted has single entries from its leader, and mends the files with them.
//!
//! Asked for by gsn and key, verified by the engine before anything is replaced. Where that cannot work (the leader does
//! not have an entry any more, or what is left of a file cannot be made sense of) the shard is quarantined, and so
//! rebuilt whole by the ordinary course. A leader mends nothing: it has nobody's word for its log; another member leads
//! as soon as one can, and it follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::member_state::MemberState;
use super::protocol;
use super::rules::Following;
use crate::engine::{Mended, ShardState, Wanted};
use crate::net::peer::{Lane, PeerChannel, dial, replication};
use crate::net::proto;
use crate::position::Gsn;
use crate::topology::message::Envelope;

/// How often it is looked whether anything is damaged.
const LOOK: Duration = Duration::from_millis(500);
/// After an attempt that failed.
const AGAIN: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(1);
/// A leader that takes longer for a few entries does not answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Entries that are asked for at once.
const AT_ONCE: usize = 512;
/// An answer ends with the entry that passes this.
const ANSWER_BYTES: usize = 4 << 20;

// --- the giving side ----------------------------------------------------------------------------------------------

/// Gives what is asked for, as far as it is here and verifies.
pub(crate) async fn give(
    state: &Arc<MemberState>,
    request: proto::EntriesRequest,
) -> Result<proto::EntriesResponse, Status> {
    let missing = protocol::ProtocolError { field: "entries.envelope", problem: "missing" };
    let envelope: Envelope = request.envelope.ok_or(missing)?.try_into()?;
    let shard = u16::try_from(request.shard)
        .ok()
        .filter(|shard| usize::from(*shard) < state.engine.shards().len())
        .ok_or_else(|| Status::invalid_argument("no such shard"))?;
    if state.term().is_none_or(|term| term.epoch() != request.epoch) {
        return Err(Status::failed_precondition("this member does not lead that epoch"));
    }
    let standing = state.core.lock().standing();
    if standing.cluster_id != Some(envelope.cluster_id) || standing.lineage != envelope.lineage {
        return Err(Status::failed_precondition("another cluster or lineage"));
    }
    let state = Arc::clone(state);
    let given = tokio::task::spawn_blocking(move || {
        let mut answer = proto::EntriesResponse::default();
        let mut bytes = 0;
        for wanted in request.wanted.into_iter().take(AT_ONCE) {
            let tree = u16::try_from(wanted.tree).map_err(|_| Status::invalid_argument("no such tree"))?;
            let key = (!wanted.key.is_empty()).then(|| (tree, wanted.key.to_vec()));
            if let Some(record) = state.shard(shard).entry(&Wanted { gsn: wanted.gsn, key }) {
                bytes += record.len();
                answer.records.push(record);
            }
            answer.looked_at += 1;
            if bytes >= ANSWER_BYTES {
                break;
            }
        }
        Ok(answer)
    });
    given.await.map_err(|error| Status::internal(error.to_string()))?
}

// --- the mending side ---------------------------------------------------------------------------------------------

/// Mends what is damaged while the leader is followed.
pub(crate) async fn run(state: Arc<MemberState>, following: Following, ends: CancellationToken) {
    let mut told = String::new();
    loop {
        let pause = match mend_one(&state, &following).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => LOOK,
            Err(why) => {
                if why != told {
                    tracing::warn!(leader = following.leader.name, why, "what is damaged is not mended yet");
                    told = why;
                }
                AGAIN
            }
        };
        tokio::select! {
            () = ends.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Mends one file, if there is one to mend.
async fn mend_one(state: &Arc<MemberState>, following: &Following) -> Result<bool, String> {
    let damaged = state.engine.shards().iter().find_map(|shard| Some((shard.id(), *shard.damaged_files().first()?)));
    let Some((shard, file)) = damaged else { return Ok(false) };
    if state.joined.load(Ordering::Acquire) != following.epoch {
        return Err("the log was not joined to the leader's yet".into());
    }
    let looking = Arc::clone(state);
    let wanted = tokio::task::spawn_blocking(move || looking.shard(shard).wanted(file));
    let wanted = match wanted.await.map_err(|error| error.to_string())? {
        Ok(wanted) => wanted,
        Err(why) => {
            give_up(state, shard, file, why).await;
            return Ok(true);
        }
    };
    let auth = &state.addresses.auth;
    let channel =
        dial(&following.leader.address, auth, Lane::Main, CONNECT).await.map_err(|error| error.to_string())?;
    let had = ask(state, following, channel, shard, &wanted).await?;
    tracing::info!(shard, file, wanted = wanted.len(), had = had.len(), "a damaged file is mended from the leader");
    let (mending, following) = (Arc::clone(state), following.clone());
    let mended = tokio::task::spawn_blocking(move || {
        {
            let core = mending.core.lock();
            if !core.follows(following.epoch, following.leader.sid) {
                return Err("another epoch was promised meanwhile".to_owned());
            }
        }
        mending.shard(shard).mend(file, &had).map_err(|error| error.to_string())
    });
    match mended.await.map_err(|error| error.to_string())?? {
        Mended::Whole => {
            state.mended_files.fetch_add(1, Ordering::Relaxed);
            state.health_changed();
        }
        Mended::Missing(gsn) => {
            give_up(state, shard, file, format!("the leader has no entry {gsn} any more")).await;
        }
        Mended::Hopeless(why) => give_up(state, shard, file, why).await,
    }
    Ok(true)
}

async fn ask(
    state: &MemberState,
    following: &Following,
    channel: PeerChannel,
    shard: u16,
    wanted: &[Wanted],
) -> Result<BTreeMap<Gsn, Bytes>, String> {
    let envelope = {
        let core = state.core.lock();
        let durable = core.durable();
        let cluster_id = durable.cluster_id.ok_or("this storage belongs to no cluster yet")?;
        Envelope { cluster_id, lineage: durable.lineage, to: durable.sid }
    };
    let mut had = BTreeMap::new();
    let mut client = replication(channel);
    let mut rest = wanted;
    while !rest.is_empty() {
        let some = rest.iter().take(AT_ONCE).map(|wanted| {
            let (tree, key) = wanted.key.clone().unwrap_or_default();
            proto::WantedEntry { gsn: wanted.gsn, tree: tree.into(), key: key.into() }
        });
        let request = proto::EntriesRequest {
            envelope: Some(envelope.clone().into()),
            epoch: following.epoch,
            shard: shard.into(),
            wanted: some.collect(),
        };
        let answer = tokio::time::timeout(ANSWER, client.entries(request)).await.map_err(|_| "no answer".to_owned())?;
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        let looked_at = usize::try_from(answer.looked_at).unwrap_or(usize::MAX).min(rest.len());
        if looked_at == 0 {
            return Err("the leader looked at nothing".into());
        }
        for record in answer.records {
            let gsn = record.get(..8).and_then(|gsn| gsn.try_into().ok()).map(u64::from_le_bytes);
            had.insert(gsn.ok_or("the leader gave half a record")?, record);
        }
        rest = &rest[looked_at..];
    }
    Ok(had)
}

/// The shard is rebuilt whole: its files are set aside when a copy takes their place. Unless somebody who follows another
/// epoch has mended the file meanwhile.
async fn give_up(state: &Arc<MemberState>, shard: u16, file: u32, why: String) {
    let giving_up = Arc::clone(state);
    let reason = format!("damaged, and not mended by entries: {why}");
    let state_set = tokio::task::spawn_blocking(move || {
        giving_up.shard(shard).change_state(|now| match now {
            ShardState::Damaged { files } if files.contains(&file) => {
                Some(ShardState::Quarantined { reason, alarm: false })
            }
            _ => None,
        })
    });
    match state_set.await {
        Ok(Ok(true)) => {
            tracing::error!(shard, why, "what is damaged cannot be mended entry by entry: the shard is rebuilt whole");
        }
        Ok(Ok(false)) => return,
        Ok(Err(error)) => tracing::error!(shard, %error, "the quarantine could not be persisted"),
        Err(error) => tracing::error!(shard, %error, "the quarantine could not be persisted"),
    }
    state.health_changed();
    // The stream says hello again, and tells the leader what is needed.
    state.rejoin.notify_one();
}
