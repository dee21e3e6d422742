//! What clients ask for.

use std::time::Duration;

use super::{Occurrence, World};
use crate::engine::WriteBatch;
use crate::simulation::member::{Process, Put};
use crate::simulation::workload;

impl World {
    pub(super) fn client(&mut self) {
        let after = Duration::from_millis(5 + self.random.below(30));
        self.schedule(after, Occurrence::Client);
        if !self.clients {
            return;
        }
        let leaders: Vec<usize> = (0..self.places.len())
            .filter(|&n| self.paused(n).is_none() && self.places[n].process.as_ref().is_some_and(Process::leads))
            .collect();
        if leaders.is_empty() {
            return;
        }
        let member = leaders[self.random.below(leaders.len() as u64) as usize];
        let shard = self.random.below(self.plan.shards as u64) as usize;
        if self.random.chance(400) {
            let place = &self.places[member];
            let key = workload::key(&mut self.random);
            match place.process.as_ref().and_then(|p| p.read_begins(shard, &key)) {
                Some(Ok((look, epoch))) => {
                    let (life, required) = (place.life, self.oracle.seen());
                    let after = self.delay();
                    let (look, asked) = (Box::new(look), self.now);
                    self.schedule(after, Occurrence::ReadEnds { member, life, epoch, look, required, asked });
                }
                Some(Err(why)) => {
                    if self.places[member].rotten {
                        self.count("reads refused by a rotten record");
                    } else {
                        self.oracle.broken(|| format!("m-{member} cannot read: {why}"));
                    }
                }
                None => {}
            }
        } else {
            let now_ms = self.places[member].process.as_ref().map_or(0, |p| p.shard_time_ms(self.now));
            let op = self.next_op;
            let batch = workload::batch(&mut self.random, op, now_ms, self.oracle.truth(shard));
            self.put(member, shard, &batch);
        }
    }

    /// A client writes there: the operation's number.
    fn put(&mut self, member: usize, shard: usize, batch: &WriteBatch) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        self.oracle.asked(op, shard, batch);
        let mut put = Put::Refused;
        self.with(member, None, |p, h| put = p.put(op, shard, batch, h));
        if put == Put::Refused {
            self.oracle.never(op);
        }
        op
    }

    /// A client writes one value there.
    #[cfg(test)]
    pub(in crate::simulation) fn write(&mut self, member: usize) -> u64 {
        self.write_to(member, 0)
    }

    /// To this shard.
    #[cfg(test)]
    pub(in crate::simulation) fn write_to(&mut self, member: usize, shard: usize) -> u64 {
        let key = workload::key(&mut self.random);
        let batch = WriteBatch::new().put(key, workload::value(&mut self.random, self.next_op, 0));
        self.put(member, shard, &batch)
    }
}
