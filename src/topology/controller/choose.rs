//! TARGET and CHOOSE of a `ChangeEpoch`: from the answers to FENCE to who leads and who assembles what.
//!
//! Pure functions of the answers. TARGET: per shard, the largest (epoch, gsn) among the valid answers (R7). CHOOSE:
//! a member of the next configuration that misses least and can get it from logs (if there is none, it copies the
//! shards it lacks too much of); when voters or W change, W' of the next configuration must have it all before the
//! register says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::members::{may_vote, may_vote_with_all};
use crate::ident::Sid;
use crate::position::{Epoch, LogTail};
use crate::replication::rules::lease_wait;
use crate::replication::shard_time::ClockInterval;
use crate::topology::message::{DataState, FenceReply, MemberName};
use crate::topology::register::Leading;

/// An answer to FENCE.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) name: MemberName,
    pub(crate) reply: FenceReply,
    pub(crate) at: Duration,
}

impl Answer {
    /// Whether it counts towards R in `epoch`, if its sid votes.
    pub(crate) fn valid(&self, epoch: Epoch) -> bool {
        self.reply.standing.promised == epoch && may_vote(&self.reply.shards)
    }

    /// Whether it counts if every voter has answered.
    pub(crate) fn valid_with_all(&self, epoch: Epoch) -> bool {
        self.reply.standing.promised == epoch && may_vote_with_all(&self.reply.shards)
    }
}

/// What the answers to FENCE are worth (R5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadQuorum {
    /// Whatever was committed may be missing from them.
    Missing,
    /// R valid answers of voters, or the one of the process that leads the last decided epoch.
    Valid,
    /// The amnesia rule: what W voters held and some lost with their page cache is among all of them, if anywhere.
    Amnesic,
}

/// Whether `answers` to FENCE of `epoch` are a read quorum of `voters`, of which `needed` (R) are enough; `last` is the
/// newest decided leadership.
pub(crate) fn read_quorum(
    answers: &BTreeMap<Sid, Answer>,
    epoch: Epoch,
    voters: &[Sid],
    needed: usize,
    last: Option<Leading>,
) -> ReadQuorum {
    let have = voters.iter().filter(|sid| answers.get(sid).is_some_and(|a| a.valid(epoch))).count();
    let live_leader = last.is_some_and(|last| {
        answers.get(&last.sid).is_some_and(|a| a.valid(epoch) && a.reply.standing.live_led == last.epoch)
    });
    if have >= needed || live_leader {
        ReadQuorum::Valid
    } else if voters.iter().all(|sid| answers.get(sid).is_some_and(|a| a.valid_with_all(epoch))) {
        ReadQuorum::Amnesic
    } else {
        ReadQuorum::Missing
    }
}

/// How long a new leader must wait for leases that may be out, from `now` on; the rest as for [`read_quorum`].
pub(crate) fn wait_for_leases(
    answers: &BTreeMap<Sid, Answer>,
    voters: &[Sid],
    last: Option<Leading>,
    now: Duration,
) -> Duration {
    // Measured from when the answer came, which is later than when the remainder was told.
    let left = |a: &Answer| lease_wait(a.reply.lease_remaining).saturating_sub(now.saturating_sub(a.at));
    if let Some(last) = last
        && let Some(a) = answers.get(&last.sid).filter(|a| a.reply.standing.live_led == last.epoch)
    {
        // It reads no more; what it still had to wait for itself is in its answer.
        return left(a);
    }
    answers.iter().filter(|(sid, _)| voters.contains(sid)).map(|(_, a)| left(a)).max().unwrap_or_default()
}

/// Where shard time goes on, unix milliseconds: from the largest that any of them knows, or, if that is longer ago, from
/// the median of the voters' wall clocks, if a majority told theirs. Voters that were all restarted remember the time of
/// their logs' last entry.
pub(crate) fn shard_time(answers: &BTreeMap<Sid, Answer>, voters: &[Sid], now: Duration) -> u64 {
    let known = answers.values().map(|a| a.reply.shard_time_ms).max().unwrap_or(0);
    let of_voters = answers.iter().filter(|(sid, a)| voters.contains(sid) && a.reply.wall_ms != 0);
    let age = |a: &Answer| u64::try_from(now.saturating_sub(a.at).as_millis()).unwrap_or(0);
    let walls = of_voters.map(|(_, a)| a.reply.wall_ms.saturating_add(age(a))).collect();
    known.max(ClockInterval::of(walls, voters.len()).map_or(0, |clocks| clocks.low_ms))
}

/// What speaks for or against a member as leader, besides its log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fitness {
    pub(crate) leaving: bool,
    pub(crate) disk_full: bool,
    pub(crate) cooling: bool,
    pub(crate) ordinal: u32,
}

/// The question.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) epoch: Epoch,
    /// Every voter has answered and too few are whole: amnesic ones count.
    pub(crate) amnesia: bool,
    /// V, whose answers are counted.
    pub(crate) voters: &'a [Sid],
    /// V', one of whom shall lead.
    pub(crate) next: &'a [Sid],
    /// How many of V' must have everything: 1 if only the leader changes, else W'.
    pub(crate) assembled: usize,
    /// Shall lead if it can.
    pub(crate) want: Option<Sid>,
    /// Shall lead only if nobody else can.
    pub(crate) avoid: Option<Sid>,
    /// Leads on if the one that shall lead cannot.
    pub(crate) keep: Option<Sid>,
    /// Nobody else may lead.
    pub(crate) only: Option<Sid>,
    /// Could not assemble in this attempt.
    pub(crate) excluded: &'a BTreeSet<Sid>,
    pub(crate) fitness: &'a BTreeMap<Sid, Fitness>,
    /// See `Weakness`.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) longest_wins: bool,
}

/// Per shard.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) tail: LogTail,
    /// Who has it, among the valid answers.
    pub(crate) donor: Sid,
}

/// The answer.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) leader: Sid,
    /// Who must be at the targets before DECIDE, the leader included.
    pub(crate) assemble: Vec<Sid>,
    pub(crate) targets: Vec<Target>,
    /// Nothing better could come from further answers than what was asked for.
    pub(crate) as_wished: bool,
}

/// Why nobody was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// More answers may help.
    Few(String),
    /// The logs contradict each other: a rule was broken somewhere.
    Diverged(String),
}

impl Question<'_> {
    fn counts(&self, answer: &Answer) -> bool {
        answer.valid(self.epoch) || self.amnesia && answer.valid_with_all(self.epoch)
    }
}

/// TARGET.
fn targets(answers: &BTreeMap<Sid, Answer>, question: &Question<'_>) -> Result<Vec<Target>, NoChoice> {
    let mut targets: Vec<Target> = Vec::new();
    let valid = || answers.iter().filter(|(sid, a)| question.voters.contains(sid) && question.counts(a));
    for (&sid, answer) in valid() {
        let shards = &answer.reply.shards;
        if targets.is_empty() {
            targets = shards.iter().map(|s| Target { tail: s.tail, donor: sid }).collect();
        }
        if shards.len() != targets.len() {
            let (a, b) = (shards.len(), targets.len());
            return Err(NoChoice::Diverged(format!("{} has {a} shards, others have {b}", answer.name)));
        }
        for (shard, (have, best)) in shards.iter().zip(&mut targets).enumerate() {
            if have.tail.last == best.tail.last && have.tail.chain != best.tail.chain {
                return Err(NoChoice::Diverged(format!(
                    "{} and {} both end shard {shard} at {:?} with different content",
                    answer.name, answers[&best.donor].name, have.tail.last
                )));
            }
            let better = have.tail.last > best.tail.last;
            #[cfg(any(test, feature = "simulation"))]
            let better = if question.longest_wins { have.tail.last.gsn > best.tail.last.gsn } else { better };
            if better {
                *best = Target { tail: have.tail, donor: sid };
            }
        }
    }
    for (_, answer) in valid() {
        for (shard, (have, target)) in answer.reply.shards.iter().zip(&targets).enumerate() {
            if have.commit > target.tail.last.gsn {
                return Err(NoChoice::Diverged(format!(
                    "{} has committed {} of shard {shard}, the most that a read quorum holds is {:?}",
                    answer.name, have.commit, target.tail.last
                )));
            }
        }
    }
    Ok(targets)
}

/// What `answer` lacks: on how many shards its log is not surely joinable with the donor's, and how many entries.
fn missing(answer: &Answer, targets: &[Target], answers: &BTreeMap<Sid, Answer>) -> (usize, u64) {
    let mut gaps = 0;
    let mut entries = 0;
    for (shard, (have, target)) in answer.reply.shards.iter().zip(targets).enumerate() {
        if have.tail == target.tail {
            continue;
        }
        // Within one epoch logs are prefixes of one leader's; otherwise only what is committed is surely common.
        let common = if have.tail.last.epoch == target.tail.last.epoch { have.tail.last.gsn } else { have.commit };
        entries += target.tail.last.gsn.saturating_sub(common).max(1);
        let floor = answers[&target.donor].reply.shards[shard].log_floor;
        gaps += usize::from(common + 1 < floor);
    }
    (gaps, entries)
}

/// Whether its logs are exactly at the targets.
pub(crate) fn at_targets(answer: &Answer, targets: &[Target]) -> bool {
    answer.reply.shards.len() == targets.len()
        && answer.reply.shards.iter().zip(targets).all(|(have, want)| have.tail == want.tail)
}

/// TARGET and CHOOSE.
pub(crate) fn choose(answers: &BTreeMap<Sid, Answer>, question: &Question<'_>) -> Result<Choice, NoChoice> {
    let q = question;
    let targets = targets(answers, q)?;
    let mut able: Vec<(Sid, &Answer, usize, u64)> = answers
        .iter()
        .filter(|(sid, a)| {
            q.next.contains(sid) && !q.excluded.contains(sid) && q.counts(a) && a.reply.shards.len() == targets.len()
        })
        .map(|(&sid, a)| {
            let (gaps, entries) = missing(a, &targets, answers);
            (sid, a, gaps, entries)
        })
        .collect();
    let fitness = |sid: Sid| q.fitness.get(&sid).copied().unwrap_or_default();
    let leader = able
        .iter()
        .filter(|(sid, ..)| q.only.is_none_or(|only| only == *sid))
        .min_by_key(|&&(sid, answer, gaps, entries)| {
            let f = fitness(sid);
            let damaged = answer.reply.shards.iter().any(|s| s.state != DataState::Ready);
            let unwished =
                (q.want.is_some_and(|want| want != sid), q.avoid == Some(sid), q.keep.is_some_and(|keep| keep != sid));
            (damaged, gaps, unwished, f.leaving, f.disk_full, f.cooling, entries, f.ordinal, sid)
        })
        .map(|&(sid, ..)| sid)
        .ok_or_else(|| NoChoice::Few("no member that may lead has answered".into()))?;
    able.retain(|&(sid, ..)| sid != leader);
    able.sort_by_key(|&(sid, _, gaps, entries)| (gaps, entries, sid));
    let others = q.assembled.saturating_sub(1);
    if able.len() < others {
        return Err(NoChoice::Few(format!(
            "{} of the next voters have answered, {} must hold everything first",
            able.len() + 1,
            q.assembled
        )));
    }
    let assemble = std::iter::once(leader).chain(able.iter().take(others).map(|&(sid, ..)| sid)).collect();
    let as_wished = q.want.is_none_or(|want| want == leader) && q.avoid != Some(leader);
    Ok(Choice { leader, assemble, targets, as_wished })
}
