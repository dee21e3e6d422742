//! A cluster as a user runs it: `armdb local` over a directory, seen through its control socket.
//!
//! Invariants: whatever becomes of a test, its processes are stopped before the fixture is gone; when a test
//! fails, the end of every log is printed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use armdb::api::{ArmdbClusterStatus, MemberRole, MemberState, MemberStatus, PartitionState};
use armdb::client::{Client, ClientOptions, ReadLevel, ReadOptions, Token};
use armdb::local::control;
use armdb::local::directory::{ClusterFile, MemberEntry};
use armdb::net::proto::LocalStatusRequest;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tempfile::TempDir;

use super::process::{self, armdb, dies_with_us};
use super::{LOOK, Manifest, PATIENCE, eventually, http};

/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 150;
/// Longer than the supervisor's own grace for its members.
const STOP: Duration = Duration::from_secs(25);

/// See the module.
pub struct Cluster {
    manifest: Manifest,
    home: TempDir,
    supervisor: Option<Child>,
    /// Whether its directory is on a file system that only its own processes see.
    apart: bool,
}

impl Cluster {
    /// Starts one and waits until every member is in sync.
    pub async fn start(manifest: Manifest) -> Self {
        let mut cluster = Self::prepare(manifest);
        cluster.run();
        cluster.healthy().await;
        cluster
    }

    /// One that was never run.
    pub fn prepare(manifest: Manifest) -> Self {
        let home = tempfile::Builder::new().prefix("armdb-").tempdir().expect("a directory");
        manifest.write(&home.path().join("cluster.yaml"));
        Self { manifest, home, supervisor: None, apart: false }
    }

    /// Gives it another manifest for its next run.
    pub fn change(&mut self, manifest: Manifest) {
        manifest.write(&self.manifest());
        self.manifest = manifest;
    }

    /// The cluster's directory.
    pub fn dir(&self) -> PathBuf {
        self.home.path().join("cluster")
    }

    /// The cluster's directory is mounted where only its own processes see it.
    pub fn set_apart(&mut self) {
        self.apart = true;
    }

    /// The cluster's directory as this process sees it.
    pub fn seen(&self) -> PathBuf {
        match self.apart {
            true => {
                let root = PathBuf::from(format!("/proc/{}/root", self.supervisor()));
                root.join(self.dir().strip_prefix("/").expect("an absolute path"))
            }
            false => self.dir(),
        }
    }

    /// Room for a scenario's own files.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// Its manifest file.
    pub fn manifest(&self) -> PathBuf {
        self.home.path().join("cluster.yaml")
    }

    /// Leaves everything of it on disk when it goes; where.
    #[allow(dead_code, reason = "only the torture keeps what failed")]
    pub fn keep(&mut self) -> PathBuf {
        self.home.disable_cleanup(true);
        self.home.path().to_owned()
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("supervisor.log")
    }

    /// Everything the supervisor has said, of all its runs.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// Everything a member has logged.
    pub fn logged(&self, member: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir().join(member).join("log")).unwrap_or_default()).into_owned()
    }

    /// Starts the supervisor without waiting for anything.
    pub fn run(&mut self) {
        self.run_by(armdb(std::iter::empty::<&str>()));
    }

    /// As [`Self::run`], with the program and what comes before its arguments given.
    pub fn run_by(&mut self, mut command: Command) {
        assert!(self.supervisor.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        command.args(["local", "--plain", "-f"]).arg(self.manifest()).arg("--dir").arg(self.dir());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.supervisor = Some(dies_with_us(&mut command).spawn().expect("armdb local starts"));
    }

    /// The supervisor's pid.
    pub fn supervisor(&self) -> i32 {
        i32::try_from(self.supervisor.as_ref().expect("it runs").id()).expect("a pid")
    }

    /// Whether the supervisor runs no more; it is not waited for here.
    fn has_ended(&self) -> bool {
        let pid = Pid::from_raw(self.supervisor()).expect("a pid");
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(pid), options).is_ok_and(|status| status.is_some())
    }

    /// Signals the supervisor and waits for its end.
    pub async fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut supervisor = self.supervisor.take().expect("it runs");
        process::signal(i32::try_from(supervisor.id()).expect("a pid"), signal);
        let waited = tokio::task::spawn_blocking(move || (process::wait(&mut supervisor, STOP), supervisor));
        let (status, mut supervisor) = waited.await.expect("no panic");
        status.unwrap_or_else(|| {
            let _ = supervisor.kill();
            panic!("armdb local did not end within {} s of {signal:?}", STOP.as_secs())
        })
    }

    /// Signals a process of this cluster; false = there is no such process any more. A pid that was told may have
    /// become somebody else's since: what does not name this cluster on its command line is left alone.
    pub fn signal(&self, pid: i32, signal: Signal) -> bool {
        process::names(pid, self.home.path()) && process::signal(pid, signal)
    }

    /// The status, if the supervisor answers.
    pub async fn try_status(&self) -> Option<ArmdbClusterStatus> {
        let asking = async {
            let mut control = control::connect(&self.seen()).await.ok()?;
            let answer = control.status(LocalStatusRequest {}).await.ok()?;
            serde_json::from_str(&answer.into_inner().status_json).ok()
        };
        tokio::time::timeout(Duration::from_secs(5), asking).await.ok().flatten()
    }

    /// Waits until `found` finds what it looks for in the status.
    pub async fn until<T>(&self, what: &str, mut found: impl FnMut(&ArmdbClusterStatus) -> Option<T>) -> T {
        let mut last = None;
        let looking = async {
            loop {
                assert!(!self.has_ended(), "armdb local has ended while this was waited for: {what}");
                if let Some(status) = self.try_status().await {
                    if let Some(value) = found(&status) {
                        return value;
                    }
                    last = Some(status);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(value) => value,
            Err(_) => panic!("never within {} s: {what}; the last status: {last:#?}", PATIENCE.as_secs()),
        }
    }

    /// Waits until it serves with every member in sync; its leader.
    pub async fn healthy(&self) -> MemberStatus {
        self.until("the cluster serves with every member in sync", |status| self.whole(status)).await
    }

    /// The leader, if it serves and every member is in sync.
    pub fn whole(&self, status: &ArmdbClusterStatus) -> Option<MemberStatus> {
        let partition = &status.partitions[0];
        let whole = partition.members.len() == self.manifest.replicas()
            && partition.members.iter().all(|member| {
                member.state == MemberState::InSync
                    && member.pid.is_some()
                    && matches!(member.role, MemberRole::Leader | MemberRole::Follower)
            });
        (whole && partition.state == PartitionState::Available).then(|| leader_of(status)).flatten()
    }

    /// Waits until somebody serves; who.
    pub async fn leader(&self) -> MemberStatus {
        self.until("somebody leads", leader_of).await
    }

    /// Waits until somebody else than `old` serves; who.
    pub async fn leader_after(&self, old: &str) -> MemberStatus {
        self.until(&format!("somebody else than {old} leads"), |status| {
            leader_of(status).filter(|leader| leader.name != old)
        })
        .await
    }

    /// Those that follow now, with a process.
    pub async fn followers(&self) -> Vec<MemberStatus> {
        self.until("followers run", |status| {
            let followers: Vec<_> =
                status.partitions[0].members.iter().filter(|m| m.role == MemberRole::Follower).cloned().collect();
            (!followers.is_empty() && followers.iter().all(|member| member.pid.is_some())).then_some(followers)
        })
        .await
    }

    /// One member's status once `found` likes it.
    pub async fn member(&self, name: &str, what: &str, mut found: impl FnMut(&MemberStatus) -> bool) -> MemberStatus {
        self.until(&format!("{name} {what}"), |status| {
            status.partitions[0].members.iter().find(|member| member.name == name && found(member)).cloned()
        })
        .await
    }

    /// What `local.json` says.
    pub fn file(&self) -> ClusterFile {
        ClusterFile::read(&self.seen()).expect("it can be read").expect("there is one")
    }

    /// Where a member listens.
    pub fn entry(&self, name: &str) -> MemberEntry {
        self.file().members.into_iter().find(|member| member.name == name).expect("a member")
    }

    /// A metric of a member, all its labels together.
    pub async fn metric(&self, name: &str, metric: &str) -> f64 {
        http::sum(&http::get(self.entry(name).http, "/metrics").await, metric)
    }

    /// Its members' names.
    pub fn names(&self) -> Vec<String> {
        self.file().members.into_iter().map(|member| member.name).collect()
    }

    /// A client of its own.
    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions::new(self.file().endpoints())).await
    }

    /// A client that gives up after `timeout`.
    pub async fn impatient(&self, timeout: Duration) -> Client {
        self.client_with(ClientOptions::new(self.file().endpoints()).request_timeout(timeout)).await
    }

    async fn client_with(&self, options: ClientOptions) -> Client {
        Client::connect(options).await.expect("a client connects")
    }

    /// A command of the command line against this cluster.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = armdb(args);
        command.env("ARMDB_DIR", self.dir());
        command
    }

    /// Runs such a command to its end.
    pub async fn ask<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        process::output(self.command(args)).await
    }

    /// How a member is read that has everything up to `token`.
    pub fn reading_from(&self, name: &str, token: &Token) -> ReadOptions {
        ReadOptions {
            level: ReadLevel::AtLeast(token.clone()),
            member: Some(self.entry(name).client.to_string()),
            timeout: Some(PATIENCE),
        }
    }

    /// Kills a member and keeps it from starting again until the guard is dropped.
    pub async fn keep_down(&self, name: &str) -> Down {
        let address = self.entry(name).http;
        // The supervisor waits before it starts the member again; it looks whether the ports are free, and finds
        // that one of them is not. (Nobody dials this one, so nobody takes us for the member.)
        let port = eventually(&format!("{name} ends and its port {address} is free"), async || {
            let status = self.try_status().await?;
            let member = status.partitions[0].members.iter().find(|member| member.name == name)?;
            if let Some(pid) = member.pid {
                self.signal(pid, Signal::KILL);
            }
            TcpListener::bind(address).ok()
        })
        .await;
        self.until(&format!("{name} is down"), |status| {
            let member = status.partitions[0].members.iter().find(|member| member.name == name)?;
            (member.pid.is_none() && member.state == MemberState::Unreachable).then_some(())
        })
        .await;
        Down { port }
    }

    /// Prints the end of every log.
    fn show_logs(&self) {
        let mut logs = vec![self.log()];
        for entry in std::fs::read_dir(self.dir()).into_iter().flatten().flatten() {
            logs.push(entry.path().join("log"));
        }
        logs.sort();
        for log in logs {
            let Ok(bytes) = std::fs::read(&log) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            eprintln!("===== {} (the last {LOG_LINES} of {} lines)", log.display(), lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        if let Some(supervisor) = &mut self.supervisor {
            // A member that was stopped by a test cannot end before it goes on.
            for (pid, _) in process::naming(self.home.path()) {
                process::signal(pid, Signal::CONT);
            }
            process::signal(i32::try_from(supervisor.id()).expect("a pid"), Signal::TERM);
            if process::wait(supervisor, STOP).is_none() {
                let _ = supervisor.kill();
                let _ = supervisor.wait();
            }
        }
        for (pid, line) in process::naming(self.home.path()) {
            eprintln!("still there, and killed: {pid} {line}");
            process::signal(pid, Signal::KILL);
        }
    }
}

/// Keeps a member down; see [`Cluster::keep_down`].
pub struct Down {
    port: TcpListener,
}

impl Down {
    /// Lets it start again.
    pub fn release(self) {
        drop(self.port);
    }
}

/// The leader that serves, if there is one.
pub fn leader_of(status: &ArmdbClusterStatus) -> Option<MemberStatus> {
    let partition = &status.partitions[0];
    if partition.state != PartitionState::Available {
        return None;
    }
    let leader = partition.leader.as_ref()?;
    partition.members.iter().find(|member| member.name == *leader && member.pid.is_some()).cloned()
}
