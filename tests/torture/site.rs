//! A cluster of `armdb local` whose members, controller and clients live in network namespaces of their own, joined by
//! the [`Wire`]; one member's home is a small file system on a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

use armdb::client::ClientOptions;
use rustix::process::Signal;

use super::clocks::Clocks;
use super::namespace::Namespace;
use super::support::process::{self, armdb};
use super::support::{Cluster, Manifest};
use super::wire::{Ends, Wire};

/// Clients are in two places.
pub const CLIENT_PLACES: usize = 2;
/// Room for the log, the reserve that a member keeps for deletes, and some more.
const SMALL_DISK: &str = "1200M";

/// Starts a member when nobody holds it back, in its namespace, with its clock.
const LAUNCH: &str = r#"#!/bin/sh
hold=$1 net=$2
shift 2
while [ -e "$hold" ]; do sleep 0.05; done
exec nsenter --net="$net" env "$@"
"#;

/// See the module.
pub struct Site {
    pub cluster: Cluster,
    pub wire: Wire,
    pub members: usize,
    /// None where the machine cannot have them, and why.
    pub clocks: Result<Clocks, String>,
    /// The member on the small disk; None if there is none, and why.
    pub small: Result<usize, String>,
}

impl Site {
    /// Makes everything; nothing runs yet.
    pub fn new(manifest: Manifest, seed: u64, small: usize) -> std::io::Result<Self> {
        let members = manifest.replicas();
        let mut namespaces = Vec::new();
        for end in 0..members + 1 + CLIENT_PLACES {
            namespaces.push(Namespace::new([10, 0, 0, 1 + end as u8].into())?);
        }
        let cluster = Cluster::prepare(manifest);
        let home = cluster.scratch().to_owned();
        let clocks = Clocks::new(&home, members);
        let script = home.join("launch");
        std::fs::write(&script, LAUNCH)?;
        let mut places = String::new();
        for (member, namespace) in namespaces.iter().take(members).enumerate() {
            let mut launcher = vec!["/bin/sh".to_owned(), script.display().to_string()];
            launcher.push(hold(&home, member).display().to_string());
            launcher.push(namespace.path());
            launcher.extend(clocks.iter().flat_map(|clocks| clocks.environment(member)));
            let launcher = serde_json::to_string(&launcher)?;
            places += &format!("{}: {{address: {}, launcher: {launcher}}}\n", name(member), namespace.address);
        }
        std::fs::write(home.join("places.yaml"), places)?;
        let small = small_disk(&home, &cluster.dir().join(name(small))).map(|()| small);
        let wire = Wire::new(namespaces, seed);
        Ok(Self { cluster, wire, members, clocks, small })
    }

    /// Starts the supervisor, which starts the members.
    pub fn run(&mut self) {
        let plain = armdb(std::iter::empty::<&str>());
        let controller = &self.wire.namespaces()[self.members];
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", controller.path())).arg("env");
        command.arg(format!("ARMDB_LOCAL_PLACES={}", self.cluster.scratch().join("places.yaml").display()));
        command.arg(plain.get_program()).stdin(std::process::Stdio::null());
        for variable in ["ARMDB_ENDPOINTS", "ARMDB_DIR", "ARMDB_LOG"] {
            command.env_remove(variable);
        }
        self.cluster.run_by(command);
    }

    /// The members as ends of the wire.
    pub fn all_members(&self) -> Ends {
        (1 << self.members) - 1
    }

    /// The controller as an end of the wire.
    pub fn controller(&self) -> Ends {
        1 << self.members
    }

    /// The clients as ends of the wire.
    pub fn clients(&self) -> Ends {
        ((1 << CLIENT_PLACES) - 1) << (self.members + 1)
    }

    /// Everybody.
    pub fn everybody(&self) -> Ends {
        self.all_members() | self.controller() | self.clients()
    }

    /// A member's process, if it runs.
    pub fn pid(&self, member: usize) -> Option<i32> {
        let flag = format!("--name {} ", name(member));
        let mut found = process::naming(&self.cluster.dir()).into_iter();
        found.find(|(_, line)| line.contains(" node --supervised") && line.contains(&flag)).map(|(pid, _)| pid)
    }

    /// Signals a member; false = it does not run.
    pub fn signal(&self, member: usize, signal: Signal) -> bool {
        self.pid(member).is_some_and(|pid| self.cluster.signal(pid, signal))
    }

    /// A member's data.
    pub fn data(&self, member: usize) -> PathBuf {
        self.cluster.dir().join(name(member)).join("data")
    }

    /// Kills a member and keeps it from starting until the guard is dropped.
    pub async fn hold(&self, member: usize) -> Held {
        let file = hold(self.cluster.scratch(), member);
        std::fs::write(&file, b"").expect("a file is made");
        let held = Held(file);
        super::support::eventually("a member that is held back does not run", async || {
            let Some(pid) = self.pid(member) else { return Some(()) };
            let waits = std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sh");
            if !waits {
                self.cluster.signal(pid, Signal::KILL);
            }
            waits.then_some(())
        })
        .await;
        held
    }

    /// Options of a client that knows every member.
    pub fn client_options(&self) -> ClientOptions {
        ClientOptions::new(self.cluster.file().endpoints())
    }
}

/// Keeps a member down.
pub struct Held(PathBuf);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn hold(home: &Path, member: usize) -> PathBuf {
    home.join(format!("hold-{member}"))
}

/// The name of a member.
pub fn name(member: usize) -> String {
    format!("kv-0-{member}")
}

/// Puts a file system on a loop device under `place`. It is seen in this mount namespace only, and gone with it.
fn small_disk(home: &Path, place: &Path) -> Result<(), String> {
    std::fs::create_dir_all(place).map_err(|error| error.to_string())?;
    let image = home.join("disk.img");
    let (image, place) = (image.display().to_string(), place.display().to_string());
    for line in [
        &["truncate", "-s", SMALL_DISK, &image][..],
        &["mkfs.ext4", "-q", "-F", "-m", "0", &image],
        &["mount", "-o", "loop", &image, &place],
    ] {
        let output =
            Command::new(line[0]).args(&line[1..]).output().map_err(|error| format!("{}: {error}", line[0]))?;
        if !output.status.success() {
            return Err(format!("{}: {}", line.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

/// Takes the small disk away, so that the directory can be removed.
pub fn release_disk(site: &Site) {
    if let Ok(member) = site.small {
        let _ = Command::new("umount").arg("-l").arg(site.cluster.dir().join(name(member))).output();
    }
}
