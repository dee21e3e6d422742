//! The drivers of a local cluster: one a partition, with a file as the register.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::output::{Level, Output};
use super::register_file::RegisterFile;
use crate::drive::{AsyncRegister, Driver, Setup};
use crate::net::peer::PeerAuth;
use crate::topology::controller::{ControlRequest, ControllerConfig};
use crate::topology::notice::Severity;
use crate::topology::register::{CasOutcome, ReadOutcome, Register, RegisterStore, Version};

/// How often the register file is looked at for changes by others.
const REGISTER_LOOK: Duration = Duration::from_millis(250);

/// Starts the driver of a partition; its tasks run in `tasks` and end with `stop`.
pub(super) fn start(
    partition: u32,
    config: ControllerConfig,
    register: RegisterFile,
    auth: PeerAuth,
    output: Output,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Driver {
    let setup = Setup {
        partition,
        config,
        register: Arc::new(register.clone()),
        auth,
        tell: Box::new(move |notice| {
            let level = match notice.severity {
                Severity::Info => Level::Info,
                Severity::Warning => Level::Warning,
                Severity::Alarm => Level::Error,
            };
            output.tell(level, format!("partition {partition}: {notice}"));
        }),
    };
    let driver = Driver::start(setup, tasks, stop);
    tasks.spawn(look_at_register(driver.clone(), register, stop.clone()));
    driver
}

/// Files are waited for on a thread of their own.
#[tonic::async_trait]
impl AsyncRegister for RegisterFile {
    async fn read(&self) -> ReadOutcome {
        let register = self.clone();
        tokio::task::spawn_blocking(move || RegisterStore::read(&register))
            .await
            .unwrap_or_else(|error| ReadOutcome::Failed(error.to_string()))
    }

    async fn compare_and_swap(&self, expected: Option<&Version>, content: &Register) -> CasOutcome {
        let (register, expected, content) = (self.clone(), expected.cloned(), content.clone());
        tokio::task::spawn_blocking(move || RegisterStore::compare_and_swap(&register, expected.as_ref(), &content))
            .await
            .unwrap_or_else(|error| CasOutcome::Unknown(error.to_string()))
    }
}

/// Tells the controller when somebody else changed or removed the register.
async fn look_at_register(driver: Driver, register: RegisterFile, stop: CancellationToken) {
    let mut seen = register.mark();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REGISTER_LOOK) => {}
        }
        let mark = register.mark();
        if mark != seen {
            seen = mark;
            driver.request(ControlRequest::RefreshRegister).await;
        }
    }
}
