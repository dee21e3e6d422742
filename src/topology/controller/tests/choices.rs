//! TARGET and CHOOSE.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ident::{ClusterId, InstanceId, Sid};
use crate::position::{LogPosition, LogTail};
use crate::topology::controller::choose::{Answer, Choice, Fitness, NoChoice, Question, choose};
use crate::topology::message::{DataState, FenceReply, InitState, ShardReport, Standing};

const EPOCH: u64 = 9;

/// `(epoch, gsn, commit, floor)` per shard; the chain is that of an undisturbed log.
fn answer(sid: u128, shards: &[(u64, u64, u64, u64)]) -> (Sid, Answer) {
    let shards = shards
        .iter()
        .map(|&(epoch, gsn, commit, log_floor)| ShardReport {
            state: DataState::Ready,
            tail: LogTail { last: LogPosition::new(epoch, gsn), chain: (epoch * 1000 + gsn) as u32 },
            commit,
            durable: gsn,
            log_floor,
            known_commit: 0,
            tombstone_floor: 0,
        })
        .collect();
    let standing = Standing {
        cluster_id: Some(ClusterId(1)),
        lineage: 0,
        sid: Sid(sid),
        open_count: 1,
        instance: InstanceId(sid),
        init: InitState::Done,
        promised: EPOCH,
        led: 0,
        live_led: 0,
        last_config: None,
    };
    let reply = FenceReply {
        standing,
        shards,
        lease_remaining: Duration::ZERO,
        shard_time_ms: 0,
        wall_ms: 0,
        drained: false,
        figures: vec![],
    };
    (Sid(sid), Answer { name: format!("kv-0-{sid}"), reply, at: Duration::ZERO })
}

struct Asked {
    amnesia: bool,
    voters: Vec<Sid>,
    next: Vec<Sid>,
    assembled: usize,
    want: Option<Sid>,
    avoid: Option<Sid>,
    excluded: BTreeSet<Sid>,
    fitness: BTreeMap<Sid, Fitness>,
}

fn asked(voters: &[u128]) -> Asked {
    let voters: Vec<Sid> = voters.iter().map(|&v| Sid(v)).collect();
    let fitness = voters.iter().map(|&v| (v, Fitness { ordinal: v.0 as u32, ..Default::default() })).collect();
    Asked {
        amnesia: false,
        next: voters.clone(),
        voters,
        assembled: 1,
        want: None,
        avoid: None,
        excluded: BTreeSet::new(),
        fitness,
    }
}

impl Asked {
    fn choose<const N: usize>(&self, answers: [(Sid, Answer); N]) -> Result<Choice, NoChoice> {
        let question = Question {
            epoch: EPOCH,
            amnesia: self.amnesia,
            voters: &self.voters,
            next: &self.next,
            assembled: self.assembled,
            want: self.want,
            avoid: self.avoid,
            keep: None,
            only: None,
            excluded: &self.excluded,
            fitness: &self.fitness,
            longest_wins: false,
        };
        choose(&BTreeMap::from(answers), &question)
    }
}

#[test]
fn the_target_is_the_latest_epoch_and_not_the_longest_log() {
    let choice = asked(&[1, 2, 3]).choose([answer(1, &[(3, 50, 9, 1)]), answer(2, &[(4, 12, 9, 1)])]).unwrap();
    assert_eq!(choice.targets[0].tail.last, LogPosition::new(4, 12));
    assert_eq!((choice.leader, choice.targets[0].donor), (Sid(2), Sid(2)));
}

#[test]
fn every_shard_has_its_own_donor_and_the_leader_misses_least() {
    let answers = [answer(1, &[(3, 10, 9, 1), (3, 40, 9, 1)]), answer(2, &[(3, 12, 9, 1), (3, 11, 9, 1)])];
    let choice = asked(&[1, 2, 3]).choose(answers).unwrap();
    assert_eq!(choice.targets.iter().map(|t| t.donor).collect::<Vec<_>>(), [Sid(2), Sid(1)]);
    assert_eq!(choice.leader, Sid(1), "2 entries are missing, not 29");
}

#[test]
fn blank_or_amnesic_storage_is_neither_counted_nor_chosen() {
    let (sid, mut longest) = answer(2, &[(3, 99, 9, 1)]);
    for state in [DataState::Blank, DataState::Syncing, DataState::Amnesic, DataState::Quarantined] {
        longest.reply.shards[0].state = state;
        let choice = asked(&[1, 2, 3]).choose([answer(1, &[(3, 10, 9, 1)]), (sid, longest.clone())]).unwrap();
        assert_eq!((choice.leader, choice.targets[0].tail.last.gsn), (Sid(1), 10), "{state:?}");
    }
}

#[test]
fn a_member_whose_missing_entries_are_no_longer_in_the_donors_log_is_the_last_choice() {
    // 1 misses less, but 2's log begins above what 1 surely shares.
    let answers = [answer(1, &[(2, 30, 5, 1)]), answer(2, &[(3, 31, 28, 20)]), answer(3, &[(3, 19, 10, 1)])];
    let mut asked = asked(&[1, 2, 3]);
    asked.avoid = Some(Sid(2));
    assert_eq!(asked.choose(answers).unwrap().leader, Sid(3));
}

#[test]
fn damaged_storage_leads_only_when_nobody_sound_can() {
    let (sid, mut damaged) = answer(1, &[(3, 10, 9, 1)]);
    damaged.reply.shards[0].state = DataState::Damaged;
    let sound = answer(2, &[(3, 8, 7, 1)]);
    assert_eq!(asked(&[1, 2, 3]).choose([(sid, damaged.clone()), sound]).unwrap().leader, Sid(2));
    assert_eq!(asked(&[1, 2, 3]).choose([(sid, damaged)]).unwrap().leader, Sid(1));
}

#[test]
fn equal_ends_with_different_content_stop_everything() {
    let (sid, mut other) = answer(2, &[(3, 10, 9, 1)]);
    other.reply.shards[0].tail.chain ^= 1;
    let answers = [answer(1, &[(3, 10, 9, 1)]), (sid, other)];
    assert!(matches!(asked(&[1, 2, 3]).choose(answers), Err(NoChoice::Diverged(_))));
}

#[test]
fn a_commit_beyond_the_target_stops_everything() {
    let answers = [answer(1, &[(4, 10, 9, 1)]), answer(2, &[(3, 12, 12, 1)])];
    assert!(matches!(asked(&[1, 2, 3]).choose(answers), Err(NoChoice::Diverged(_))));
}

#[test]
fn new_voters_must_hold_everything_before_the_register_says_so() {
    let mut asked = asked(&[1]);
    asked.next = vec![Sid(1), Sid(2), Sid(3)];
    asked.assembled = 2;
    asked.want = Some(Sid(1));
    let alone = asked.choose([answer(1, &[(3, 10, 9, 1)])]);
    assert!(matches!(alone, Err(NoChoice::Few(_))));
    let answers = [answer(1, &[(3, 10, 9, 1)]), answer(2, &[(3, 4, 4, 1)]), answer(3, &[(3, 9, 9, 1)])];
    let choice = asked.choose(answers).unwrap();
    assert_eq!((choice.leader, choice.assemble), (Sid(1), vec![Sid(1), Sid(3)]));
}

#[test]
fn what_a_learner_holds_does_not_make_the_target() {
    let mut asked = asked(&[1, 2]);
    asked.next = vec![Sid(1), Sid(2), Sid(3)];
    let choice = asked.choose([answer(1, &[(3, 10, 9, 1)]), answer(3, &[(3, 12, 9, 1)])]).unwrap();
    assert_eq!(choice.targets[0].tail.last.gsn, 10);
}

#[test]
fn who_is_leaving_cooling_or_full_leads_only_if_nobody_else_can() {
    for unfit in [
        Fitness { leaving: true, ..Default::default() },
        Fitness { cooling: true, ..Default::default() },
        Fitness { disk_full: true, ..Default::default() },
    ] {
        let mut asked = asked(&[1, 2, 3]);
        asked.fitness.insert(Sid(1), unfit);
        let both = [answer(1, &[(3, 10, 9, 1)]), answer(2, &[(3, 7, 7, 1)])];
        assert_eq!(asked.choose(both).unwrap().leader, Sid(2), "{unfit:?}");
        assert_eq!(asked.choose([answer(1, &[(3, 10, 9, 1)])]).unwrap().leader, Sid(1), "{unfit:?}");
    }
}

#[test]
fn amnesic_storage_counts_where_all_answer_and_leads_only_if_nobody_whole_can() {
    let (sid, mut amnesic) = answer(1, &[(3, 12, 9, 1)]);
    amnesic.reply.shards[0].state = DataState::Amnesic;
    let mut asked = asked(&[1, 2]);
    asked.amnesia = true;
    let choice = asked.choose([(sid, amnesic.clone()), answer(2, &[(3, 10, 9, 1)])]).unwrap();
    assert_eq!((choice.leader, choice.targets[0].tail.last.gsn), (Sid(2), 12), "what it still holds is not given up");
    assert_eq!(asked.choose([(sid, amnesic)]).unwrap().leader, Sid(1));
}
