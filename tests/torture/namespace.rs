//! A network namespace whose only way out is a tunnel that we hold the other end of.
//!
//! It has no name: it lives as long as somebody is in it or holds [`Namespace`], so nothing is left behind, however a run
//! ends.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

/// From <linux/if_tun.h>.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: i16 = 0x0001;
const IFF_NO_PI: i16 = 0x1000;
/// Large, so that a long message is few packets.
const MTU: &str = "16000";
const DEVICE: &str = "wire0";

/// See the module.
pub struct Namespace {
    /// The namespace itself.
    own: File,
    /// Packets that leave it are read here, packets for it are written here.
    pub tunnel: File,
    /// Its only address.
    pub address: Ipv4Addr,
}

impl Namespace {
    /// Makes one. Needs root.
    pub fn new(address: Ipv4Addr) -> io::Result<Self> {
        // A thread of its own: it stays in there until it ends.
        let made = std::thread::spawn(move || {
            // SAFETY: it changes the namespace of this thread alone, which does nothing else.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            let own = File::open("/proc/thread-self/ns/net")?;
            let tunnel = tunnel()?;
            ip(&["link", "set", "lo", "up"])?;
            ip(&["addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
            ip(&["link", "set", DEVICE, "mtu", MTU, "up"])?;
            Ok(Self { own, tunnel, address })
        });
        made.join().map_err(|_| io::Error::other("making a namespace panicked"))?
    }

    /// A path to it that another process can enter.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.own.as_raw_fd())
    }
}

/// Moves the calling thread, and those that it starts, into the namespace with this path.
pub fn enter(path: &str) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the descriptor is open; only this thread's network namespace changes.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Runs something on a thread of its own in the namespace with this path.
pub fn within<F: Future<Output = ()>>(path: String, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        enter(&path).expect("the namespace is there");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work());
    })
}

fn tunnel() -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: a name of 16 bytes, the flags, and room for the rest of the union.
    let mut request = [0_u8; 40];
    request[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the descriptor is open and the request is as long as the kernel reads and writes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) })?;
    // SAFETY: the descriptor is open; F_SETFL takes an int.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(file)
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))))
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
