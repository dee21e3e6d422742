//! A full copy: the leader pins a snapshot and gives pieces of its files, the follower stages them and switches.
//!
//! Asked for piece by piece, so that everything may be lost in between. What was staged before a restart or in an
//! earlier epoch is found by the engine; a snapshot that was begun is gone on with if the leader still has it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Hands, Process, RETRY};
use crate::engine::{FullSync, SnapshotManifest};
use crate::ident::Sid;
use crate::position::Epoch;
use crate::simulation::wire::{Address, Message};

/// Bytes of a file in one message.
const PART_BYTES: usize = 6000;

/// A copy of one shard that is under way.
#[derive(Debug)]
pub(super) struct Copying {
    shard: usize,
    /// The stream that it belongs to.
    nonce: u64,
    epoch: Epoch,
    leader: usize,
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
        self.copying = Some(Copying { shard, nonce: self.stream, epoch, leader, asked, taking: None });
        self.ask_for_copy(hands);
    }

    /// Asks for what is missing next.
    pub(super) fn ask_for_copy(&mut self, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        let (sid, again) = (self.me(), hands.random.chance(700));
        let Some(copying) = &mut self.copying else { return };
        copying.asked = now;
        let (nonce, epoch, shard) = (copying.nonce, copying.epoch, copying.shard);
        let message = match &copying.taking {
            None => Message::Pin { nonce, epoch, sid, shard, again },
            Some(taking) => {
                let missing = taking.files.iter().find(|(name, len)| taking.sync.have(name) < *len);
                let Some((name, _)) = missing else { return self.finish_copy(hands) };
                let offset = taking.sync.have(name);
                Message::Ask { nonce, epoch, sid, shard, name: name.clone(), offset }
            }
        };
        let to = Address::Member(copying.leader);
        hands.send(to, message);
    }

    pub(super) fn copy_is_slow(&self, now: Duration) -> bool {
        self.copying.as_ref().is_some_and(|copying| now >= copying.asked + RETRY)
    }

    /// Whether the copy still belongs to the leader that is followed; asked for every piece.
    fn copy_is_of(&self, nonce: u64, shard: usize) -> bool {
        self.copying.as_ref().is_some_and(|copying| {
            copying.nonce == nonce
                && copying.shard == shard
                && self.stream == nonce
                && self
                    .leader_address()
                    .is_some_and(|(_, epoch, sid)| epoch == copying.epoch && self.core.follows(epoch, sid))
        })
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
        // What is pinned is committed at the leader.
        match self.shard(shard).clone().begin_full_sync(&manifest, manifest.g0.last.gsn) {
            Ok(sync) => {
                let files: Vec<_> = manifest.files.iter().map(|file| (file.name.clone(), file.len)).collect();
                if files.iter().any(|(name, _)| sync.have(name) > 0) {
                    hands.count("full copies gone on with");
                }
                if let Some(copying) = &mut self.copying {
                    copying.taking = Some(Taking { sync, files });
                }
                self.targets[shard] = 0;
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
        let Some(Copying { shard, nonce, taking: Some(taking), .. }) = self.copying.take() else { return };
        debug_assert_eq!(nonce, self.stream);
        match taking.sync.finish() {
            Ok(tail) => {
                hands.count("full copies finished");
                let data = self.shard(shard).clone();
                hands.oracle.agrees(self.me(), shard, &data, tail.last.gsn);
                self.next_copy(hands);
            }
            Err(_) => {
                hands.count("full copies that were unsound");
                self.end_copies(hands);
            }
        }
    }

    /// Something broke: hello again.
    fn end_copies(&mut self, hands: &mut Hands<'_>) {
        self.copying = None;
        self.to_copy.clear();
        if self.failure().is_none() {
            // Not at once: what was in the way may take a while.
            self.hello = Some((hands.random.next(), self.clock(hands.now)));
            self.stream = 0;
        }
    }

    // --- the giving side ----------------------------------------------------------------------------------

    pub(super) fn take_pin(
        &mut self,
        from: Address,
        nonce: u64,
        epoch: Epoch,
        key: (Sid, usize),
        again: bool,
        hands: &mut Hands<'_>,
    ) {
        if !self.core.leads(epoch) {
            return;
        }
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
        epoch: Epoch,
        key: (Sid, usize),
        name: String,
        offset: u64,
        hands: &mut Hands<'_>,
    ) {
        let read = match self.pins.get(&key).filter(|_| self.core.leads(epoch)) {
            Some(pin) => pin.read(&name, offset, PART_BYTES).ok().filter(|bytes| !bytes.is_empty()),
            None => None,
        };
        match read {
            Some(bytes) => hands.send(from, Message::Part { nonce, shard: key.1, name, offset, bytes }),
            None => hands.send(from, Message::Closed { nonce }),
        }
    }
}
