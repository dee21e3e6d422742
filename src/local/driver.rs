//! Drives one partition: hands observations to topology's controller and carries out what it decides.
//!
//! ```text
//! health streams --Report/Disconnected--> events --> Controller::step --> Send ------> members (control calls)
//! register file <--ReadRegister/CompareAndSwap--------------'  ^          Tell ------> humans
//!        '--------RegisterRead/CasDone-----------------------------'
//! ```
//! Invariants: events are taken one at a time, in the order in which they came; nothing is waited for between an
//! event and its actions (files and calls have tasks of their own and come back as events); the controller is
//! called again no later than it asked to be. Decides nothing itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::output::{Level, Output};
use super::peer::Peers;
use super::register_file::RegisterFile;
use crate::topology::controller::{Action, ControlRequest, Controller, ControllerConfig, Event};
use crate::topology::notice::Severity;
use crate::topology::register::{CasOutcome, ReadOutcome, RegisterStore as _};
use crate::topology::view::PartitionView;

/// Events that may wait. Reports come ten times a second and member, so this is never reached while the driver
/// runs; senders wait when it is.
const QUEUE_EVENTS: usize = 1024;
/// How often the register file is looked at for changes by others.
const REGISTER_LOOK: Duration = Duration::from_millis(250);

/// A partition's controller at work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    partition: u32,
    controller: Mutex<Controller>,
    started: Instant,
    events: mpsc::Sender<Event>,
    /// Counts steps, so that waiters look again after each.
    steps: watch::Sender<u64>,
    peers: Peers,
    register: RegisterFile,
    output: Output,
}

impl Driver {
    /// Starts the driver's tasks in `tasks`; they end with `stop`.
    pub fn start(
        partition: u32,
        config: ControllerConfig,
        peers: Peers,
        register: RegisterFile,
        output: Output,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (events, receiver) = mpsc::channel(QUEUE_EVENTS);
        let (steps, _) = watch::channel(0);
        for peer in peers.values() {
            tasks.spawn(peer.clone().watch(events.clone(), stop.clone()));
        }
        let inner = Arc::new(Inner {
            partition,
            controller: Mutex::new(Controller::new(config)),
            started: Instant::now(),
            events,
            steps,
            peers,
            register,
            output,
        });
        tasks.spawn(run(Arc::clone(&inner), receiver, stop.clone()));
        tasks.spawn(look_at_register(Arc::clone(&inner), stop.clone()));
        Self { inner }
    }

    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.inner.partition
    }

    /// The picture now.
    pub fn view(&self) -> PartitionView {
        self.inner.controller.lock().view(self.inner.started.elapsed())
    }

    /// Wakes after every step.
    pub fn steps(&self) -> watch::Receiver<u64> {
        self.inner.steps.subscribe()
    }

    /// The age of the controller's clock zero: transitions are told relative to it.
    pub fn started(&self) -> Instant {
        self.inner.started
    }

    /// Hands a wish to the controller.
    pub async fn request(&self, request: ControlRequest) {
        // Closed only while the supervisor stops: nobody is left to grant wishes.
        let _ = self.inner.events.send(Event::Request(request)).await;
    }
}

async fn run(inner: Arc<Inner>, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
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
            () = stop.cancelled() => return,
            event = events.recv() => match event {
                Some(event) => step(&inner, event),
                None => return,
            },
            () = tick => step(&inner, Event::Tick),
        }
    }
}

fn step(inner: &Arc<Inner>, event: Event) {
    let actions = inner.controller.lock().step(inner.started.elapsed(), event);
    for action in actions {
        act(inner, action);
    }
    inner.steps.send_modify(|steps| *steps += 1);
}

fn act(inner: &Arc<Inner>, action: Action) {
    match action {
        Action::ReadRegister => {
            let inner = Arc::clone(inner);
            tokio::spawn(async move {
                let register = inner.register.clone();
                let outcome = tokio::task::spawn_blocking(move || register.read())
                    .await
                    .unwrap_or_else(|error| ReadOutcome::Failed(error.to_string()));
                let _ = inner.events.send(Event::RegisterRead(outcome)).await;
            });
        }
        Action::CompareAndSwap { expected, register: content } => {
            let inner = Arc::clone(inner);
            tokio::spawn(async move {
                let register = inner.register.clone();
                let outcome =
                    tokio::task::spawn_blocking(move || register.compare_and_swap(expected.as_ref(), &content))
                        .await
                        .unwrap_or_else(|error| CasOutcome::Unknown(error.to_string()));
                let _ = inner.events.send(Event::CasDone(outcome)).await;
            });
        }
        Action::Send { request_id, member, timeout, request } => {
            let inner = Arc::clone(inner);
            tokio::spawn(async move {
                let result = match inner.peers.get(&member) {
                    Some(peer) => peer.send(*request, timeout).await,
                    None => Err(format!("no member {member} is known here")),
                };
                let _ = inner.events.send(Event::Reply { request_id, member, result }).await;
            });
        }
        Action::Tell(notice) => {
            let level = match notice.severity {
                Severity::Info => Level::Info,
                Severity::Warning => Level::Warning,
                Severity::Alarm => Level::Error,
            };
            inner.output.tell(level, format!("partition {}: {notice}", inner.partition));
        }
    }
}

/// Tells the controller when somebody else changed or removed the register.
async fn look_at_register(inner: Arc<Inner>, stop: CancellationToken) {
    let mut seen = inner.register.mark();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REGISTER_LOOK) => {}
        }
        let mark = inner.register.mark();
        if mark != seen {
            seen = mark;
            let _ = inner.events.send(Event::Request(ControlRequest::RefreshRegister)).await;
        }
    }
}
