//! What each voter was known to hold of what is committed: a log that ends below that was rolled back.
//!
//! The leader's heartbeats spread these figures, every member keeps the largest it heard of, and FENCE replies return
//! them. What a voter acknowledged *and* is committed is never cut by the protocol and was durable before it was
//! acknowledged; an open count is durable before anything else. So a member below its own figure shows an older state of
//! its volume (a restored snapshot), or lost what it had synced: its answer is void, whatever it says. In memory only:
//! where everybody was restarted meanwhile there is nothing to compare with.

use std::collections::BTreeMap;

use crate::ident::Sid;
use crate::position::{Epoch, Gsn};
use crate::topology::message::{DataState, FenceReply, VoterFigure};

/// The largest figures heard of, as the leader of one epoch spreads them.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    epoch: Epoch,
    of: BTreeMap<Sid, (u64, Vec<Gsn>)>,
}

impl Figures {
    /// Heard some of the leader of `epoch`. A later leader's take the place of an earlier one's: it began with what was
    /// known.
    pub fn hear(&mut self, epoch: Epoch, figures: &[VoterFigure]) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.of.clear();
        }
        if epoch == self.epoch {
            figures.iter().for_each(|figure| self.note(figure));
        }
    }

    /// Leads `epoch` from logs that end at `ends`: all that is committed is there. What is known beyond was lost with
    /// everybody's page cache, and told (the amnesia rule).
    pub fn lead(&mut self, epoch: Epoch, ends: &[Gsn]) {
        self.epoch = epoch;
        for (_, held) in self.of.values_mut() {
            held.iter_mut().zip(ends).for_each(|(held, &end)| *held = (*held).min(end));
        }
    }

    /// Takes one in, of whatever epoch.
    pub fn note(&mut self, figure: &VoterFigure) {
        let (open_count, held) = self.of.entry(figure.sid).or_default();
        *open_count = (*open_count).max(figure.open_count);
        if held.len() < figure.held.len() {
            held.resize(figure.held.len(), 0);
        }
        for (known, &told) in held.iter_mut().zip(&figure.held) {
            *known = (*known).max(told);
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<VoterFigure> {
        let figure = |(&sid, (open_count, held)): (&Sid, &(u64, Vec<Gsn>))| VoterFigure {
            sid,
            open_count: *open_count,
            held: held.clone(),
        };
        self.of.iter().map(figure).collect()
    }

    /// Another lineage begins.
    pub fn clear(&mut self) {
        self.of.clear();
    }

    /// In what a reply shows an older state than its storage was known to have; None: in nothing.
    pub fn contradiction(&self, reply: &FenceReply) -> Option<String> {
        let standing = &reply.standing;
        let (open_count, held) = self.of.get(&standing.sid)?;
        if standing.open_count < *open_count {
            return Some(format!("it was opened {} times, {open_count} are known", standing.open_count));
        }
        reply.shards.iter().zip(held).enumerate().find_map(|(shard, (have, &held))| {
            // What does not vote by itself says so; what lost its page cache counts only where every voter answers.
            let votes = matches!(have.state, DataState::Ready | DataState::Damaged);
            let lost = votes && have.tail.last.gsn < held;
            lost.then(|| {
                let end = have.tail.last.gsn;
                format!("shard {shard} ends at {end}, and it held {held} of what is committed")
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ident::{ClusterId, InstanceId};
    use crate::position::{LogPosition, LogTail};
    use crate::topology::message::{InitState, ShardReport, Standing};

    fn reply(sid: u128, open_count: u64, state: DataState, ends: &[Gsn]) -> FenceReply {
        let shard = |&gsn: &Gsn| ShardReport {
            state,
            tail: LogTail { last: LogPosition::new(1, gsn), chain: 0 },
            commit: 0,
            known_commit: 0,
            durable: gsn,
            log_floor: 1,
            tombstone_floor: 0,
        };
        FenceReply {
            standing: Standing {
                cluster_id: Some(ClusterId(1)),
                lineage: 0,
                sid: Sid(sid),
                open_count,
                instance: InstanceId(1),
                init: InitState::Done,
                promised: 7,
                led: 0,
                live_led: 0,
                last_config: None,
            },
            shards: ends.iter().map(shard).collect(),
            lease_remaining: Duration::ZERO,
            shard_time_ms: 0,
            wall_ms: 0,
            drained: false,
            figures: Vec::new(),
        }
    }

    #[test]
    fn a_log_below_what_its_storage_was_known_to_hold_is_a_rollback() {
        let mut figures = Figures::default();
        figures.note(&VoterFigure { sid: Sid(1), open_count: 3, held: vec![10, 20] });
        // An older word, overtaken by the first.
        figures.note(&VoterFigure { sid: Sid(1), open_count: 2, held: vec![4, 25] });
        assert_eq!(figures.all(), [VoterFigure { sid: Sid(1), open_count: 3, held: vec![10, 25] }]);
        let of = |reply: &FenceReply| figures.contradiction(reply);
        assert_eq!(of(&reply(1, 3, DataState::Ready, &[10, 25])), None);
        assert_eq!(of(&reply(1, 4, DataState::Ready, &[90, 25])), None);
        assert!(of(&reply(1, 4, DataState::Ready, &[10, 24])).is_some_and(|why| why.contains("shard 1 ends at 24")));
        assert!(of(&reply(1, 2, DataState::Ready, &[90, 90])).is_some_and(|why| why.contains("opened 2 times")));
        for state in [DataState::Amnesic, DataState::Syncing] {
            assert_eq!(of(&reply(1, 4, state, &[1, 1])), None, "that is known by its state");
        }
        assert_eq!(of(&reply(2, 1, DataState::Ready, &[0, 0])), None, "nothing is known of it");
    }

    #[test]
    fn a_later_leader_begins_with_what_is_known_and_what_its_log_holds() {
        let figure = |held| VoterFigure { sid: Sid(1), open_count: 1, held: vec![held] };
        let mut leader = Figures::default();
        leader.hear(4, &[figure(30)]);
        leader.lead(5, &[20]);
        assert_eq!(leader.all(), [figure(20)]);
        let mut follower = Figures::default();
        follower.hear(4, &[figure(30)]);
        follower.hear(5, &leader.all());
        follower.hear(4, &[figure(30)]);
        assert_eq!(follower.all(), [figure(20)]);
    }
}
