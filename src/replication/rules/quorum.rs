//! What W voters hold durably, hence what is committed (R4).
//!
//! `commit[s]` is the largest gsn of the leader's own epoch that W voters hold durably; older entries commit
//! only underneath one (Raft, figure 8). The leader counts itself like anyone else: by its own durable mark.
//! Acknowledgements refer to the verified common prefix only; they never go back within an epoch, because
//! a leader's log never shrinks.

use std::collections::BTreeMap;

use crate::ident::Sid;
use crate::position::{Epoch, Gsn};
use crate::topology::message::LastConfig;

/// Commit counting of one term.
#[derive(Debug, Clone)]
pub struct Quorum {
    config: LastConfig,
    /// Per shard, what each voter holds durably.
    durable: Vec<BTreeMap<Sid, Gsn>>,
    /// Per shard, gsn of this epoch's BARRIER; `Gsn::MAX` until it is appended.
    barrier: Vec<Gsn>,
    commit: Vec<Gsn>,
}

impl Quorum {
    /// A term's counting starts from what was known to be committed, per shard.
    pub fn new(config: LastConfig, commit: Vec<Gsn>) -> Self {
        let shards = commit.len();
        let durable = vec![config.voters.iter().map(|&sid| (sid, 0)).collect(); shards];
        Self { config, durable, barrier: vec![Gsn::MAX; shards], commit }
    }

    /// The configuration counted by.
    pub fn config(&self) -> &LastConfig {
        &self.config
    }

    /// The epoch counted for.
    pub fn epoch(&self) -> Epoch {
        self.config.epoch
    }

    /// The BARRIER of this epoch was appended to `shard` at `gsn`. Returns the new commit if it rose: the disk may
    /// have been quicker than this call.
    pub fn barrier_appended(&mut self, shard: u16, gsn: Gsn) -> Option<Gsn> {
        self.barrier[usize::from(shard)] = gsn;
        self.count(usize::from(shard))
    }

    /// `sid` (a voter, the leader itself included; others are ignored) holds `shard` through `gsn` durably.
    /// Returns the new commit if it rose.
    pub fn held(&mut self, sid: Sid, shard: u16, gsn: Gsn) -> Option<Gsn> {
        let s = usize::from(shard);
        let held = self.durable.get_mut(s)?.get_mut(&sid)?;
        if *held >= gsn {
            return None;
        }
        *held = gsn;
        self.count(s)
    }

    fn count(&mut self, s: usize) -> Option<Gsn> {
        let mut marks: Vec<Gsn> = self.durable[s].values().copied().collect();
        marks.sort_unstable_by(|a, b| b.cmp(a));
        let held_by_w = marks.get((self.config.write_quorum as usize).checked_sub(1)?).copied()?;
        if held_by_w >= self.barrier[s] && held_by_w > self.commit[s] {
            self.commit[s] = held_by_w;
            return Some(held_by_w);
        }
        None
    }

    /// Commit of `shard`.
    pub fn commit(&self, shard: u16) -> Gsn {
        self.commit[usize::from(shard)]
    }

    /// Commit of every shard.
    pub fn commits(&self) -> &[Gsn] {
        &self.commit
    }

    /// Gsn of this epoch's BARRIER in `shard`; `Gsn::MAX` until it is appended.
    pub fn barrier(&self, shard: u16) -> Gsn {
        self.barrier[usize::from(shard)]
    }

    /// What every voter holds of `shard`.
    pub fn held_by_all(&self, shard: u16) -> Gsn {
        self.durable[usize::from(shard)].values().copied().min().unwrap_or(0)
    }

    /// What `sid` was told to hold of `shard`.
    pub fn held_by(&self, sid: Sid, shard: u16) -> Gsn {
        self.durable[usize::from(shard)].get(&sid).copied().unwrap_or(0)
    }

    /// Whether the BARRIER of this epoch is committed on every shard: the leader may serve reads.
    pub fn serving(&self) -> bool {
        self.barrier.iter().zip(&self.commit).all(|(barrier, commit)| commit >= barrier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(n: u128, w: u32) -> Quorum {
        let voters = (1..=n).map(Sid).collect();
        Quorum::new(LastConfig { epoch: 2, voters, write_quorum: w, min_voters: 1 }, vec![3])
    }

    #[test]
    fn entries_of_older_epochs_commit_only_under_an_own_one() {
        let mut q = quorum(3, 2);
        q.barrier_appended(0, 9);
        assert_eq!(q.held(Sid(1), 0, 8), None);
        assert_eq!(q.held(Sid(2), 0, 8), None, "a majority holds 8, but 8 is of an older epoch");
        assert!(!q.serving());
        assert_eq!(q.held(Sid(1), 0, 10), None);
        assert_eq!(q.held(Sid(3), 0, 9), Some(9));
        assert!(q.serving());
    }

    #[test]
    fn the_leader_counts_only_by_its_durable_mark() {
        let mut q = quorum(3, 2);
        q.barrier_appended(0, 4);
        assert_eq!(q.held(Sid(2), 0, 6), None);
        assert_eq!(q.held(Sid(3), 0, 5), Some(5), "two followers are a majority without the leader");
        assert_eq!(q.held(Sid(1), 0, 6), Some(6));
    }

    #[test]
    fn only_voters_count() {
        let mut q = quorum(3, 2);
        q.barrier_appended(0, 4);
        assert_eq!(q.held(Sid(1), 0, 6), None);
        assert_eq!(q.held(Sid(77), 0, 6), None);
        assert_eq!(q.commit(0), 3);
    }

    #[test]
    fn all_means_the_slowest() {
        let mut q = quorum(3, 3);
        q.barrier_appended(0, 4);
        q.held(Sid(1), 0, 9);
        q.held(Sid(2), 0, 8);
        assert_eq!(q.held(Sid(3), 0, 5), Some(5));
    }
}
