//! The command of `armdb local ... -- COMMAND`: runs against the cluster, and its status becomes ours.
//!
//! It shares our terminal, our stdin and our process group, as if the shell had started it: Ctrl-C reaches it
//! directly. Signals sent to the supervisor alone are passed on.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::process::die_with_parent;

/// How long a command that was told to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `command` to its end; its exit code, 128 + n for signal n, or why it could not be started with the
/// shell's code for that.
pub(crate) async fn run(
    command: &[OsString],
    environment: Vec<(&'static str, OsString)>,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<u8, (u8, String)> {
    let Some((program, args)) = command.split_first() else { return Ok(0) };
    let mut prepared = Command::new(program);
    prepared.args(args).envs(environment).kill_on_drop(true);
    die_with_parent(&mut prepared, Signal::TERM);
    let mut child = prepared.spawn().map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        (code, format!("{} cannot be run: {error}", program.to_string_lossy()))
    })?;
    let mut told = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map(exit_code).map_err(|error| (1, format!("waiting for the command: {error}")));
            }
            Some(signal) = signals.recv() => {
                // From a terminal it has got SIGINT itself already.
                let pass_on = signal != Signal::INT || !std::io::stdin().is_terminal();
                let signal = if told { Signal::KILL } else { signal };
                if (pass_on || told)
                    && let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
                {
                    let _ = rustix::process::kill_process(pid, signal);
                }
                told = true;
            }
            () = tokio::time::sleep(GRACE), if told => {
                let _ = child.start_kill();
            }
        }
    }
}

/// As a shell tells it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str) -> Result<u8, (u8, String)> {
        let (_keep, mut signals) = mpsc::channel(1);
        run(&["/bin/sh".into(), "-c".into(), script.into()], vec![("ARMDB_DIR", "here".into())], &mut signals).await
    }

    #[tokio::test]
    async fn its_status_is_returned_and_a_signal_is_128_and_its_number() {
        assert_eq!(sh("exit 7").await, Ok(7));
        assert_eq!(sh("kill -9 $$").await, Ok(137));
        assert_eq!(sh("test \"$ARMDB_DIR\" = here").await, Ok(0));
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_named_with_the_shells_code() {
        let (_keep, mut signals) = mpsc::channel(1);
        let (code, why) = run(&["/no/such/thing".into()], vec![], &mut signals).await.expect_err("refused");
        assert_eq!(code, 127);
        assert!(why.contains("/no/such/thing"), "{why}");
    }

    #[tokio::test]
    async fn a_signal_is_passed_on() {
        let (sender, mut signals) = mpsc::channel(1);
        sender.send(Signal::TERM).await.expect("sent");
        let code = run(&["/bin/sleep".into(), "60".into()], vec![], &mut signals).await;
        assert_eq!(code, Ok(143));
    }
}
