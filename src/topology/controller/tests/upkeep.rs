//! FOLLOW for whoever needs it.

use std::time::Duration;

use crate::ident::{ClusterId, InstanceId, Sid};
use crate::position::{LogPosition, LogTail};
use crate::topology::controller::{Action, Controller, ControllerConfig, Event};
use crate::topology::message::{
    DataState, DiskRoom, FollowRequest, FollowerReport, HealthReport, InitState, Reply, Request, Role, ShardReport,
    Standing, StandingReply,
};
use crate::topology::register::{FORMAT_VERSION, MemberAddress, Phase, ReadOutcome, Register, Version};
use crate::topology::spec::{ExpectedMember, PartitionSpec};

const EPOCH: u64 = 3;

pub(super) fn name(sid: u128) -> String {
    format!("kv-0-{}", sid - 1)
}

fn member(sid: u128, address: &str) -> ExpectedMember {
    ExpectedMember {
        name: name(sid),
        ordinal: u32::try_from(sid - 1).unwrap(),
        peer_address: address.into(),
        client_address: address.into(),
    }
}

/// Storage 1 leads, all three vote.
fn register() -> Register {
    let sids = [1, 2, 3].map(Sid);
    Register {
        format_version: FORMAT_VERSION,
        cluster_id: ClusterId(7),
        lineage: 0,
        epoch: EPOCH,
        phase: Phase::Leading,
        attempt: None,
        leader: Some(Sid(1)),
        last_leading: None,
        voters: sids.to_vec(),
        write_quorum: 2,
        min_voters: 2,
        learners: Vec::new(),
        members: sids
            .iter()
            .map(|sid| (*sid, MemberAddress { name: name(sid.0), ..MemberAddress::default() }))
            .collect(),
        initialized: true,
        format_level: 1,
        slot_table_version: 1,
        shard_time_ms: 0,
        last_request: None,
        unknown: Default::default(),
    }
}

pub(super) fn report(sid: u128, connected: &[u128]) -> HealthReport {
    let leads = sid == 1;
    let follower = |of: &u128| FollowerReport {
        sid: Sid(*of),
        connected: true,
        in_sync: true,
        lag_entries: 0,
        lag_bytes: 0,
        lag_ms: 0,
        durable: vec![9],
        clock_skew_ms: 0,
    };
    HealthReport {
        standing: Standing {
            cluster_id: Some(ClusterId(7)),
            lineage: 0,
            sid: Sid(sid),
            open_count: 1,
            instance: InstanceId(sid),
            init: InitState::Done,
            promised: EPOCH,
            led: if leads { EPOCH } else { 0 },
            live_led: if leads { EPOCH } else { 0 },
            last_config: None,
        },
        role: if leads { Role::Leader } else { Role::Follower },
        leader: (!leads).then_some(Sid(1)),
        shards: vec![ShardReport {
            state: DataState::Ready,
            tail: LogTail { last: LogPosition::new(EPOCH, 9), chain: 1 },
            commit: 9,
            durable: 9,
            log_floor: 0,
            known_commit: 0,
            tombstone_floor: 0,
        }],
        leader_silence: (!leads).then_some(Duration::ZERO),
        leader_gone: false,
        cannot_commit: Duration::ZERO,
        followers: connected.iter().map(follower).collect(),
        draining: false,
        sync_stall: Duration::ZERO,
        disk_full: false,
        disk: DiskRoom::default(),
        caught_up: true,
        serving: leads,
        trouble: String::new(),
        clock_skew_ms: 0,
        leader_stall: Duration::ZERO,
    }
}

pub(super) struct Given {
    pub(super) controller: Controller,
    pub(super) now: Duration,
}

impl Given {
    pub(super) fn new() -> Self {
        let controller = Controller::new(ControllerConfig {
            name: "a".into(),
            rank: 0,
            cluster_id: ClusterId(7),
            members: vec![member(1, "new:1"), member(2, "b:1"), member(3, "c:1")],
            spec: PartitionSpec::new(3),
            seed: 1,
        });
        let mut given = Self { controller, now: Duration::ZERO };
        given.step(Event::Tick);
        given
    }

    /// Who is told to follow whom and where; answered at once.
    pub(super) fn step(&mut self, event: Event) -> Vec<(String, String)> {
        let mut told = Vec::new();
        let actions = self.controller.step(self.now, event);
        for action in actions {
            if let Action::ReadRegister = action {
                let found = ReadOutcome::Found(Box::new(register()), Version("1".into()));
                told.extend(self.step(Event::RegisterRead(found)));
                continue;
            }
            if let Action::Send { request_id, member, request, .. } = action
                && let Request::Follow(FollowRequest { leader, .. }) = *request
            {
                let sid = if member == name(2) { 2 } else { 3 };
                let standing = report(sid, &[]).standing;
                let reply = Box::new(Reply::Done(StandingReply { standing }));
                told.push((member.clone(), leader.address));
                told.extend(self.step(Event::Reply { request_id, member, result: Ok(reply) }));
            }
        }
        told
    }

    /// A hundred milliseconds at a time, everybody reports; the leader has a stream of these.
    pub(super) fn pass(&mut self, time: Duration, connected: &[u128]) -> Vec<(String, String)> {
        self.pass_with(time, |sid| report(sid, connected))
    }

    /// As [`Self::pass`], each with this report.
    pub(super) fn pass_with(&mut self, time: Duration, report: impl Fn(u128) -> HealthReport) -> Vec<(String, String)> {
        let mut told = Vec::new();
        let until = self.now + time;
        while self.now < until {
            for sid in [1, 2, 3] {
                let report = Box::new(report(sid));
                told.extend(self.step(Event::Report { member: name(sid), report }));
            }
            self.now += Duration::from_millis(100);
        }
        told
    }
}

#[test]
fn a_follower_that_the_leader_has_no_stream_of_is_told_again_where_the_leader_is() {
    let mut given = Given::new();
    let told = given.pass(Duration::from_secs(3), &[3]);
    assert!(!told.is_empty() && told.len() < 5, "now and then: {told:?}");
    assert!(told.iter().all(|told| *told == (name(2), "new:1".to_owned())), "{told:?}");
    assert_eq!(given.pass(Duration::from_secs(3), &[2, 3]), [], "it has found its way");
    assert_eq!(given.pass(Duration::from_millis(500), &[3]), [], "a stream that broke is opened again by itself");
}
