//! The leading side: followers' sessions, shipping through the product's cursors, counting what is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Hands, Process, writes};
use crate::ident::Sid;
use crate::position::{Epoch, Gsn};
use crate::replication::cursor::ReplicationCursor;
use crate::replication::rules::{LogView, Reconcile, Sighting, reconcile};
use crate::replication::server::view;
use crate::replication::term::Follower;
use crate::simulation::Mutant;
use crate::simulation::wire::{Address, Message, Speaker};
use crate::topology::message::DataState;

/// Little and in many pieces.
pub(super) const CHUNK_BYTES: usize = 1500;
/// A follower that was heard within this time is connected.
const CONNECTED: Duration = Duration::from_millis(700);
/// A handover of a cursor within this time of a promotion belongs to a failover.
const FAILOVER: Duration = Duration::from_secs(2);

/// A follower as its leader sees it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) address: usize,
    nonce: u64,
    cursors: Vec<Option<ReplicationCursor>>,
    pub(super) follower: Arc<Follower>,
    heard: Duration,
}

impl Session {
    pub(super) fn connected(&self, now: Duration) -> bool {
        now < self.heard + CONNECTED
    }
}

impl Process {
    pub(super) fn take_hello(
        &mut self,
        from: Address,
        speaker: Speaker,
        epoch: Epoch,
        nonce: u64,
        views: &[LogView],
        hands: &mut Hands<'_>,
    ) {
        let Address::Member(address) = from else { return };
        let Some(term) = self.term.clone().filter(|_| self.core.leads(epoch)) else {
            return self.observe(epoch, hands);
        };
        if speaker.sid == self.me() {
            return hands.count("clones of a leader refused by it");
        }
        let sighting = self.sightings.see(speaker.sid, speaker.open_count, speaker.instance);
        if sighting == Sighting::Clone {
            return hands.count("clones refused by a leader");
        }
        let (mut cursors, mut answers, mut keepers, mut goal) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (shard, theirs) in self.engine.shards().iter().zip(views) {
            // Before the look at the floor: what is decided by it stays true.
            let keeper = shard.keep_log(1);
            let ours = view(shard);
            let end = ours.tail.last.gsn;
            goal.push(end);
            let mut answer = reconcile(&ours, theirs);
            if hands.mutant == Some(Mutant::NoDivergenceCheck) {
                // Joined by length alone.
                let gsn = theirs.tail.last.gsn.min(end);
                answer = Reconcile::Match { at: crate::position::LogPosition::new(ours.epochs.epoch_at(gsn), gsn) };
            }
            let at = match &answer {
                Reconcile::Match { at } => Some(at.gsn),
                Reconcile::Truncate { to } => Some(to.gsn),
                Reconcile::Full { .. } | Reconcile::Diverged { .. } | Reconcile::Lacking { .. } => None,
            };
            keeper.advance(at.map_or(end, |at| at + 1));
            keepers.push(keeper);
            cursors.push(at.map(|at| ReplicationCursor::new(shard.clone(), at).in_chunks_of(CHUNK_BYTES)));
            answers.push(answer);
        }
        let whole = views.iter().all(|v| matches!(v.state, DataState::Ready | DataState::Damaged));
        let follower = Arc::new(Follower {
            sid: speaker.sid,
            name: format!("m-{address}"),
            client_address: String::new(),
            open_count: speaker.open_count,
            connected: AtomicBool::new(true),
            whole,
            goal: goal.clone(),
            keepers,
            durable: goal.iter().map(|_| AtomicU64::new(0)).collect(),
            applied: goal.iter().map(|_| AtomicU64::new(0)).collect(),
            session: term.ended.child_token(),
        });
        term.followers.lock().insert(speaker.sid, follower.clone());
        let heard = self.clock(hands.now);
        self.sessions.insert(speaker.sid, Session { address, nonce, cursors, follower, heard });
        let config = term.term.config.clone();
        let leader = self.me();
        hands.send(from, Message::Answer { nonce, epoch, leader, config, shards: answers, goal });
        self.ship(hands);
    }

    pub(super) fn ship(&mut self, hands: &mut Hands<'_>) {
        let Some(term) = &self.term else { return };
        let (epoch, leader) = (term.epoch(), self.core.sid());
        let failover = hands.now < self.led_since + FAILOVER && epoch > 2;
        let mut ended = Vec::new();
        for (&sid, session) in &mut self.sessions {
            let to = Address::Member(session.address);
            for cursor in session.cursors.iter_mut().flatten() {
                loop {
                    let from_files = cursor.is_catching_up();
                    let next = cursor.next();
                    match (from_files, cursor.is_catching_up()) {
                        (false, true) => {
                            hands.count("cursors that fell out of memory");
                            if failover {
                                hands.count("cursors that fell out of memory during a failover");
                            }
                        }
                        (true, false) => hands.count("cursors that caught up with memory"),
                        _ => {}
                    }
                    match next {
                        Ok(Some(chunk)) => {
                            let commit = self.engine.shards()[usize::from(chunk.shard)].commit();
                            hands.wishes.push(super::Wish::Send(to, Message::Chunk { epoch, leader, chunk, commit }));
                        }
                        Ok(None) => break,
                        Err(_) => {
                            ended.push((sid, to, session.nonce));
                            break;
                        }
                    }
                }
            }
        }
        for (sid, to, nonce) in ended {
            hands.count("streams ended by a cursor");
            if self.sessions.remove(&sid).is_some() {
                hands.send(to, Message::Closed { nonce });
            }
        }
    }

    pub(super) fn ack(
        &mut self,
        from: Address,
        (sid, epoch, nonce): (Sid, Epoch, u64),
        durable: &[Gsn],
        applied: &[Gsn],
        hands: &mut Hands<'_>,
    ) {
        let Some(term) = self.term.clone().filter(|_| self.core.leads(epoch)) else { return };
        let now = self.clock(hands.now);
        match self.sessions.get_mut(&sid).filter(|s| s.nonce == nonce) {
            Some(session) => {
                session.heard = now;
                let follower = &session.follower;
                for (shard, &gsn) in durable.iter().enumerate() {
                    follower.durable[shard].fetch_max(gsn, Ordering::AcqRel);
                    follower.keepers[shard].advance(gsn + 1);
                }
                for (held, &gsn) in follower.applied.iter().zip(applied) {
                    held.fetch_max(gsn, Ordering::AcqRel);
                }
            }
            None => hands.send(from, Message::Closed { nonce }),
        }
        for (shard, &gsn) in durable.iter().enumerate() {
            // What a follower holds beyond this leader's log is not of this leader.
            let gsn = gsn.min(self.shard(shard).tail_gsn());
            if let Some(commit) = term.held(sid, shard as u16, gsn) {
                self.raise_commit(shard, commit);
            }
        }
        self.run_commits(hands);
    }

    /// Counts what this member itself holds.
    pub(super) fn count_own(&mut self, hands: &mut Hands<'_>) {
        let Some(term) = self.term.clone() else { return };
        if self.failure().is_some() {
            return;
        }
        let unsynced = hands.mutant == Some(Mutant::LeaderCountsUnsynced);
        let mut risen = false;
        for number in 0..self.engine.shards().len() {
            let gsn = writes::held(self.shard(number), unsynced);
            if let Some(commit) = term.held(self.me(), number as u16, gsn) {
                self.raise_commit(number, commit);
                risen = true;
            }
        }
        if risen {
            self.run_commits(hands);
        }
    }

    pub(super) fn heartbeat_ack(
        &mut self,
        (sid, epoch): (Sid, Epoch),
        round: u64,
        (shard_time_ms, wall_ms): (u64, u64),
        hands: &mut Hands<'_>,
    ) {
        let Some(term) = self.term.clone().filter(|_| self.core.leads(epoch)) else { return };
        let now = self.clock(hands.now);
        term.wall_heard(sid, wall_ms, now);
        if let Some(sent) = term.round_sent(round) {
            if let Some(lease) = self.core.lease_mut() {
                lease.acknowledged(sid, sent);
            }
            let own_ms = self.shard_time_ms(hands.now);
            self.commit_time(term.time_known(sid, shard_time_ms, own_ms), &[]);
        }
        if let Some(session) = self.sessions.get_mut(&sid) {
            session.heard = now;
        }
        self.answer_waiting(hands);
    }
}
