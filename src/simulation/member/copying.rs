//! A full copy: the leader pins a snapshot and gives pieces of its files, the follower stages them and switches.
//!
//! So does a candidate with the donor of an ASSEMBLE whose log begins later than what it lacks; its own data stay in
//! force until the switch.
//!
//! Asked for piece by piece, so that everything may be lost in between. What was staged before a restart or in an
//! earlier epoch is found by the engine; a snapshot that was begun is gone on with if the leader still has it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Hands, Process, RETRY};
use crate::engine::{FullSync, Shard, SnapshotManifest, SnapshotPin};
use crate::ident::Sid;
use crate::position::Epoch;
use crate::simulation::wire::{Address, Message};
use crate::topology::message::Role;

/// Bytes of a file in one message.
const PART_BYTES: usize = 6000;

/// A copy of one shard that is under way.
#[derive(Debug)]
pub(super) struct Copying {
    shard: usize,
    /// The stream that it belongs to; a candidate's has a number of its own.
    nonce: u64,
    epoch: Epoch,
    /// Who gives it.
    from: usize,
    /// The donor of an ASSEMBLE; None: the leader.
    donor: Option<Sid>,
    asked: Duration,
    taking: Option<Taking>,
}

#[derive(Debug)]
struct Taking {
    sync: FullSync,
    files: Vec<(String, u64)>,
}

impl Process {
    // --- the taking side ----------------------------------------------------------------------------------

    /// Begins the next copy, or goes on with the log.
    pub(super) fn next_copy(&mut self, hands: &mut Hands<'_>) {
        let (Some(shard), Some((leader, epoch, _))) = (self.to_copy.pop_front(), self.leader_address()) else {
            self.copying = None;
            return self.say_hello(hands);
        };
        let asked = self.clock(hands.now);
        self.copying =
            Some(Copying { shard, nonce: self.stream, epoch, from: leader, donor: None, asked, taking: None });
        self.ask_for_copy(hands);
    }

    /// Begins to copy a shard from the donor of an ASSEMBLE, unless that is under way.
    pub(super) fn copy_from_donor(
        &mut self,
        epoch: Epoch,
        shard: usize,
        (from, donor): (usize, Sid),
        hands: &mut Hands<'_>,
    ) {
        let donor = Some(donor);
        if self.copying.as_ref().is_some_and(|c| (c.epoch, c.shard, c.donor) == (epoch, shard, donor)) {
            return;
        }
        let (asked, nonce) = (self.clock(hands.now), hands.random.next());
        self.copying = Some(Copying { shard, nonce, epoch, from, donor, asked, taking: None });
        self.ask_for_copy(hands);
    }

    /// The epoch that a copy was for, as a candidate, is over.
    pub(super) fn end_copy_from_donor(&mut self) {
        self.copying.take_if(|copying| copying.donor.is_some());
    }

    /// The snapshot that a candidate copies is not kept any more: another one.
    pub(super) fn pin_is_gone(&mut self, nonce: u64) {
        if let Some(copying) = self.copying.as_mut().filter(|c| c.nonce == nonce && c.donor.is_some()) {
            copying.taking = None;
        }
    }

    /// Of a copy for an ASSEMBLE of `epoch`: the shard, bytes that are here, and all of them.
    pub(super) fn copied_for(&self, epoch: Epoch) -> Option<(usize, u64, u64)> {
        let copying = self.copying.as_ref().filter(|c| c.epoch == epoch && c.donor.is_some())?;
        let files =
            copying.taking.iter().flat_map(|taking| taking.files.iter().map(|(name, len)| (&taking.sync, name, len)));
        let (staged, total) =
            files.fold((0, 0), |(staged, total), (sync, name, len)| (staged + sync.have(name), total + len));
        Some((copying.shard, staged, total))
    }

    /// Asks for what is missing next.
    pub(super) fn ask_for_copy(&mut self, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        let (sid, again) = (self.me(), hands.random.chance(700));
        let Some(copying) = &mut self.copying else { return };
        copying.asked = now;
        let (nonce, epoch, shard, donor) = (copying.nonce, copying.epoch, copying.shard, copying.donor);
        let message = match &copying.taking {
            None => Message::Pin { nonce, epoch, sid, donor, shard, again },
            Some(taking) => {
                let missing = taking.files.iter().find(|(name, len)| taking.sync.have(name) < *len);
                let Some((name, _)) = missing else { return self.finish_copy(hands) };
                let offset = taking.sync.have(name);
                Message::Ask { nonce, epoch, sid, donor, shard, name: name.clone(), offset }
            }
        };
        let to = Address::Member(copying.from);
        hands.send(to, message);
    }

    pub(super) fn copy_is_slow(&self, now: Duration) -> bool {
        self.copying.as_ref().is_some_and(|copying| now >= copying.asked + RETRY)
    }

    /// Whether the copy still belongs to the leader that is followed, or to an ASSEMBLE that is not over; asked for every
    /// piece (R6, R11).
    fn copy_is_of(&self, nonce: u64, shard: usize) -> bool {
        self.copying.as_ref().filter(|copying| copying.nonce == nonce && copying.shard == shard).is_some_and(
            |copying| {
                if copying.donor.is_some() {
                    return self.core.check_assemble(copying.epoch).is_ok();
                }
                let led = |(_, epoch, sid)| epoch == copying.epoch && self.core.follows(epoch, sid);
                self.stream == nonce && self.leader_address().is_some_and(led)
            },
        )
    }

    pub(super) fn take_manifest(
        &mut self,
        nonce: u64,
        shard: usize,
        manifest: SnapshotManifest,
        hands: &mut Hands<'_>,
    ) {
        if !self.copy_is_of(nonce, shard) || self.copying.as_ref().is_some_and(|copying| copying.taking.is_some()) {
            return;
        }
        let assembles = self.copying.as_ref().is_some_and(|copying| copying.donor.is_some());
        let begin = if assembles { Shard::begin_staged_copy } else { Shard::begin_full_sync };
        // What is pinned is committed at whoever gives it.
        match begin(self.shard(shard), &manifest, manifest.g0.last.gsn) {
            Ok(sync) => {
                let files: Vec<_> = manifest.files.iter().map(|file| (file.name.clone(), file.len)).collect();
                if files.iter().any(|(name, _)| sync.have(name) > 0) {
                    hands.count("full copies gone on with");
                }
                if let Some(copying) = &mut self.copying {
                    copying.taking = Some(Taking { sync, files });
                }
                if !assembles {
                    self.targets[shard] = 0;
                }
                self.ask_for_copy(hands);
            }
            Err(_) => {
                hands.count("full copies that could not begin");
                self.end_copies(hands);
            }
        }
    }

    pub(super) fn take_part(
        &mut self,
        nonce: u64,
        shard: usize,
        name: &str,
        offset: u64,
        bytes: &Bytes,
        hands: &mut Hands<'_>,
    ) {
        if !self.copy_is_of(nonce, shard) {
            return;
        }
        let Some(taking) = self.copying.as_mut().and_then(|copying| copying.taking.as_mut()) else { return };
        if taking.sync.have(name) != offset {
            return;
        }
        match taking.sync.write(name, offset, bytes) {
            Ok(()) => self.ask_for_copy(hands),
            Err(_) => {
                hands.count("pieces of a full copy that could not be staged");
                self.end_copies(hands);
            }
        }
    }

    fn finish_copy(&mut self, hands: &mut Hands<'_>) {
        let Some(Copying { shard, nonce, donor, taking: Some(taking), .. }) = self.copying.take() else { return };
        debug_assert!(donor.is_some() || nonce == self.stream);
        match (taking.sync.finish(), donor) {
            (Ok(tail), _) => {
                hands.count(if donor.is_some() { "shards copied by candidates" } else { "full copies finished" });
                let data = self.shard(shard).clone();
                hands.oracle.agrees(self.me(), shard, &data, tail.last.gsn);
                if donor.is_some() { self.pull(hands) } else { self.next_copy(hands) }
            }
            (Err(_), _) => {
                hands.count("full copies that were unsound");
                self.end_copies(hands);
            }
        }
    }

    /// Something broke: hello again, or the ASSEMBLE has failed.
    fn end_copies(&mut self, hands: &mut Hands<'_>) {
        self.copying = None;
        self.to_copy.clear();
        if self.core.role() == Role::Assembling {
            return self.assembling_failed("a shard could not be copied", hands);
        }
        if self.failure().is_none() {
            // Not at once: what was in the way may take a while.
            self.hello = Some((hands.random.next(), self.clock(hands.now)));
            self.stream = 0;
        }
    }

    // --- the giving side ----------------------------------------------------------------------------------

    /// Whether its data may be copied: as the leader's, or as those of a donor that promised `epoch`.
    pub(super) fn may_give(&self, epoch: Epoch, donor: Option<Sid>) -> bool {
        match donor {
            None => self.core.leads(epoch),
            Some(sid) => sid == self.me() && self.core.check_promise(epoch).is_ok(),
        }
    }

    pub(super) fn take_pin(
        &mut self,
        from: Address,
        nonce: u64,
        key: (Sid, usize),
        again: bool,
        hands: &mut Hands<'_>,
    ) {
        let kept = self.pins.get(&key).filter(|_| again).cloned();
        let pin = match kept {
            Some(pin) => pin,
            None => match self.shard(key.1).clone().pin_snapshot() {
                Ok(pin) => Arc::new(pin),
                Err(_) => {
                    hands.count("snapshots that could not be made");
                    return;
                }
            },
        };
        let manifest = Box::new(pin.manifest().clone());
        self.pins.insert(key, pin);
        hands.send(from, Message::Manifest { nonce, shard: key.1, manifest });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn take_ask(
        &mut self,
        from: Address,
        nonce: u64,
        shard: usize,
        pin: Option<&SnapshotPin>,
        name: String,
        offset: u64,
        hands: &mut Hands<'_>,
    ) {
        let read = pin.and_then(|pin| pin.read(&name, offset, PART_BYTES).ok()).filter(|bytes| !bytes.is_empty());
        match read {
            Some(bytes) => hands.send(from, Message::Part { nonce, shard, name, offset, bytes }),
            None => hands.send(from, Message::Closed { nonce }),
        }
    }
}
