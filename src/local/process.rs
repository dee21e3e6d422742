//! One member's process: started, watched, started again, stopped.
//!
//! Invariants: a member that this supervisor started never outlives it. Its stdin is a pipe that only the
//! supervisor holds, so that it ends when the supervisor ends, however that happens; the kernel's parent-death
//! signal is the second belt. It has a process group of its own, so that Ctrl-C in the terminal reaches the
//! supervisor alone, which then stops the members in order.
//! Does not know what a member does or whether it is healthy: topology decides from its word, not from here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::output::{Level, Output};
use super::ports;

/// First wait before a member is started again.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A member that ran for this long starts with the first wait again.
const RAN_WELL: Duration = Duration::from_secs(10);
/// A longer line is cut: a member must not fill the supervisor's memory.
const LINE_BYTES: usize = 16 << 10;

/// How a member is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its name.
    pub name: Arc<str>,
    /// What starts the program somewhere else; empty = it is started here.
    pub launcher: Vec<OsString>,
    /// The program, usually this one.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it will listen, with what for.
    pub ports: [(&'static str, SocketAddr); 3],
}

/// Where a member's process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    /// About to be started.
    Starting,
    /// Runs with this pid.
    Running(u32),
    /// Ended or could not be started; will be started again.
    Waiting(String),
    /// Stopped because the supervisor stops.
    Stopped,
}

impl ProcessState {
    /// The pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running(pid) => Some(*pid),
            _ => None,
        }
    }
}

/// How members are stopped.
#[derive(Debug, Clone)]
pub struct Stop {
    /// SIGTERM now.
    pub gently: CancellationToken,
    /// SIGKILL now.
    pub at_once: CancellationToken,
    /// SIGKILL after this long.
    pub grace: Duration,
}

/// Runs the member until `stop`; starts it again whenever it ends.
///
/// Must be polled on a thread that lives as long as the process (the runtime of `local` has one thread, the main
/// one): the kernel sends the parent-death signal when the *thread* that started the child ends.
pub async fn supervise(launch: Launch, stop: Stop, state: watch::Sender<ProcessState>, output: Output) {
    let mut backoff = BACKOFF_FIRST;
    while !stop.gently.is_cancelled() {
        let started = Instant::now();
        let why = match start(&launch) {
            Ok(child) => run(&launch, child, &stop, &state, &output).await,
            Err(why) => Some(why),
        };
        let Some(why) = why else { break };
        if started.elapsed() >= RAN_WELL {
            backoff = BACKOFF_FIRST;
        }
        output.tell(Level::Warning, format!("{} {why}; starting it again in {} ms", launch.name, backoff.as_millis()));
        state.send_replace(ProcessState::Waiting(why));
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.gently.cancelled() => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    state.send_replace(ProcessState::Stopped);
}

/// Starts the process; why not, otherwise.
fn start(launch: &Launch) -> Result<Child, String> {
    // Elsewhere the ports are not ours to try; the member itself says if one is taken.
    for (what, address) in launch.ports.into_iter().filter(|_| launch.launcher.is_empty()) {
        if let Err(error) = ports::check(address) {
            return Err(format!(
                "is not started: its {what} port {address} is taken by another program ({error}); \
                 stop that program, or stop this cluster and remove local.json to have ports chosen anew"
            ));
        }
    }
    let mut line = launch.launcher.iter().map(OsString::as_os_str).chain([launch.program.as_os_str()]);
    let first = line.next().unwrap_or(launch.program.as_os_str());
    let mut command = Command::new(first);
    command
        .args(line)
        .args(&launch.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut command, Signal::KILL);
    command.spawn().map_err(|error| format!("cannot be started: {}: {error}", first.display()))
}

/// Has the kernel send `signal` to the child when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command, signal: Signal) {
    // SAFETY: between fork and exec only async-signal-safe calls may be made; this makes one prctl system call,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal)).map_err(std::io::Error::from)
        });
    }
}

/// Watches a running process. Why it ended; None when it was stopped on purpose.
async fn run(
    launch: &Launch,
    mut child: Child,
    stop: &Stop,
    state: &watch::Sender<ProcessState>,
    output: &Output,
) -> Option<String> {
    // Taken before `wait`, which would close it: its end is the member's signal to end.
    let _stdin = child.stdin.take();
    let stderr = child.stderr.take().map(|pipe| tokio::spawn(forward(pipe, Arc::clone(&launch.name), output.clone())));
    let stdout = child.stdout.take().map(|pipe| tokio::spawn(forward(pipe, Arc::clone(&launch.name), output.clone())));
    let pid = child.id();
    state.send_replace(pid.map_or(ProcessState::Starting, ProcessState::Running));

    let ended = tokio::select! {
        status = child.wait() => Some(status),
        () = stop.gently.cancelled() => None,
    };
    let why = match ended {
        Some(status) => Some(match status {
            Ok(status) => describe(status),
            Err(error) => format!("cannot be waited for: {error}"),
        }),
        None => {
            signal(pid, Signal::TERM);
            let in_time = tokio::select! {
                status = child.wait() => Some(status),
                () = tokio::time::sleep(stop.grace) => None,
                () = stop.at_once.cancelled() => None,
            };
            match in_time {
                Some(Ok(status)) if !status.success() => {
                    output.tell(Level::Warning, format!("{} {}", launch.name, describe(status)));
                }
                Some(_) => {}
                None => {
                    output.tell(Level::Warning, format!("{} did not stop in time and is killed", launch.name));
                    signal(pid, Signal::KILL);
                    let _ = child.wait().await;
                }
            }
            None
        }
    };
    // What it said last says why it ended. Its pipes close with it (it starts no processes of its own); a bound
    // all the same, so that a descriptor that leaked somewhere cannot hold the restart.
    for reader in [stderr, stdout].into_iter().flatten() {
        let _ = tokio::time::timeout(Duration::from_millis(500), reader).await;
    }
    why
}

/// Signals a child that was not waited for yet: its pid cannot be another's.
fn signal(pid: Option<u32>, signal: Signal) {
    if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        // It may have ended by itself in this moment.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// How a process ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".into(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}{}", signal_name(signal)),
        (None, None) => format!("ended: {status}"),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// Hands every line of `pipe` to the output; lines over the bound come in pieces.
async fn forward(pipe: impl AsyncRead + Unpin, name: Arc<str>, output: Output) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        let available = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => bytes,
        };
        let (taken, whole) = match available.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (available.len(), false),
        };
        line.extend_from_slice(&available[..taken - usize::from(whole)]);
        reader.consume(taken);
        if whole || line.len() >= LINE_BYTES {
            output.member(&name, std::mem::take(&mut line));
        }
    }
    if !line.is_empty() {
        output.member(&name, line);
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::Style;
    use super::*;

    fn launch(script: &str) -> Launch {
        let free = ports::choose(3, &Default::default()).expect("ports");
        let at = |index: usize| SocketAddr::from(([127, 0, 0, 1], free[index]));
        Launch {
            name: "kv-0-0".into(),
            launcher: Vec::new(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            ports: [("client", at(0)), ("peer", at(1)), ("http", at(2))],
        }
    }

    fn stop(grace: Duration) -> Stop {
        Stop { gently: CancellationToken::new(), at_once: CancellationToken::new(), grace }
    }

    struct Run {
        state: watch::Receiver<ProcessState>,
        task: tokio::task::JoinHandle<()>,
        stop: Stop,
        log: PathBuf,
        _temp: tempfile::TempDir,
    }

    fn begin(launch: Launch, grace: Duration) -> Run {
        let temp = tempfile::tempdir().expect("a directory");
        let log = temp.path().join("log");
        let (output, thread) =
            Output::start(Style::Quiet, vec![(Arc::clone(&launch.name), log.clone())]).expect("output");
        std::mem::forget(thread);
        let (sender, state) = watch::channel(ProcessState::Starting);
        let stop = stop(grace);
        let task = tokio::spawn(supervise(launch, stop.clone(), sender, output));
        Run { state, task, stop, log, _temp: temp }
    }

    async fn running(run: &mut Run) -> u32 {
        let state = run.state.wait_for(|state| state.pid().is_some()).await.expect("runs");
        state.pid().expect("a pid")
    }

    #[tokio::test]
    async fn a_member_that_is_killed_is_told_by_signal_and_started_again() {
        let mut run = begin(launch("cat"), Duration::from_secs(5));
        let first = running(&mut run).await;
        signal(Some(first), Signal::KILL);
        let why = match &*run.state.wait_for(|state| matches!(state, ProcessState::Waiting(_))).await.expect("told") {
            ProcessState::Waiting(why) => why.clone(),
            _ => unreachable!("waited for"),
        };
        assert!(why.contains("signal 9 (SIGKILL)"), "{why}");
        assert_ne!(running(&mut run).await, first);
        run.stop.gently.cancel();
        run.task.await.expect("stops");
        assert_eq!(*run.state.borrow(), ProcessState::Stopped);
    }

    #[tokio::test]
    async fn a_member_that_ignores_sigterm_is_killed_after_the_grace() {
        let mut run = begin(
            launch("trap '' TERM; echo ready >&2; while :; do read x || :; sleep 0.01; done"),
            Duration::from_millis(300),
        );
        let pid = running(&mut run).await;
        while !std::fs::read_to_string(&run.log).unwrap_or_default().contains("ready") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        run.stop.gently.cancel();
        run.task.await.expect("stops");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn a_member_is_started_by_its_launcher_which_becomes_it() {
        let launcher = ["/bin/sh", "-c", "echo there >&2; exec \"$0\" \"$@\""].map(OsString::from).to_vec();
        let mut run = begin(Launch { launcher, ..launch("echo here >&2; exec cat") }, Duration::from_secs(5));
        running(&mut run).await;
        let said = |log: &PathBuf| std::fs::read_to_string(log).unwrap_or_default();
        while !said(&run.log).contains("here") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(said(&run.log).contains("there"), "{}", said(&run.log));
        run.stop.gently.cancel();
        run.task.await.expect("stops");
        assert_eq!(*run.state.borrow(), ProcessState::Stopped);
    }

    #[tokio::test]
    async fn a_member_whose_port_is_taken_waits_and_says_which() {
        let launch = launch("cat");
        let taken = std::net::TcpListener::bind(launch.ports[1].1).expect("binds");
        let mut run = begin(launch, Duration::from_secs(5));
        let why = match &*run.state.wait_for(|state| matches!(state, ProcessState::Waiting(_))).await.expect("told") {
            ProcessState::Waiting(why) => why.clone(),
            _ => unreachable!("waited for"),
        };
        assert!(why.contains(&format!("peer port {}", taken.local_addr().expect("address"))), "{why}");
        drop(taken);
        running(&mut run).await;
        run.stop.gently.cancel();
        run.task.await.expect("stops");
    }

    #[tokio::test]
    async fn an_endless_line_comes_in_pieces() {
        let run = begin(launch("head -c 40000 /dev/zero | tr '\\0' x >&2; exec cat"), Duration::from_secs(5));
        let mut lines = 0;
        while lines < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            lines = std::fs::read_to_string(&run.log).unwrap_or_default().lines().count();
        }
        run.stop.gently.cancel();
        run.task.await.expect("stops");
    }
}
