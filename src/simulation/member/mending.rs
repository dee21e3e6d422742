//! A follower has what rotted from its leader, entry by entry, or is rebuilt whole.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Hands, Process};
use crate::engine::{Mended, ShardState, Wanted};
use crate::position::{Epoch, Gsn};
use crate::simulation::wire::{Address, Message};

impl Process {
    /// Asks for what a damaged file lacks, if there is one.
    pub(super) fn ask_for_entries(&mut self, hands: &mut Hands<'_>) {
        let Some((leader, epoch, _)) = self.leader_address().filter(|_| self.joined.is_some()) else { return };
        for number in 0..self.engine.shards().len() {
            let shard = self.shard(number).clone();
            let Some(&file) = shard.damaged_files().first() else { continue };
            match shard.wanted(file) {
                Ok(wanted) => {
                    hands.count("damaged files asked for");
                    let message = Message::Want { epoch, shard: number, file, wanted };
                    hands.send(Address::Member(leader), message);
                }
                Err(why) => self.give_up(number, why, hands),
            }
        }
    }

    pub(super) fn take_want(
        &mut self,
        from: Address,
        epoch: Epoch,
        shard: usize,
        file: u32,
        wanted: &[Wanted],
        hands: &mut Hands<'_>,
    ) {
        if !self.core.leads(epoch) {
            return;
        }
        let held = wanted.iter().filter_map(|wanted| Some((wanted.gsn, self.shard(shard).entry(wanted)?)));
        let records = held.collect();
        hands.send(from, Message::Entries { epoch, shard, file, records });
    }

    pub(super) fn take_entries(
        &mut self,
        epoch: Epoch,
        number: usize,
        file: u32,
        records: Vec<(Gsn, Bytes)>,
        hands: &mut Hands<'_>,
    ) {
        let follows = self.leader_address().is_some_and(|(_, followed, _)| followed == epoch);
        let shard = self.shard(number).clone();
        if !follows || self.joined.is_none() || !shard.damaged_files().contains(&file) {
            return;
        }
        match shard.mend(file, &records.into_iter().collect::<BTreeMap<_, _>>()) {
            Ok(Mended::Whole) => {
                hands.count("damaged files mended");
                hands.oracle.folds(self.me(), number, &shard);
            }
            Ok(Mended::Missing(gsn)) => self.give_up(number, format!("the leader has no entry {gsn}"), hands),
            Ok(Mended::Hopeless(why)) => self.give_up(number, why, hands),
            // An engine that failed ends the process.
            Err(_) => {}
        }
    }

    /// Rebuilt whole, as what was found unsound at open.
    fn give_up(&mut self, number: usize, reason: String, hands: &mut Hands<'_>) {
        hands.count("damaged shards given up");
        let state = ShardState::Quarantined { reason, alarm: false };
        if self.shard(number).set_state(state).is_ok() {
            self.stream_broke(hands);
        }
    }
}
