//! The controller: observations in, actions out.
//!
//! The driver (local mode, the operator, the simulation) feeds [`Event`]s with the time since its own start
//! and carries out the [`Action`]s in order. It calls `step(now, Event::Tick)` no later than
//! [`Controller::next_deadline`]. At most one register operation is under way at a time; every
//! `ReadRegister` and `CompareAndSwap` is answered by exactly one event, every `Send` by exactly one `Reply`
//! event at the latest when its timeout has passed.
//!
//! Any number of controllers may act on one register: safety does not depend on there being one.

use std::time::Duration;

use super::message::{HealthReport, MemberName, Reply, Request};
use super::notice::Notice;
use super::register::{CasOutcome, ReadOutcome, Register, Version};
use super::spec::{ExpectedMember, PartitionSpec};
use super::view::PartitionView;
use crate::ident::ClusterId;

/// How a member's health stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// A new connection was refused: nothing listens there.
    Refused,
    /// An open connection was reset or closed: the process ended.
    Reset,
    /// Nothing was heard.
    Silent,
}

/// A wish from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlRequest {
    /// Move leadership to `target` (None: any other member), once.
    Switchover {
        /// The member to lead.
        target: Option<MemberName>,
        /// Given by the author; a request whose id is in the register is not run again.
        id: String,
    },
    /// The register is lost and so are some volumes: rebuild it from what is left of this cluster.
    AdoptCluster {
        /// Whose volumes they must be.
        cluster_id: ClusterId,
    },
    /// Read the register at the next step (a watch or a file change said that it changed).
    RefreshRegister,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Answer to `ReadRegister`.
    RegisterRead(ReadOutcome),
    /// Answer to `CompareAndSwap`.
    CasDone(CasOutcome),
    /// A member said how it is.
    Report {
        /// The member.
        member: MemberName,
        /// What it said.
        report: Box<HealthReport>,
    },
    /// A member's health stream broke, or could not be opened.
    Disconnected {
        /// The member.
        member: MemberName,
        /// How.
        kind: Disconnect,
    },
    /// Answer to `Send`, or why there is none.
    Reply {
        /// As in `Send`.
        request_id: u64,
        /// The member.
        member: MemberName,
        /// Its answer, or the transport's failure.
        result: Result<Box<Reply>, String>,
    },
    /// See [`ControlRequest`].
    Request(ControlRequest),
    /// The owner changed the spec or the members that shall exist.
    SpecChanged {
        /// The wanted shape.
        spec: Box<PartitionSpec>,
        /// Who shall exist.
        members: Vec<ExpectedMember>,
    },
    /// Time passed.
    Tick,
}

/// What the driver shall do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Read the register, linearizably.
    ReadRegister,
    /// Write the register if its version is still `expected`.
    CompareAndSwap {
        /// None: only if there is no register.
        expected: Option<Version>,
        /// The new content.
        register: Box<Register>,
    },
    /// Send a request to a member.
    Send {
        /// To tell answers apart.
        request_id: u64,
        /// The member.
        member: MemberName,
        /// After this, a `Reply` event with an error is due.
        timeout: Duration,
        /// What to say.
        request: Box<Request>,
    },
    /// Tell humans.
    Tell(Notice),
}

/// What a controller starts from.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Of this controller instance, for notices.
    pub name: String,
    /// It proposes 500 ms x rank after the first might have.
    pub rank: u32,
    /// The id to bootstrap with; an existing register or volume wins.
    pub cluster_id: ClusterId,
    /// Who shall exist.
    pub members: Vec<ExpectedMember>,
    /// The wanted shape.
    pub spec: PartitionSpec,
    /// For jitter and attempt ids: must differ between controllers that may meet at one register.
    pub seed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
}

impl Controller {
    /// A controller that knows nothing yet; its first step reads the register.
    pub fn new(config: ControllerConfig) -> Self {
        Self { config }
    }

    /// Takes one event and says what to do now.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let _ = (now, event, &self.config);
        Vec::new()
    }

    /// When `step` wants to be called at the latest; None: only on events.
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }

    /// The picture at `now`.
    pub fn view(&self, now: Duration) -> PartitionView {
        let _ = now;
        unreachable!("filled in with the decisions")
    }
}
