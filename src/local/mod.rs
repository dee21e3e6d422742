//! `armdb local`: the cluster of a manifest as processes on this machine.
//!
//! Owns: the cluster's directory and lock, the members' processes, the file that is the register, the execution
//! of topology's decisions, the control socket, and what is shown of all that.
//!
//! ```text
//!            manifest                       armdb status / switchover
//!               v                                     v control.sock
//!  plan --> processes (one a member) <-- driver (one a partition) --> register.json
//!                  stdin pipe, logs        health streams, control calls
//! ```
//! Invariants: one supervisor a directory; no member outlives its supervisor, however that ends; the data in the
//! members' directories is never touched from here; leadership is decided by topology alone, from the members'
//! own word, never from what is known of their processes. Everything runs on one thread (the kernel's
//! parent-death signal is bound to the thread that starts a child); nothing on it waits for a disk or a terminal.
//! Does not do: Kubernetes, more than one machine, TLS.

pub mod command;
pub mod control;
pub mod directory;
mod driver;
mod error;
mod log_file;
mod output;
mod places;
mod plan;
mod ports;
mod process;
pub mod register_file;
mod running;
mod status;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::directory::{ClusterFile, Directory};
pub use self::error::LocalError;
use self::output::{Level, Output, Style};
pub use self::places::Places;
pub use self::plan::Plan;
use self::process::{Launch, ProcessState, Stop};
use self::register_file::RegisterFile;
use self::running::Running;
use crate::drive::Driver;
use crate::net::peer::{PeerAuth, PeerSecret};
use crate::node::config::NodeConfig;
use crate::topology::controller::{ControlRequest, ControllerConfig};

/// How long members may take to stop before they are killed.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// How often the table is redrawn.
const REDRAW: Duration = Duration::from_millis(250);

/// How to run a local cluster.
#[derive(Debug)]
pub struct Options {
    /// What to run.
    pub plan: Plan,
    /// Where members run that do not run beside the supervisor.
    pub places: Places,
    /// The cluster's directory.
    pub dir: PathBuf,
    /// The program to start members with: this one.
    pub program: PathBuf,
    /// Plain lines even on a terminal.
    pub plain: bool,
    /// Run this against the cluster and stop; empty: run until told to stop.
    pub command: Vec<OsString>,
    /// How long the command waits for the cluster to serve.
    pub wait: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// The command ended with this code.
    Command(u8),
    /// The command was not run, or not to its end: the code to end with, and why.
    Failed(u8, String),
}

/// Runs the cluster until it is told to stop or the command ends. Nothing of it runs afterwards.
///
/// Must be polled on the main thread of a current-thread runtime (see the module).
pub async fn run(options: Options) -> Result<Ended, LocalError> {
    // First of all: a signal that comes while members start must not leave them behind.
    let mut signals = catch_signals().map_err(LocalError::io("catching signals in", &options.dir))?;
    let directory = Directory::lock(&options.dir)?;
    let dir = directory.path().to_owned();
    let mut file = options.plan.complete(ClusterFile::read(&dir)?, &dir)?;
    options.places.place(&mut file);
    directory.write(&file)?;
    let (secret_path, secret) = directory.secret()?;
    let secret = PeerSecret::new(&secret).map_err(|error| {
        LocalError::io("reading", &secret_path)(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    })?;
    let config = NodeConfig::of(&options.plan.spec).to_yaml();
    let mut logs = Vec::new();
    let mut launches = Vec::new();
    for member in &file.members {
        let home = directory.member(&member.name)?;
        let config = directory.write_config(&member.name, &config)?;
        let name: Arc<str> = member.name.as_str().into();
        logs.push((Arc::clone(&name), home.join("log")));
        launches.push(Launch {
            name,
            launcher: options.places.launcher(&member.name).iter().map(OsString::from).collect(),
            program: options.program.clone(),
            args: node_arguments(&file, member, &home, &config, &secret_path),
            ports: [("client", member.client), ("peer", member.peer), ("HTTP", member.http)],
        });
    }
    let style = Style::choose(options.plain, !options.command.is_empty());
    let (output, output_thread) = Output::start(style, logs).map_err(LocalError::io("opening the logs in", &dir))?;
    let listener = control::bind(&dir).map_err(LocalError::io("binding", dir.join("control.sock")))?;

    let processes = TaskTracker::new();
    let stop = Stop { gently: CancellationToken::new(), at_once: CancellationToken::new(), grace: STOP_GRACE };
    let changed = Arc::new(Notify::new());
    let mut states = BTreeMap::new();
    for launch in launches {
        let (sender, receiver) = watch::channel(ProcessState::Starting);
        states.insert(launch.name.to_string(), receiver.clone());
        processes.spawn(announce(receiver, Arc::clone(&changed)));
        processes.spawn(process::supervise(launch, stop.clone(), sender, output.clone()));
    }
    processes.close();

    let tasks = TaskTracker::new();
    let end_tasks = CancellationToken::new();
    let drivers = drive(&options.plan, &file, &directory, &secret.into(), &output, &tasks, &end_tasks);
    let running = Arc::new(Running {
        plan: options.plan.clone(),
        file,
        drivers,
        processes: states,
        started: Instant::now(),
        statuses: Default::default(),
    });
    if let Some(cluster_id) = options.plan.adopt() {
        for driver in &running.drivers {
            driver.request(ControlRequest::AdoptCluster { cluster_id }).await;
        }
    }
    let directory = Arc::new(directory);
    tasks.spawn(control::serve(listener, Arc::clone(&running), end_tasks.clone()));
    tasks.spawn(keep_file(Arc::clone(&running), Arc::clone(&directory), changed, output.clone(), end_tasks.clone()));
    tasks.spawn(keep_table(Arc::clone(&running), output.clone(), end_tasks.clone()));
    tasks.close();
    output.tell(
        Level::Info,
        format!(
            "cluster {}: {} members in {}; clients connect to {}",
            running.plan.name,
            running.file.members.len(),
            dir.display(),
            running.file.endpoints().join(",")
        ),
    );

    let ended = attend(&options, &running, &output, &mut signals).await;

    // The controllers go first: members that are all being stopped are no reason to move leadership, and a
    // leader without a controller stops at once instead of waiting for one.
    output.tell(Level::Info, "stopping");
    end_tasks.cancel();
    tasks.wait().await;
    stop.gently.cancel();
    tokio::select! {
        () = processes.wait() => {}
        () = async {
            signals.recv().await;
            output.tell(Level::Warning, "told again: killing the members");
            stop.at_once.cancel();
            std::future::pending().await
        } => {}
    }
    let mut file = running.file.clone();
    file.supervisor_pid = None;
    let _ = std::fs::remove_file(dir.join("control.sock"));
    let written = directory.write(&file);
    output.tell(Level::Info, "all members have stopped");
    drop(output_thread);
    written.map(|()| ended)
}

/// Waits for the end: a signal, or the command's.
async fn attend(options: &Options, running: &Running, output: &Output, signals: &mut mpsc::Receiver<Signal>) -> Ended {
    let deadline = async {
        match options.command.is_empty() {
            true => std::future::pending().await,
            false => tokio::time::sleep(options.wait).await,
        }
    };
    let ready = tokio::select! {
        () = running.serves() => true,
        () = deadline => false,
        Some(signal) = signals.recv() => {
            return match options.command.is_empty() {
                true => Ended::Stopped,
                false => Ended::Failed(128 + signal.as_raw() as u8, "stopped before the cluster served".into()),
            };
        }
    };
    if !ready {
        let why = format!("the cluster does not serve after {} s: {}", options.wait.as_secs(), running.obstacles());
        return Ended::Failed(1, why);
    }
    output.tell(Level::Info, format!("the cluster serves after {} ms", running.up().as_millis()));
    if options.command.is_empty() {
        signals.recv().await;
        return Ended::Stopped;
    }
    let environment = vec![
        ("ARMDB_ENDPOINTS", running.file.endpoints().join(",").into()),
        ("ARMDB_DIR", running.file.control_socket.parent().unwrap_or(&options.dir).as_os_str().to_owned()),
    ];
    match command::run(&options.command, environment, signals).await {
        Ok(code) => Ended::Command(code),
        Err((code, why)) => Ended::Failed(code, why),
    }
}

/// One controller a partition.
fn drive(
    plan: &Plan,
    file: &ClusterFile,
    directory: &Directory,
    auth: &PeerAuth,
    output: &Output,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Vec<Driver> {
    (0..file.partitions)
        .map(|partition| {
            let config = ControllerConfig {
                name: format!("local-{}", std::process::id()),
                rank: 0,
                cluster_id: file.cluster_id,
                members: plan::expected(file, partition),
                spec: plan.partition(),
                seed: getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())),
            };
            let register = RegisterFile::new(directory.register(partition));
            driver::start(partition, config, register, auth.clone(), output.clone(), tasks, stop)
        })
        .collect()
}

/// The command line of a member.
fn node_arguments(
    file: &ClusterFile,
    member: &directory::MemberEntry,
    home: &std::path::Path,
    config: &std::path::Path,
    secret: &std::path::Path,
) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["node".into(), "--supervised".into()];
    let mut add = |flag: &str, value: OsString| args.extend([flag.into(), value]);
    add("--cluster", file.cluster.clone().into());
    add("--partition", member.partition.to_string().into());
    add("--name", member.name.clone().into());
    add("--data", home.join("data").into());
    add("--shards", file.shards.to_string().into());
    add("--client", member.client.to_string().into());
    add("--peer", member.peer.to_string().into());
    add("--http", member.http.to_string().into());
    add("--config", config.into());
    add("--secret-file", secret.into());
    args
}

/// Tells `changed` whenever a process starts or ends.
async fn announce(mut state: watch::Receiver<ProcessState>, changed: Arc<Notify>) {
    while state.changed().await.is_ok() {
        changed.notify_one();
    }
}

/// Keeps `local.json` true.
async fn keep_file(
    running: Arc<Running>,
    directory: Arc<Directory>,
    changed: Arc<Notify>,
    output: Output,
    stop: CancellationToken,
) {
    loop {
        let (file, directory) = (running.file(), Arc::clone(&directory));
        match tokio::task::spawn_blocking(move || directory.write(&file)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => output.tell(Level::Warning, error.to_string()),
            Err(error) => output.tell(Level::Warning, format!("writing local.json: {error}")),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
        }
    }
}

/// Keeps the table current.
async fn keep_table(running: Arc<Running>, output: Output, stop: CancellationToken) {
    if output.style() != Style::Table {
        return;
    }
    loop {
        output.table(table::lines(&running.plan.name, &running.status(), running.up()));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REDRAW) => {}
        }
    }
}

/// Signals that end a run, as a queue.
fn catch_signals() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    for (kind, name) in [
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::hangup(), Signal::HUP),
    ] {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                // A full queue means that the end was asked for eight times already.
                let _ = sender.try_send(name);
            }
        });
    }
    Ok(receiver)
}
