//! Real members over real connections on loopback, led through epochs by hand: what a controller orders, without
//! one. Replication, failover, truncation, learners and drains as a member carries them out.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::disk::RealDisk;
use crate::engine::{Appended, Engine, EngineOptions, Retention, TreeId, WriteBatch};
use crate::ident::{ClusterId, InstanceId, Sid};
use crate::net::peer::{Lane, PeerAuth, PeerSecret, control, dial, replication};
use crate::net::proto;
use crate::node::listener::{Port, Protocol};
use crate::node::member::{Leadership, Member, MemberConfig, Outcome, WriteRefused};
use crate::position::{LogPosition, LogTail};
use crate::topology::message::{
    AssembleRequest, Donor, Envelope, FenceReply, FenceRequest, FollowRequest, InitRequest, LastConfig, PromoteRequest,
    Refusal, Reply, Request, ShardTarget, Standing,
};

const CLUSTER: ClusterId = ClusterId(77);
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Node {
    member: Arc<Member>,
    pub(super) address: String,
    pub(super) port: Arc<Port>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

pub(super) struct Group {
    pub(super) temp: TempDir,
    auth: PeerAuth,
    pub(super) engine: EngineOptions,
    pub(super) nodes: Vec<Option<Node>>,
    epoch: u64,
}

impl Group {
    pub(super) async fn new(n: usize) -> Self {
        Self::with(n, PeerSecret::new("a-secret-of-the-tests").expect("sound").into()).await
    }

    pub(super) async fn with(n: usize, auth: PeerAuth) -> Self {
        Self::of(n, auth, Retention::default()).await
    }

    async fn of(n: usize, auth: PeerAuth, retention: Retention) -> Self {
        let engine = EngineOptions {
            segment_bytes: 1 << 20,
            zero_ahead_bytes: 256 << 10,
            retention,
            ..EngineOptions::default()
        };
        let mut group = Self {
            temp: tempfile::tempdir().expect("a directory"),
            auth,
            engine,
            nodes: (0..n).map(|_| None).collect(),
            epoch: 0,
        };
        for i in 0..n {
            group.start(i).await;
        }
        group
    }

    pub(super) async fn start(&mut self, i: usize) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let member = Member::open(MemberConfig {
            name: format!("kv-0-{i}"),
            cluster: "kv".into(),
            partition: 0,
            dir: self.temp.path().join(i.to_string()),
            shards: 1,
            client_address: format!("client-{i}:1"),
            peer_address: address.clone(),
            auth: self.auth.clone(),
            engine: self.engine.clone(),
            disk: Arc::new(RealDisk::new()),
        })
        .await
        .expect("opened");
        let served = Arc::clone(&member);
        let port = Port::new("peer", Protocol::Http2, 64, usize::MAX);
        let served_port = Arc::clone(&port);
        let serving = tokio::spawn(async move { served.serve_peer(listener, served_port).await });
        self.nodes[i] = Some(Node { member, address, port, serving });
    }

    pub(super) async fn stop(&mut self, i: usize) {
        let node = self.nodes[i].take().expect("runs");
        node.member.shutdown().await.expect("closed");
        node.serving.await.expect("no panic").expect("served");
    }

    pub(super) fn member(&self, i: usize) -> &Arc<Member> {
        &self.nodes[i].as_ref().expect("runs").member
    }

    fn sid(&self, i: usize) -> Sid {
        self.member(i).health().standing.sid
    }

    fn donor(&self, i: usize) -> Donor {
        let node = self.nodes[i].as_ref().expect("runs");
        Donor { sid: self.sid(i), name: format!("kv-0-{i}"), address: node.address.clone() }
    }

    fn envelope(&self, i: usize) -> Envelope {
        Envelope { cluster_id: CLUSTER, lineage: 0, to: self.sid(i) }
    }

    async fn ask(&self, i: usize, request: Request) -> Reply {
        let address = &self.nodes[i].as_ref().expect("runs").address;
        let channel = dial(address, &self.auth, Lane::Main, PATIENCE).await.expect("reached");
        let mut calls = control(channel);
        let reply = match request {
            Request::Init(r) => calls.init(proto::InitRequest::from(r)).await,
            Request::Fence(r) => calls.fence(proto::FenceRequest::from(r)).await,
            Request::Assemble(r) => calls.assemble(proto::AssembleRequest::from(r)).await,
            Request::Promote(r) => calls.promote(proto::PromoteRequest::from(r)).await,
            Request::Follow(r) => calls.follow(proto::FollowRequest::from(r)).await,
            Request::Recover(r) => calls.recover(proto::RecoverRequest::from(r)).await,
            Request::SetAside(r) => calls.set_aside(proto::SetAsideRequest::from(r)).await,
        };
        Reply::try_from(reply.expect("answered").into_inner()).expect("understood")
    }

    fn config(&self, voters: &[Sid]) -> LastConfig {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        let write_quorum = voters.len() as u32 / 2 + 1;
        LastConfig { epoch: self.epoch, voters, write_quorum, min_voters: 1 }
    }

    pub(super) async fn bootstrap(&mut self, leader: usize) -> Vec<Sid> {
        self.bootstrap_of(self.nodes.len(), leader).await
    }

    /// Of the first so many nodes: the others stay blank.
    async fn bootstrap_of(&mut self, nodes: usize, leader: usize) -> Vec<Sid> {
        let all: Vec<usize> = (0..nodes).collect();
        let voters: Vec<Sid> = all.iter().map(|&i| self.sid(i)).collect();
        self.epoch = 1;
        for &i in &all {
            let request = InitRequest { envelope: self.envelope(i), config: self.config(&voters) };
            let reply = self.ask(i, Request::Init(request)).await;
            assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
        }
        self.change(leader, &all, &voters, None).await;
        voters
    }

    async fn fence(&self, i: usize, drain: Option<Duration>) -> FenceReply {
        let request = FenceRequest { envelope: self.envelope(i), epoch: self.epoch, drain };
        match self.ask(i, Request::Fence(request)).await {
            Reply::Fenced(reply) => reply,
            reply => panic!("fence of {i}: {reply:?}"),
        }
    }

    pub(super) async fn follow(&self, i: usize, leader: usize, as_learner: bool) -> Reply {
        let request = FollowRequest {
            envelope: self.envelope(i),
            epoch: self.epoch,
            leader: self.donor(leader),
            leader_client_address: format!("client-{leader}:1"),
            as_learner,
        };
        self.ask(i, Request::Follow(request)).await
    }

    /// ASSEMBLE, asked again while a copy is under way.
    async fn assemble(&self, candidate: usize, tail: LogTail, donor: usize, copy: bool) -> Reply {
        loop {
            let target = ShardTarget { tail, donor: self.donor(donor), copy };
            let (envelope, epoch) = (self.envelope(candidate), self.epoch);
            let request = AssembleRequest { envelope, epoch, targets: vec![target] };
            match self.ask(candidate, Request::Assemble(request)).await {
                Reply::Refused(Refusal::Copying { .. }, _) => {}
                reply => return reply,
            }
        }
    }

    /// One epoch after the other: FENCE `reached`, ASSEMBLE and PROMOTE `candidate`, FOLLOW the rest.
    pub(super) async fn change(
        &mut self,
        candidate: usize,
        reached: &[usize],
        voters: &[Sid],
        drain: Option<Duration>,
    ) {
        self.epoch += 1;
        let mut best: Option<(LogTail, usize)> = None;
        let mut lease_wait = Duration::ZERO;
        let mut shard_time_ms = 0;
        for &i in reached {
            let reply = self.fence(i, drain).await;
            let tail = reply.shards[0].tail;
            if best.is_none_or(|(best, _)| best.last < tail.last) {
                best = Some((tail, i));
            }
            lease_wait = lease_wait.max(reply.lease_remaining);
            shard_time_ms = shard_time_ms.max(reply.shard_time_ms);
        }
        let (tail, donor) = best.expect("someone was fenced");
        let reply = self.assemble(candidate, tail, donor, true).await;
        assert!(matches!(reply, Reply::Assembled(_)), "{reply:?}");
        let request = PromoteRequest {
            envelope: self.envelope(candidate),
            config: self.config(voters),
            targets: vec![tail],
            lease_wait,
            shard_time_ms,
            members: reached.iter().map(|&i| self.donor(i)).collect(),
        };
        let reply = self.ask(candidate, Request::Promote(request)).await;
        assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
        for &i in reached.iter().filter(|&&i| i != candidate) {
            let reply = self.follow(i, candidate, false).await;
            assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
        }
    }

    pub(super) async fn serves(&self, i: usize) {
        let mut leadership = self.member(i).leadership();
        let serving = leadership.wait_for(|now| matches!(now, Leadership::Leading { serving: true, .. }));
        tokio::time::timeout(PATIENCE, serving).await.expect("in time").expect("runs");
    }

    fn append(&self, i: usize, key: &str, value: &str) -> LogPosition {
        match self.member(i).append(0, &WriteBatch::new().put(key.to_owned(), value.to_owned())) {
            Ok(Appended::Written { position, .. }) => position,
            other => panic!("{other:?}"),
        }
    }

    /// Appended and shown: what a client is acknowledged.
    pub(super) async fn put(&self, i: usize, key: &str, value: &str) -> LogPosition {
        let at = self.append(i, key, value);
        self.shows(i, at).await;
        assert_eq!(self.member(i).outcome(0, at), Outcome::Committed);
        at
    }

    pub(super) async fn shows(&self, i: usize, at: LogPosition) {
        let mut progress = self.member(i).progress(0);
        let shown = progress.wait_for(|progress| progress.applied >= at.gsn);
        tokio::time::timeout(PATIENCE, shown).await.expect("in time").expect("runs");
    }

    /// Its leader knows it as ready and in sync.
    async fn is_whole(&self, i: usize, leader: usize) {
        let (mut changes, sid) = (self.member(leader).health_changes(), self.sid(i));
        let whole = |_: &u64| self.member(leader).health().followers.iter().any(|f| f.sid == sid && f.in_sync);
        let whole = changes.wait_for(whole);
        tokio::time::timeout(PATIENCE, whole).await.expect("in time").expect("runs");
    }

    pub(super) fn get(&self, i: usize, key: &str) -> Option<String> {
        let value = self.member(i).engine().shards()[0].get(TreeId::DEFAULT, key.as_bytes(), 0).expect("readable");
        value.map(|value| String::from_utf8(value.bytes.to_vec()).expect("text"))
    }

    pub(super) async fn all_stop(mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].is_some() {
                self.stop(i).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_on_every_follower_and_survives_the_leader() {
    let mut group = Group::new(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let mut last = LogPosition::ZERO;
    for n in 0..50 {
        last = group.put(0, &format!("k{n}"), &format!("v{n}")).await;
    }
    for i in 1..3 {
        group.shows(i, last).await;
        assert_eq!(group.get(i, "k49").as_deref(), Some("v49"));
    }
    assert!(group.member(0).lease_valid());
    assert!(group.member(0).read_index().await.is_ok());
    group.stop(0).await;
    group.change(2, &[1, 2], &voters, None).await;
    group.serves(2).await;
    assert_eq!(group.get(2, "k0").as_deref(), Some("v0"));
    let at = group.put(2, "after", "failover").await;
    group.shows(1, at).await;
    assert!(matches!(
        group.member(1).append(0, &WriteBatch::new().put("x", "y")),
        Err(WriteRefused::NotLeader(hint)) if hint.leader.as_ref().is_some_and(|l| l.client_address == "client-2:1")
    ));
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_word_of_what_is_durable_counts_for_no_more_than_is() {
    let mut group = Group::new(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let at = group.put(0, "kept", "1").await;
    group.shows(1, at).await;
    let (member, own) = (group.member(0), voters[0]);
    let shard = &member.engine().shards()[0];
    // As a thread tells it that lost the processor before the log was cut and this member promoted.
    shard.shared.tell(|listener| listener.durable(0, at.gsn + 1000));
    let term = member.state.term().expect("it leads");
    assert_eq!(term.quorum.lock().held_by(own, 0), shard.durable_gsn());
    assert_eq!(term.quorum.lock().commit(0), at.gsn);
    group.put(0, "more", "2").await;
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_cuts_the_tail_nobody_acknowledged() {
    let mut group = Group::new(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let kept = group.put(0, "kept", "1").await;
    group.shows(1, kept).await;
    group.shows(2, kept).await;
    // Both followers promise an epoch that goes no further: nothing that the leader appends now can commit.
    group.epoch += 1;
    let promised = group.epoch;
    for i in [1, 2] {
        group.fence(i, None).await;
    }
    let lost = group.append(0, "lost", "2");
    assert_eq!(group.member(0).outcome(0, lost), Outcome::Unknown);
    group.epoch = promised;
    group.change(1, &[1, 2], &voters, None).await;
    group.serves(1).await;
    let at = group.put(1, "new", "3").await;
    let reply = group.follow(0, 1, false).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    group.shows(0, at).await;
    assert_eq!(group.member(0).outcome(0, lost), Outcome::DefinitelyNot);
    assert_eq!(group.get(0, "lost"), None);
    assert_eq!(group.get(0, "kept").as_deref(), Some("1"));
    assert_eq!(group.get(0, "new").as_deref(), Some("3"));
    assert_eq!(group.member(0).engine().shards()[0].tail(), group.member(1).engine().shards()[0].tail());
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_pulls_the_tail_it_lacks_from_the_donor() {
    let mut group = Group::new(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let at = group.put(0, "seen", "1").await;
    group.shows(2, at).await;
    group.stop(2).await;
    let at = group.put(0, "missed", "2").await;
    group.shows(1, at).await;
    group.stop(0).await;
    group.start(2).await;
    group.change(2, &[1, 2], &voters, None).await;
    group.serves(2).await;
    assert_eq!(group.get(2, "missed").as_deref(), Some("2"));
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blank_storage_joins_as_a_learner_and_becomes_whole_by_the_log() {
    let mut group = Group::new(4).await;
    group.bootstrap_of(3, 0).await;
    group.serves(0).await;
    let at = group.put(0, "a", "1").await;
    let reply = group.follow(3, 0, false).await;
    assert!(matches!(reply, Reply::Refused(Refusal::NotReady { .. }, _)), "it was not told to join: {reply:?}");
    let reply = group.follow(3, 0, true).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    group.shows(3, at).await;
    group.is_whole(3, 0).await;
    assert_eq!(group.get(3, "a").as_deref(), Some("1"));
    group.all_stop().await;
}

/// Members that hardly keep any log: who was away finds its beginning gone.
async fn forgetful(members: usize) -> Group {
    let retention = Retention { min_bytes: 0, min_age: Duration::ZERO, max_bytes: Some(1 << 20) };
    let secret = PeerSecret::new("a-secret-of-the-tests").expect("sound");
    Group::of(members, secret.into(), retention).await
}

/// Six megabytes, until old log goes at `donor`.
async fn write_much(group: &Group, leader: usize, donor: usize) -> LogPosition {
    let mut at = LogPosition::ZERO;
    for n in 0..60 {
        at = group.put(leader, &format!("k{n}"), &"x".repeat(100_000)).await;
    }
    group.shows(donor, at).await;
    let shard = group.member(donor).engine().shards()[0].clone();
    let floor_rises = async {
        while shard.log_segments().len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, floor_rises).await.expect("old log goes");
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_copies_what_is_no_longer_in_the_donors_log_beside_its_own_data() {
    let mut group = forgetful(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let at = group.put(0, "seen", "1").await;
    group.shows(2, at).await;
    group.stop(2).await;
    write_much(&group, 0, 1).await;
    let after = group.put(0, "missed", "2").await;
    group.shows(1, after).await;
    group.stop(0).await;
    group.start(2).await;
    group.epoch += 1;
    let (here, there) = (group.fence(2, None).await, group.fence(1, None).await);
    let reply = group.assemble(2, there.shards[0].tail, 1, false).await;
    assert!(matches!(reply, Reply::Refused(Refusal::BelowFloor { .. }, _)), "others may have log: {reply:?}");
    assert_eq!(group.fence(2, None).await.shards, here.shards, "nothing is lost by the attempt");
    assert_eq!(group.get(2, "seen").as_deref(), Some("1"));

    group.change(2, &[1, 2], &voters, None).await;
    group.serves(2).await;
    assert!(group.member(2).copied_bytes() > 0, "it came by a copy");
    assert_eq!(group.get(2, "missed").as_deref(), Some("2"));
    assert_eq!(group.get(2, "k7"), group.get(1, "k7"));
    let at = group.put(2, "after", "3").await;
    group.shows(1, at).await;
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_copy_goes_on_with_what_an_earlier_process_has_staged() {
    let mut group = forgetful(4).await;
    group.bootstrap_of(3, 0).await;
    group.serves(0).await;
    let at = write_much(&group, 0, 0).await;
    let donor = group.member(0).engine().shards()[0].clone();

    // A process that died in the middle of a copy.
    group.stop(3).await;
    let pin = donor.pin_snapshot().expect("pinned");
    let (total, mut staged) = (pin.manifest().total_bytes(), 0);
    {
        let dir = group.temp.path().join("3");
        let engine =
            Engine::open(Arc::new(RealDisk::new()), &dir, group.engine.clone(), InstanceId(5)).expect("opened");
        let mut copy = engine.shards()[0].begin_full_sync(pin.manifest(), donor.commit()).expect("begun");
        for file in pin.manifest().files.iter().take(3) {
            let bytes = pin.read(&file.name, 0, usize::MAX).expect("read");
            copy.write(&file.name, 0, &bytes).expect("staged");
            staged += bytes.len() as u64;
        }
    }
    assert!(staged > total / 3 && staged < total, "{staged} of {total} are staged");
    drop(pin);
    group.start(3).await;
    let reply = group.follow(3, 0, true).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    group.shows(3, at).await;
    group.is_whole(3, 0).await;
    assert_eq!(group.get(3, "k7"), group.get(0, "k7"));
    let copied = group.member(3).copied_bytes();
    assert!(copied > 0, "it came by a full copy");
    assert!(copied <= total - staged, "{copied} came of {total}, {staged} had been there");
    drop(donor);
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_leader_has_nothing_in_flight_and_gives_its_lease_up() {
    let mut group = Group::new(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    for n in 0..20 {
        group.append(0, &format!("k{n}"), "v");
    }
    group.epoch += 1;
    let reply = group.fence(0, Some(Duration::from_secs(5))).await;
    assert!(reply.drained);
    assert_eq!(reply.shards[0].commit, reply.shards[0].tail.last.gsn, "all that was appended is committed");
    assert!(!group.member(0).lease_valid());
    assert!(matches!(group.member(0).append(0, &WriteBatch::new().put("x", "y")), Err(WriteRefused::NotLeader(_))));
    group.change(1, &[0, 1, 2], &voters, None).await;
    group.serves(1).await;
    assert_eq!(group.get(1, "k19").as_deref(), Some("v"));
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_survives_a_restart_and_older_epochs_are_refused() {
    let mut group = Group::new(1).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    group.put(0, "a", "1").await;
    group.stop(0).await;
    group.start(0).await;
    assert!(group.member(0).append(0, &WriteBatch::new().put("x", "y")).is_err(), "a restarted leader leads nothing");
    let request = FenceRequest { envelope: group.envelope(0), epoch: group.epoch - 1, drain: None };
    let reply = group.ask(0, Request::Fence(request)).await;
    assert!(matches!(reply, Reply::Refused(Refusal::Promised { promised: 2, asked: 1 }, _)), "{reply:?}");
    group.change(0, &[0], &voters, None).await;
    group.serves(0).await;
    assert_eq!(group.get(0, "a").as_deref(), Some("1"));
    group.all_stop().await;
}

/// What the leader answers to a hello.
async fn greets(group: &Group, leader: usize, hello: proto::Hello) -> proto::HelloAnswer {
    let address = &group.nodes[leader].as_ref().expect("runs").address;
    let channel = dial(address, &group.auth, Lane::Main, PATIENCE).await.expect("reached");
    let hello = proto::FollowerMessage { message: Some(proto::follower_message::Message::Hello(hello)) };
    let mut answers = replication(channel).replicate(tokio_stream::iter([hello])).await.expect("heard").into_inner();
    match answers.message().await.expect("answered").and_then(|answer| answer.message) {
        Some(proto::leader_message::Message::Answer(answer)) => answer,
        other => panic!("no answer to the hello: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_of_another_cluster_lineage_epoch_or_storage_is_refused_and_counted_and_changes_nothing() {
    let mut group = Group::new(3).await;
    group.bootstrap(0).await;
    group.serves(0).await;
    let at = group.put(0, "a", "1").await;
    let standing = group.member(1).health().standing;
    let sound = proto::Hello {
        cluster_id: CLUSTER.to_bytes().to_vec().into(),
        lineage: 0,
        epoch: group.epoch,
        standing: Some(standing.clone().into()),
        name: "kv-0-1".into(),
        shards: Vec::new(),
        format_min: 1,
        format_max: 1,
        client_address: String::new(),
    };
    let of = |standing: Standing| proto::Hello { standing: Some(standing.into()), ..sound.clone() };
    let cases = [
        ("another cluster", proto::Hello { cluster_id: ClusterId(78).to_bytes().to_vec().into(), ..sound.clone() }),
        ("lineage 1", proto::Hello { lineage: 1, ..sound.clone() }),
        ("is over", proto::Hello { epoch: group.epoch - 1, ..sound.clone() }),
        ("own storage id", of(Standing { sid: group.sid(0), ..standing.clone() })),
        ("copied or restored", of(Standing { instance: InstanceId(5), ..standing.clone() })),
        ("0 shards", sound.clone()),
    ];
    let before = group.member(0).refused_peers();
    for (number, (why, hello)) in (before + 1..).zip(cases) {
        let answer = greets(&group, 0, hello).await;
        assert!(answer.refused.contains(why), "{why}: {}", answer.refused);
        assert_eq!(group.member(0).refused_peers(), number, "{why}");
    }
    let fence = FenceRequest { envelope: group.envelope(0), epoch: group.epoch - 1, drain: None };
    assert!(matches!(group.ask(0, Request::Fence(fence)).await, Reply::Refused(..)));
    assert_eq!(group.member(0).refused_peers(), before + 7, "an obsolete order counts too");
    group.shows(1, at).await;
    group.put(0, "b", "2").await;
    group.all_stop().await;
}
