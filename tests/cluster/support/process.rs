//! Processes: signals, the command line under test, and who is still there.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::LOOK;

/// The program under test.
pub const ARMDB: &str = env!("CARGO_BIN_EXE_armdb");

/// `armdb` with these arguments and a clean environment of its own variables.
pub fn armdb<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(ARMDB);
    command
        .args(args)
        .env_remove("ARMDB_ENDPOINTS")
        .env_remove("ARMDB_DIR")
        .env_remove("ARMDB_LOG")
        .stdin(Stdio::null());
    command
}

/// Has the kernel end the child when the test that starts it ends, whatever way.
pub fn dies_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only async-signal-safe calls may be made; this makes one prctl system call,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)
        })
    }
}

/// Sends a signal; false = there is no such process.
pub fn signal(pid: i32, signal: Signal) -> bool {
    let pid = Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).is_ok()
}

/// Runs a command to its end in the background of the runtime.
pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().expect("the program runs")).await.expect("no panic")
}

/// What a command printed, for a message.
pub fn told(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits for a child for at most `patience`.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => return Some(status),
            None if begun.elapsed() > patience => return None,
            None => std::thread::sleep(LOOK),
        }
    }
}

/// Every process that names `dir` on its command line, with that line.
pub fn naming(dir: &Path) -> Vec<(i32, String)> {
    let dir = dir.to_str().expect("a path in UTF-8");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc can be read") {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        let line = command_line(pid);
        if line.contains(dir) {
            found.push((pid, line));
        }
    }
    found
}

/// Whether a process names `dir` on its command line.
pub fn names(pid: i32, dir: &Path) -> bool {
    command_line(pid).contains(dir.to_str().expect("a path in UTF-8"))
}

/// Empty for a process that has ended.
fn command_line(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Memory of a process that is in RAM, in bytes.
pub fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is told");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib * 1024
}

/// Copies a directory with everything in it.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("an entry");
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
