//! A member on a disk of a few megabytes: a tmpfs in a mount namespace that the supervisor's processes share and
//! nobody else sees; it is gone with them.

use std::path::Path;
use std::process::{Command, Output};

use super::Cluster;
use super::process::{armdb, told};

/// As root a mount namespace is enough; others need a user namespace around it, where the system allows that.
fn namespace() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() { &["-m"] } else { &["-r", "-m"] }
}

fn run_to_end(command: &mut Command) -> Result<Output, String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => Err(told(&output)),
        Err(error) => Err(error.to_string()),
    }
}

/// Why this machine cannot have one; None if it can.
pub fn impossible() -> Option<String> {
    let script = "mount -t tmpfs -o size=1m armdb /mnt";
    run_to_end(Command::new("unshare").args(namespace()).args(["/bin/sh", "-c", script])).err()
}

/// Runs the cluster with `member`'s home on a disk of this size.
pub fn run(cluster: &mut Cluster, member: &str, size: &str) {
    let home = cluster.dir().join(member);
    run_on(cluster, &home, size);
}

/// Runs the cluster with all of its directory, the register too, on one disk of this size.
pub fn run_whole(cluster: &mut Cluster, size: &str) {
    cluster.set_apart();
    let home = cluster.dir();
    run_on(cluster, &home, size);
}

fn run_on(cluster: &mut Cluster, home: &Path, size: &str) {
    std::fs::create_dir_all(home).expect("made");
    let script = "mount -t tmpfs -o \"size=$0\" armdb \"$1\" && shift && exec \"$@\"";
    let plain = armdb(std::iter::empty::<&str>());
    let mut command = Command::new("unshare");
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    command.args(namespace()).args(["/bin/sh", "-c", script, size]).arg(home).arg(plain.get_program());
    command.stdin(std::process::Stdio::null());
    cluster.run_by(command);
}

/// Makes the disk larger or smaller.
pub fn resize(cluster: &Cluster, member: &str, size: &str) {
    let pid = cluster.supervisor().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid, "-m"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["-U", "--preserve-credentials"]);
    }
    command.args(["mount", "-o", &format!("remount,size={size}")]).arg(cluster.dir().join(member));
    run_to_end(&mut command).expect("resized");
}
