//! A cluster while it runs: what the control socket, the table and the wait for service look at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::directory::ClusterFile;
use super::plan::Plan;
use super::process::ProcessState;
use super::status::StatusBuilder;
use crate::api::ArmdbClusterStatus;
use crate::drive::Driver;
use crate::topology::view::{PartitionState, PartitionView};

/// Everything there is to see of a running cluster.
#[derive(Debug)]
pub struct Running {
    pub(crate) plan: Plan,
    pub(crate) file: ClusterFile,
    pub(crate) drivers: Vec<Driver>,
    pub(crate) processes: BTreeMap<String, watch::Receiver<ProcessState>>,
    pub(crate) started: Instant,
    pub(crate) statuses: Mutex<StatusBuilder>,
}

impl Running {
    /// The members' processes, of those that run.
    pub fn pids(&self) -> BTreeMap<String, u32> {
        self.processes.iter().filter_map(|(name, state)| state.borrow().pid().map(|pid| (name.clone(), pid))).collect()
    }

    /// `local.json` as it should be now.
    pub fn file(&self) -> ClusterFile {
        let pids = self.pids();
        let mut file = self.file.clone();
        file.supervisor_pid = Some(std::process::id());
        for member in &mut file.members {
            member.pid = pids.get(&member.name).copied();
        }
        file
    }

    /// The status now.
    pub fn status(&self) -> ArmdbClusterStatus {
        let now = Timestamp::now();
        let pictures: Vec<_> = self.drivers.iter().map(|driver| driver.picture(now)).collect();
        let spec = &self.plan.spec;
        self.statuses.lock().build(&pictures, spec.replicas, spec.paused, &self.pids(), now)
    }

    /// How long it has been running.
    pub fn up(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until every partition has a leader that serves.
    pub async fn serves(&self) {
        for driver in &self.drivers {
            wait_for(driver, |view| (view.state == PartitionState::Available).then_some(())).await;
        }
    }

    /// Why it does not serve, in words.
    pub fn obstacles(&self) -> String {
        let mut obstacles = Vec::new();
        for (name, state) in &self.processes {
            if let ProcessState::Waiting(why) = &*state.borrow() {
                obstacles.push(format!("{name} {why}"));
            }
        }
        for driver in &self.drivers {
            let view = driver.view();
            if view.state != PartitionState::Available {
                obstacles.push(format!("partition {} is {:?}", driver.partition(), view.state));
                obstacles.extend(view.conditions.into_iter().map(|condition| condition.text));
            }
        }
        obstacles.join("; ")
    }
}

/// Waits until `found` finds what it looks for in the partition's picture; looks again after every step.
pub(crate) async fn wait_for<T>(driver: &Driver, mut found: impl FnMut(PartitionView) -> Option<T>) -> T {
    let mut steps = driver.steps();
    loop {
        steps.borrow_and_update();
        if let Some(value) = found(driver.view()) {
            return value;
        }
        // Closed only when the driver is gone, which it is not while it is borrowed here; a driver that was
        // stopped makes no more steps, and whoever waits has a deadline or is dropped.
        if steps.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
