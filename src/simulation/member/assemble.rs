//! ASSEMBLE: a candidate pulls the tails it lacks from donors that promised the same epoch.

use std::time::Duration;

use super::leading::CHUNK_BYTES;
use super::{Caller, Hands, Process, RETRY, Timer};
use crate::engine::{ChunkError, LogChunk, TailRead};
use crate::ident::Sid;
use crate::position::{Epoch, EpochTable, Gsn, LogTail};
use crate::replication::member_state::data_state;
use crate::replication::rules::{LogView, MemberCore, Reconcile, reconcile};
use crate::replication::server::view;
use crate::simulation::Mutant;
use crate::simulation::wire::{Address, Message};
use crate::topology::message::{AssembleReply, AssembleRequest, DataState, Donor, Refusal, Reply};

/// Chunks in one answer of a donor.
const CHUNKS: usize = 8;
/// What takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A copy that takes longer is answered with how far it is, and asked about again.
const COPY_SLICE: Duration = Duration::from_millis(600);

/// An ASSEMBLE under way.
#[derive(Debug)]
pub(super) struct Assembling {
    request: AssembleRequest,
    caller: Caller,
    syncing: bool,
    asked: Option<(usize, Duration)>,
    since: Duration,
}

impl Process {
    // --- the candidate ------------------------------------------------------------------------------------

    pub(super) fn assemble(&mut self, caller: Caller, request: AssembleRequest, hands: &mut Hands<'_>) {
        let states: Vec<_> = self.engine.shards().iter().map(|shard| data_state(&shard.state())).collect();
        if let Err(refusal) = self.core.begin_assemble(&request, &states) {
            return self.refuse_assemble(caller, refusal, hands);
        }
        let since = self.clock(hands.now);
        self.assembling = Some(Assembling { request, caller, syncing: false, asked: None, since });
        self.pull(hands);
    }

    fn refuse_assemble(&mut self, (to, id): Caller, refusal: Refusal, hands: &mut Hands<'_>) {
        let reply = Box::new(Reply::Refused(refusal, Box::new(self.core.standing())));
        hands.send(to, Message::Reply { id, reply });
    }

    /// What is under way comes to nothing.
    pub(super) fn assembling_failed(&mut self, why: &str, hands: &mut Hands<'_>) {
        if let Some(a) = self.assembling.take() {
            self.refuse_assemble(a.caller, Refusal::Failed(why.into()), hands);
        }
    }

    pub(super) fn pull(&mut self, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        let Some((caller, epoch, since)) = self.assembling.as_ref().map(|a| (a.caller, a.request.epoch, a.since))
        else {
            return;
        };
        if let Some((shard, staged, total)) = self.copied_for(epoch) {
            if now > since + COPY_SLICE {
                self.assembling = None;
                self.refuse_assemble(caller, Refusal::Copying { shard: shard as u16, staged, total }, hands);
            }
            return;
        }
        let Some(a) = &mut self.assembling else { return };
        if now > a.since + PATIENCE {
            self.assembling = None;
            return;
        }
        if a.syncing || a.asked.is_some_and(|(_, at)| now < at + RETRY) {
            return;
        }
        let shards = self.engine.shards();
        let lacking = (0..shards.len()).find(|&s| a.request.targets.get(s).is_some_and(|t| shards[s].tail() != t.tail));
        let Some(shard) = lacking else {
            a.syncing = true;
            let time = hands.disk_time();
            return hands.after(time, Timer::Assembled);
        };
        let target = &a.request.targets[shard];
        let donor = ordinal_of(&target.donor);
        a.asked = Some((shard, now));
        let (epoch, to, target) = (a.request.epoch, target.donor.sid, target.tail);
        let (tail, epochs) = (shards[shard].tail(), shards[shard].epoch_table());
        hands.send(Address::Member(donor), Message::Fetch { epoch, to, shard, tail, epochs, target });
    }

    pub(super) fn tail(
        &mut self,
        epoch: Epoch,
        shard: usize,
        result: Result<(Gsn, Vec<LogChunk>), Refusal>,
        hands: &mut Hands<'_>,
    ) {
        let unchecked = hands.mutant == Some(Mutant::AssembleWithoutPromise);
        if let (true, Ok((to, chunks))) = (unchecked && !self.leads(), &result) {
            let data = self.shard(shard);
            if (data.commit()..=data.tail_gsn()).contains(to) && self.cut(shard, *to, hands) {
                for chunk in chunks {
                    let _ = self.shard(shard).append_chunk(chunk);
                }
                self.appended(hands);
            }
        }
        let Some(a) = &mut self.assembling else { return };
        if a.request.epoch != epoch || a.asked.is_none_or(|(asked, _)| asked != shard) {
            return;
        }
        let caller = a.caller;
        let target = &a.request.targets[shard];
        let (donor, copy) = ((ordinal_of(&target.donor), target.donor.sid), target.copy);
        let joined = result.and_then(|tail| self.core.check_assemble(epoch).map(|()| tail));
        let before = self.shard(shard).tail();
        match joined.and_then(|(to, chunks)| self.take_tail(shard, to, &chunks, hands)) {
            Ok(()) => {
                self.appended(hands);
                // What brought nothing new (memory is full, or it came twice) is asked for again in its own time.
                if self.shard(shard).tail() != before
                    && let Some(a) = &mut self.assembling
                {
                    a.asked = None;
                    self.pull(hands);
                }
            }
            Err(Refusal::BelowFloor { common, .. }) if copy => {
                let commit = self.shard(shard).commit();
                if common.gsn < commit {
                    return self.alarm(
                        shard,
                        format!("shares {common:?} with its donor, {commit} is committed"),
                        hands,
                    );
                }
                self.copy_from_donor(epoch, shard, donor, hands);
            }
            Err(refusal) => {
                self.assembling = None;
                self.refuse_assemble(caller, refusal, hands);
            }
        }
    }

    fn take_tail(&mut self, shard: usize, to: Gsn, chunks: &[LogChunk], hands: &mut Hands<'_>) -> Result<(), Refusal> {
        let data = self.shard(shard).clone();
        // The log may have grown or been cut since it was asked about: that is asked about again.
        if to > data.tail_gsn() {
            return Ok(());
        }
        if to < data.tail_gsn() {
            hands.count("logs truncated by ASSEMBLE");
            if !self.cut(shard, to, hands) {
                return Err(Refusal::Failed("it could not be cut".into()));
            }
        }
        for chunk in chunks {
            match data.append_chunk(chunk) {
                Ok(_) => {}
                Err(error @ (ChunkError::Diverged { .. } | ChunkError::Corrupt(_))) => {
                    self.alarm(shard, &error, hands);
                    return Err(Refusal::Failed(error.to_string()));
                }
                // Asked for again, from where it ends.
                Err(ChunkError::MemoryFull) => return Ok(()),
                Err(error) => return Err(Refusal::Failed(error.to_string())),
            }
        }
        if !chunks.is_empty() {
            hands.count("tails pulled by candidates");
        }
        Ok(())
    }

    pub(super) fn assembled(&mut self, hands: &mut Hands<'_>) {
        let Some(a) = self.assembling.take() else { return };
        let synced = self.engine.sync_all().map_err(|error| Refusal::Failed(error.to_string()));
        let reports = self.shard_reports();
        let targets: Vec<LogTail> = a.request.targets.iter().map(|t| t.tail).collect();
        let result = synced.and_then(|()| self.core.check_assemble(a.request.epoch)).and_then(|()| {
            if MemberCore::at_targets(&reports, &targets) {
                Ok(Reply::Assembled(AssembleReply { standing: self.core.standing(), tails: targets }))
            } else {
                Err(Refusal::Failed("what was pulled is not durable yet".into()))
            }
        });
        let reply = result.unwrap_or_else(|refusal| Reply::Refused(refusal, Box::new(self.core.standing())));
        hands.send(a.caller.0, Message::Reply { id: a.caller.1, reply: Box::new(reply) });
    }

    // --- the donor ----------------------------------------------------------------------------------------

    pub(super) fn give(
        &self,
        epoch: Epoch,
        to: Sid,
        shard: usize,
        tail: LogTail,
        epochs: EpochTable,
        target: LogTail,
    ) -> Result<(Gsn, Vec<LogChunk>), Refusal> {
        if to != self.me() {
            return Err(Refusal::WrongSid { have: self.me(), want: to });
        }
        self.core.check_promise(epoch)?;
        let own = self.shard(shard);
        let ours = view(own);
        let theirs = LogView { state: DataState::Ready, tail, commit: 0, log_floor: 1, epochs };
        let common = match reconcile(&ours, &theirs) {
            Reconcile::Match { at } => at,
            Reconcile::Truncate { to } => to,
            Reconcile::Full { .. } | Reconcile::Diverged { .. } | Reconcile::Lacking { .. } => {
                let common = ours.epochs.last_common(ours.tail.last.gsn, &theirs.epochs, theirs.tail.last.gsn);
                return Err(Refusal::BelowFloor { shard: shard as u16, common, floor: ours.log_floor });
            }
        };
        let mut at = common.gsn;
        let mut chunks = Vec::new();
        while at < target.last.gsn && chunks.len() < CHUNKS {
            let read = match own.tail_read(at, CHUNK_BYTES) {
                TailRead::Chunk(chunk) => Some(chunk),
                TailRead::AtEnd => None,
                TailRead::Overrun => {
                    let reader = own.log_reader(at).map_err(|error| Refusal::Failed(error.to_string()));
                    reader?.next_chunk(CHUNK_BYTES).map_err(|error| Refusal::Failed(error.to_string()))?
                }
            };
            match read.filter(|chunk| chunk.last.last.gsn <= target.last.gsn) {
                Some(chunk) => {
                    at = chunk.last.last.gsn;
                    chunks.push(chunk);
                }
                None => return Err(Refusal::Failed("the donor's log does not end at the target".into())),
            }
        }
        Ok((common.gsn.min(target.last.gsn), chunks))
    }
}

fn ordinal_of(donor: &Donor) -> usize {
    donor.address.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}
