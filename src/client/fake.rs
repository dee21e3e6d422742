//! A cluster in this process for the tests of the client: real gRPC on loopback, a map for a database, and faults
//! that a test asks for by name. It keeps no promise but one: what it acknowledges is in the map.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::net::proto::kv_server::{Kv, KvServer};
use crate::net::proto::{self, condition::Expect, error_detail::Kind, op, op_result, stream_op};

/// Values that fit into one answer.
pub(crate) const ANSWER_BYTES: usize = 4096;

/// What happens to the next write instead of the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// "No quorum", not done.
    NoQuorum,
    /// "Overloaded", not done.
    Overloaded,
    /// "Unavailable", not done.
    Unavailable,
    /// "Indeterminate", and done all the same.
    IndeterminateDone,
    /// The connection ends; done.
    DropAfter,
    /// The connection ends; not done.
    DropBefore,
    /// No answer, ever; not done.
    Hang,
}

#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) map: BTreeMap<Bytes, (Bytes, proto::Position)>,
    pub(crate) log: Vec<proto::WatchEvent>,
    pub(crate) leader: Option<usize>,
    pub(crate) epoch: u64,
    pub(crate) faults: VecDeque<Fault>,
    /// Writes that were done, in order, as (key, value).
    pub(crate) done: Vec<(Bytes, Bytes)>,
    /// Operations in each message of a stream.
    pub(crate) messages: Vec<usize>,
    /// Members that answer nothing.
    pub(crate) frozen: Vec<bool>,
    addresses: Vec<String>,
    trees: Vec<String>,
}

/// Some members over one map.
pub(crate) struct FakeCluster {
    pub(crate) data: Arc<Mutex<Data>>,
    pub(crate) addresses: Vec<String>,
    /// Bumped to end every stream of a member.
    cut: Vec<watch::Sender<u64>>,
    changed: watch::Sender<u64>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.servers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl FakeCluster {
    /// `members` members, of which `leader` leads epoch 1.
    pub(crate) async fn start(members: usize, leader: Option<usize>) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..members {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        }
        let addresses: Vec<String> =
            listeners.iter().map(|l| l.local_addr().expect("an address").to_string()).collect();
        let data = Arc::new(Mutex::new(Data {
            map: BTreeMap::new(),
            log: Vec::new(),
            leader,
            epoch: 1,
            faults: VecDeque::new(),
            done: Vec::new(),
            messages: Vec::new(),
            frozen: vec![false; members],
            addresses: addresses.clone(),
            trees: vec!["default".into()],
        }));
        let changed = watch::Sender::new(0);
        let mut cut = Vec::new();
        let mut servers = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let sender = watch::Sender::new(0);
            let member = FakeMember { index, data: Arc::clone(&data), cut: sender.clone(), changed: changed.clone() };
            cut.push(sender);
            servers.push(tokio::spawn(async move {
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let _ = tonic::transport::Server::builder()
                    .add_service(KvServer::new(member))
                    .serve_with_incoming(incoming)
                    .await;
            }));
        }
        Self { data, addresses, cut, changed, servers }
    }

    /// `leader` leads from now on, in a new epoch; the streams of the old one end if `cut`.
    pub(crate) fn fail_over(&self, leader: usize, cut: bool) {
        let old = {
            let mut data = self.data.lock();
            data.epoch += 1;
            data.leader.replace(leader)
        };
        if let (Some(old), true) = (old, cut) {
            self.cut_streams(old);
        }
    }

    /// Ends every stream of a member.
    pub(crate) fn cut_streams(&self, member: usize) {
        self.cut[member].send_modify(|count| *count += 1);
    }

    pub(crate) fn next_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.data.lock().faults.extend(faults);
    }

    /// Writes as another client would.
    pub(crate) fn put(&self, key: &str, value: &str) {
        self.data.lock().put(Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn done(&self) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        self.data.lock().done.iter().map(|(k, v)| (text(k), text(v))).collect()
    }
}

impl Data {
    fn position(&self) -> proto::Position {
        proto::Position { partition: 0, shard: 0, lineage: 0, epoch: self.epoch, gsn: self.log.len() as u64 }
    }

    fn token(&self) -> proto::Token {
        proto::Token { positions: vec![self.position()] }
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.done.push((key.clone(), value.clone()));
        self.log.push(proto::WatchEvent::default());
        let version = self.position();
        let event = proto::WatchEvent {
            key: key.clone(),
            value: Some(proto::Value { value: value.clone(), version: Some(version), ..Default::default() }),
            version: Some(version),
        };
        *self.log.last_mut().expect("just pushed") = event;
        self.map.insert(key, (value, version));
    }

    fn delete(&mut self, key: Bytes) {
        self.log.push(proto::WatchEvent::default());
        let version = self.position();
        *self.log.last_mut().expect("just pushed") =
            proto::WatchEvent { key: key.clone(), value: None, version: Some(version) };
        self.map.remove(&key);
    }

    fn get(&self, key: &Bytes) -> Option<proto::Value> {
        let (value, version) = self.map.get(key)?;
        Some(proto::Value { value: value.clone(), version: Some(*version), ..Default::default() })
    }

    fn not_leader(&self) -> proto::NotLeader {
        let leader = self.leader.map_or(String::new(), |leader| self.addresses[leader].clone());
        let member = self.leader.map_or(String::new(), |leader| format!("m-{leader}"));
        proto::NotLeader { member, address: leader, epoch: self.epoch, ..Default::default() }
    }

    fn write(&mut self, request: proto::WriteRequest) -> op_result::Result {
        for (index, condition) in request.conditions.iter().enumerate() {
            let found = self.map.get(&condition.key).map(|(_, version)| *version);
            let holds = match condition.expect {
                Some(Expect::Absent(_)) => found.is_none(),
                Some(Expect::Present(_)) => found.is_some(),
                Some(Expect::Version(version)) => found == Some(version),
                None => true,
            };
            if !holds {
                return op_result::Result::Write(proto::WriteResponse {
                    applied: false,
                    failed_condition: index as u32,
                    ..Default::default()
                });
            }
        }
        let mut versions = Vec::new();
        for op in request.ops {
            match op.op {
                Some(op::Op::Put(put)) => self.put(put.key, put.value),
                Some(op::Op::Delete(delete)) => self.delete(delete.key),
                None => {}
            }
            versions.push(self.position());
        }
        let token = Some(self.token());
        op_result::Result::Write(proto::WriteResponse { applied: true, failed_condition: 0, token, versions })
    }

    fn scan(&self, request: &proto::ScanRequest) -> proto::ScanResponse {
        let mut entries: Vec<_> = self.map.iter().filter(|(key, _)| key.starts_with(&request.prefix)).collect();
        if request.reverse {
            entries.reverse();
        }
        if !request.after.is_empty() {
            entries.retain(|(key, _)| if request.reverse { **key < request.after } else { **key > request.after });
        }
        let more = entries.len() > request.limit as usize;
        entries.truncate(request.limit as usize);
        let entries = entries
            .into_iter()
            .map(|(key, (value, version))| proto::Entry {
                key: key.clone(),
                value: Some(proto::Value {
                    value: if request.keys_only { Bytes::new() } else { value.clone() },
                    version: Some(*version),
                    ..Default::default()
                }),
            })
            .collect();
        proto::ScanResponse { entries, more, token: Some(self.token()) }
    }
}

fn failure(kind: Kind, message: &str) -> op_result::Result {
    op_result::Result::Error(proto::ErrorDetail { message: message.into(), kind: Some(kind) })
}

struct FakeMember {
    index: usize,
    data: Arc<Mutex<Data>>,
    cut: watch::Sender<u64>,
    changed: watch::Sender<u64>,
}

impl FakeMember {
    /// An answer; None = none, ever; Err = the connection ends.
    fn answer(&self, op: stream_op::Op) -> Result<Option<op_result::Result>, Status> {
        let mut data = self.data.lock();
        if data.frozen[self.index] {
            return Ok(None);
        }
        let any_member = |read: &Option<proto::ReadOptions>| read.as_ref().is_some_and(|read| read.level >= 2);
        let local = match &op {
            stream_op::Op::Get(get) => any_member(&get.read),
            stream_op::Op::MultiGet(get) => any_member(&get.read),
            stream_op::Op::Scan(scan) => any_member(&scan.read),
            stream_op::Op::Write(_) => false,
        };
        if data.leader != Some(self.index) && !local {
            return Ok(Some(failure(Kind::NotLeader(data.not_leader()), "not the leader")));
        }
        Ok(Some(match op {
            stream_op::Op::Get(get) => op_result::Result::Get(proto::GetResponse { value: data.get(&get.key) }),
            stream_op::Op::MultiGet(get) => {
                let values: Vec<_> =
                    get.keys.iter().map(|key| proto::multi_get_response::Found { value: data.get(key) }).collect();
                let bytes: usize = values.iter().filter_map(|found| Some(found.value.as_ref()?.value.len())).sum();
                if bytes > ANSWER_BYTES {
                    let limit = proto::TooLarge { what: "answer".into(), limit_bytes: ANSWER_BYTES as u64 };
                    failure(Kind::TooLarge(limit), "ask for fewer keys")
                } else {
                    op_result::Result::MultiGet(proto::MultiGetResponse { values })
                }
            }
            stream_op::Op::Scan(scan) => op_result::Result::Scan(data.scan(&scan)),
            stream_op::Op::Write(write) => match data.faults.pop_front() {
                None => {
                    let answer = data.write(write);
                    self.changed.send_modify(|count| *count += 1);
                    answer
                }
                Some(Fault::NoQuorum) => failure(Kind::NoQuorum(proto::NoQuorum {}), "no quorum"),
                Some(Fault::Overloaded) => failure(Kind::Overloaded(proto::Overloaded {}), "overloaded"),
                Some(Fault::Unavailable) => failure(Kind::Unavailable(proto::Unavailable {}), "stopping"),
                Some(Fault::IndeterminateDone) => {
                    data.write(write);
                    let token = Some(data.token());
                    failure(Kind::Indeterminate(proto::Indeterminate { token }), "lost the lead")
                }
                Some(Fault::DropAfter) => {
                    data.write(write);
                    return Err(Status::unavailable("cut"));
                }
                Some(Fault::DropBefore) => return Err(Status::unavailable("cut")),
                Some(Fault::Hang) => return Ok(None),
            },
        }))
    }

    async fn thaw(&self) {
        if self.data.lock().frozen[self.index] {
            std::future::pending::<()>().await;
        }
    }

    fn refuse(&self) -> Status {
        let data = self.data.lock();
        let detail =
            proto::ErrorDetail { message: "not the leader".into(), kind: Some(Kind::NotLeader(data.not_leader())) };
        let mut status = Status::failed_precondition("not the leader");
        status.metadata_mut().insert_bin(
            "armdb-error-bin",
            tonic::metadata::MetadataValue::from_bytes(&prost::Message::encode_to_vec(&detail)),
        );
        status
    }
}

type Boxed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for FakeMember {
    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("use the stream"))
    }
    async fn multi_get(&self, _: Request<proto::MultiGetRequest>) -> Result<Response<proto::MultiGetResponse>, Status> {
        Err(Status::unimplemented("use the stream"))
    }
    async fn write(&self, _: Request<proto::WriteRequest>) -> Result<Response<proto::WriteResponse>, Status> {
        Err(Status::unimplemented("use the stream"))
    }
    async fn scan(&self, _: Request<proto::ScanRequest>) -> Result<Response<proto::ScanResponse>, Status> {
        Err(Status::unimplemented("use the stream"))
    }

    type WatchStream = Boxed<proto::WatchResponse>;
    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.thaw().await;
        if self.data.lock().leader != Some(self.index) {
            return Err(self.refuse());
        }
        let request = request.into_inner();
        let after = request.after.map(|token| token.positions[0].gsn as usize);
        let mut next = after.unwrap_or_else(|| self.data.lock().log.len());
        let (sender, receiver) = mpsc::channel(16);
        let (mut changed, mut cut) = (self.changed.subscribe(), self.cut.subscribe());
        cut.borrow_and_update();
        let data = Arc::clone(&self.data);
        tokio::spawn(async move {
            loop {
                changed.borrow_and_update();
                let response = {
                    let data = data.lock();
                    let events: Vec<_> =
                        data.log[next..].iter().filter(|e| e.key.starts_with(&request.prefix)).cloned().collect();
                    next = data.log.len();
                    proto::WatchResponse { events, progress: Some(data.token()) }
                };
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
                tokio::select! {
                    result = changed.changed() => if result.is_err() { return },
                    _ = cut.changed() => {
                        let _ = sender.send(Err(Status::unavailable("cut"))).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn create_tree(
        &self,
        request: Request<proto::CreateTreeRequest>,
    ) -> Result<Response<proto::CreateTreeResponse>, Status> {
        if self.data.lock().leader != Some(self.index) {
            return Err(self.refuse());
        }
        let name = request.into_inner().name;
        let mut data = self.data.lock();
        let created = !data.trees.contains(&name);
        if created {
            data.trees.push(name);
        }
        Ok(Response::new(proto::CreateTreeResponse { created }))
    }

    async fn list_trees(
        &self,
        _: Request<proto::ListTreesRequest>,
    ) -> Result<Response<proto::ListTreesResponse>, Status> {
        let trees = self.data.lock().trees.clone();
        let trees = trees.into_iter().map(|name| proto::list_trees_response::Tree { name, hash: false }).collect();
        Ok(Response::new(proto::ListTreesResponse { trees }))
    }

    type StreamStream = Boxed<proto::StreamResponse>;
    async fn stream(
        &self,
        request: Request<Streaming<proto::StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.thaw().await;
        let mut inbound = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let mut cut = self.cut.subscribe();
        cut.borrow_and_update();
        let member = FakeMember {
            index: self.index,
            data: self.data.clone(),
            cut: self.cut.clone(),
            changed: self.changed.clone(),
        };
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = inbound.message() => message,
                    _ = cut.changed() => Err(Status::unavailable("cut")),
                };
                let request = match message {
                    Ok(Some(request)) => request,
                    Ok(None) => return,
                    Err(status) => {
                        let _ = sender.send(Err(status)).await;
                        return;
                    }
                };
                member.data.lock().messages.push(request.ops.len());
                let mut results = Vec::new();
                for op in request.ops {
                    match member.answer(op.op.expect("an operation")) {
                        Ok(Some(result)) => results.push(proto::OpResult { id: op.id, result: Some(result) }),
                        Ok(None) => {}
                        Err(status) => {
                            let _ = sender.send(Err(status)).await;
                            return;
                        }
                    }
                }
                // The last first, one message each: answers may come in any order.
                for result in results.into_iter().rev() {
                    let _ = sender.send(Ok(proto::StreamResponse { results: vec![result] })).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        self.thaw().await;
        let data = self.data.lock();
        let leading = data.leader == Some(self.index);
        let members = data.addresses.iter().enumerate().filter(|(index, _)| leading || *index == self.index);
        Ok(Response::new(proto::DescribeResponse {
            cluster: "fake".into(),
            cluster_id: "00000000000000000000000000000001".into(),
            member: format!("m-{}", self.index),
            epoch: data.epoch,
            leader: Some(data.not_leader()),
            leading,
            members: members
                .map(|(index, address)| proto::MemberInfo {
                    name: format!("m-{index}"),
                    client_address: address.clone(),
                    ..Default::default()
                })
                .collect(),
            commit: Some(data.token()),
            ..Default::default()
        }))
    }
}
