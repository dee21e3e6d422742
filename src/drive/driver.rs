//! Drives one partition: hands observations to topology's controller and carries out what it decides.
//!
//! ```text
//! health streams --Report/Disconnected--> events --> Controller::step --> Send ------> members (control calls)
//! register <-------ReadRegister/CompareAndSwap--------------'  ^          Tell ------> humans
//!     '--------RegisterRead/CasDone----------------------------'
//! ```
//! Invariants: events are taken one at a time, in the order in which they came; nothing is waited for between an
//! event and its actions (the register and calls have tasks of their own and come back as events); the controller
//! is called again no later than it asked to be. Decides nothing itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::failpoint::{Failpoints, Place, Step};
use super::peer::Peer;
use super::status::PartitionPicture;
use crate::net::peer::PeerAuth;
use crate::topology::controller::{Action, ControlRequest, Controller, ControllerConfig, Event};
use crate::topology::message::MemberName;
use crate::topology::notice::Notice;
use crate::topology::register::{CasOutcome, ReadOutcome, Register, Version};
use crate::topology::spec::{ExpectedMember, PartitionSpec};
use crate::topology::view::PartitionView;

/// Events that may wait. Reports come ten times a second and member, so this is never reached while the driver
/// runs; senders wait when it is.
const QUEUE_EVENTS: usize = 1024;

/// A register that is reached by waiting for it: a file on a disk, an object behind an API server.
#[tonic::async_trait]
pub trait AsyncRegister: Send + Sync {
    /// A linearizable read.
    async fn read(&self) -> ReadOutcome;
    /// Writes `register` if the present version is `expected` (None: if there is none).
    async fn compare_and_swap(&self, expected: Option<&Version>, register: &Register) -> CasOutcome;
}

/// A member that shall exist, and what is known of it from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Who, and where. An empty peer address: not known where, nothing is dialled.
    pub expected: ExpectedMember,
    /// Whoever runs it is taking it away, whether or not it knows.
    pub leaving: bool,
}

/// What a driver starts with.
pub struct Setup {
    /// The partition's number.
    pub partition: u32,
    /// For its controller; its members are the first ones reached.
    pub config: ControllerConfig,
    /// Where the register is.
    pub register: Arc<dyn AsyncRegister>,
    /// How the peer port's two ends know each other.
    pub auth: PeerAuth,
    /// Told every notice, on the driver's task: it must not wait.
    pub tell: Box<dyn Fn(Notice) + Send + Sync>,
}

/// A partition's controller at work. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

struct Inner {
    partition: u32,
    controller: Mutex<Controller>,
    started: Instant,
    events: mpsc::Sender<Event>,
    /// Counts steps, so that waiters look again after each.
    steps: watch::Sender<u64>,
    peers: Mutex<BTreeMap<MemberName, Watched>>,
    register: Arc<dyn AsyncRegister>,
    auth: PeerAuth,
    tell: Box<dyn Fn(Notice) + Send + Sync>,
    failpoints: Failpoints,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A member whose health stream is read.
struct Watched {
    peer: Peer,
    /// Ends the reading.
    stop: CancellationToken,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("partition", &self.inner.partition).finish_non_exhaustive()
    }
}

impl Driver {
    /// Starts the driver's tasks in `tasks`; they end with `stop`.
    pub fn start(setup: Setup, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let (events, receiver) = mpsc::channel(QUEUE_EVENTS);
        let (steps, _) = watch::channel(0);
        let members = setup.config.members.clone();
        let inner = Arc::new(Inner {
            partition: setup.partition,
            controller: Mutex::new(Controller::new(setup.config)),
            started: Instant::now(),
            events,
            steps,
            peers: Mutex::default(),
            register: setup.register,
            auth: setup.auth,
            tell: setup.tell,
            failpoints: Failpoints::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let driver = Self { inner };
        driver.reach(members.into_iter().map(|expected| Reach { expected, leaving: false }));
        tasks.spawn(run(Arc::clone(&driver.inner), receiver));
        driver
    }

    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.inner.partition
    }

    /// The picture now.
    pub fn view(&self) -> PartitionView {
        self.inner.controller.lock().view(self.inner.started.elapsed())
    }

    /// The picture now, with its clock tied to the wall's.
    pub fn picture(&self, now: Timestamp) -> PartitionPicture {
        let age = SignedDuration::try_from(self.inner.started.elapsed()).unwrap_or(SignedDuration::ZERO);
        PartitionPicture { id: self.inner.partition, view: self.view(), clock_zero: now - age }
    }

    /// Wakes after every step.
    pub fn steps(&self) -> watch::Receiver<u64> {
        self.inner.steps.subscribe()
    }

    /// Hands a wish to the controller.
    pub async fn request(&self, request: ControlRequest) {
        // Closed only while the driver stops: nobody is left to grant wishes.
        let _ = self.inner.events.send(Event::Request(request)).await;
    }

    /// The owner changed the wanted shape, or members are elsewhere now.
    pub async fn change(&self, spec: PartitionSpec, members: Vec<Reach>) {
        let expected = members.iter().map(|member| member.expected.clone()).collect();
        self.reach(members);
        let _ = self.inner.events.send(Event::SpecChanged { spec: Box::new(spec), members: expected }).await;
    }

    /// It proposes 500 ms x rank after the first might have.
    pub async fn set_rank(&self, rank: u32) {
        self.inner.controller.lock().set_rank(rank);
        let _ = self.inner.events.send(Event::Tick).await;
    }

    /// Where a test may end or hold it.
    pub fn failpoints(&self) -> &Failpoints {
        &self.inner.failpoints
    }

    /// Dials those that are new or elsewhere now, forgets those that are gone.
    fn reach(&self, members: impl IntoIterator<Item = Reach>) {
        let mut peers = self.inner.peers.lock();
        let mut before = std::mem::take(&mut *peers);
        for member in members {
            let (name, address) = (member.expected.name, member.expected.peer_address);
            if address.is_empty() {
                continue;
            }
            let watched = match before.remove(&name) {
                Some(kept) if kept.peer.address() == address => kept,
                other => {
                    if let Some(elsewhere) = other {
                        elsewhere.stop.cancel();
                    }
                    let peer = Peer::new(name.clone(), address, self.inner.auth.clone());
                    let stop = self.inner.stop.child_token();
                    self.inner.tasks.spawn(peer.clone().watch(self.inner.events.clone(), stop.clone()));
                    Watched { peer, stop }
                }
            };
            watched.peer.set_leaving(member.leaving);
            peers.insert(name, watched);
        }
        for gone in before.into_values() {
            gone.stop.cancel();
        }
    }
}

async fn run(inner: Arc<Inner>, mut events: mpsc::Receiver<Event>) {
    step(&inner, Event::Tick);
    loop {
        let deadline = inner.controller.lock().next_deadline();
        let tick = async {
            match deadline {
                Some(at) => tokio::time::sleep_until((inner.started + at).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            event = events.recv() => match event {
                Some(event) => step(&inner, event),
                None => return,
            },
            () = tick => step(&inner, Event::Tick),
        }
    }
}

fn step(inner: &Arc<Inner>, event: Event) {
    let (actions, changing) = {
        let mut controller = inner.controller.lock();
        let actions = controller.step(inner.started.elapsed(), event);
        (actions, controller.changing())
    };
    for action in actions {
        act(inner, action, changing);
    }
    inner.steps.send_modify(|steps| *steps += 1);
}

fn act(inner: &Arc<Inner>, action: Action, changing: bool) {
    let step = Step::of(&action, changing);
    match action {
        Action::ReadRegister => answer(inner, step, move |inner| async move {
            let outcome = inner.register.read().await;
            Event::RegisterRead(outcome)
        }),
        Action::CompareAndSwap { expected, register } => answer(inner, step, move |inner| async move {
            let outcome = inner.register.compare_and_swap(expected.as_ref(), &register).await;
            Event::CasDone(outcome)
        }),
        Action::Send { request_id, member, timeout, request } => answer(inner, step, move |inner| async move {
            let peer = inner.peers.lock().get(&member).map(|watched| watched.peer.clone());
            let result = match peer {
                Some(peer) => peer.send(*request, timeout).await,
                None => Err(format!("it is not known where {member} is")),
            };
            Event::Reply { request_id, member, result }
        }),
        Action::Tell(notice) => (inner.tell)(notice),
    }
}

/// Does what takes time beside the driver, and hands its outcome back as an event.
fn answer<F>(inner: &Arc<Inner>, step: Option<Step>, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static)
where
    F: Future<Output = Event> + Send + 'static,
{
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        if let Some(step) = step {
            inner.failpoints.pass(Place::Before(step)).await;
        }
        let outcome = work(Arc::clone(&inner)).await;
        if let Some(step) = step {
            inner.failpoints.pass(Place::After(step)).await;
        }
        // Closed only while the driver stops: nobody waits for the answer.
        let _ = inner.events.send(outcome).await;
    });
}
