//! Ports for members: chosen once, outside the range from which the kernel takes ports for outgoing connections.
//!
//! A port from that range could be taken by any program's outgoing connection while its member restarts, and a
//! connection to a member that is down could connect to itself. Which ports are tried first is random, so that
//! clusters started at the same moment seldom meet; each is tried by binding it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::error::LocalError;

/// Where to look if the kernel's range leaves no room below it.
const LOWEST: u16 = 10_000;

/// `wanted` different free ports on 127.0.0.1, none of them in `taken`.
pub fn choose(wanted: usize, taken: &BTreeSet<u16>) -> Result<Vec<u16>, LocalError> {
    let range = candidates();
    let span = u32::from(range.1 - range.0) + 1;
    let mut state = getrandom::u32().unwrap_or_else(|_| std::process::id());
    // Listeners are kept until all ports are chosen: two locals that choose at once do not get the same ones.
    let mut held = Vec::with_capacity(wanted);
    let mut tried = BTreeSet::new();
    while held.len() < wanted && (tried.len() as u32) < span {
        // A full-period step through the range from a random start: every port is tried once.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let port = range.0 + ((state >> 8) % span) as u16;
        if !tried.insert(port) {
            if let Some(next) = (range.0..=range.1).find(|port| !tried.contains(port)) {
                tried.insert(next);
                try_port(next, taken, &mut held);
            }
            continue;
        }
        try_port(port, taken, &mut held);
    }
    if held.len() < wanted {
        return Err(LocalError::NoPorts { wanted });
    }
    Ok(held.iter().map(|(port, _)| *port).collect())
}

fn try_port(port: u16, taken: &BTreeSet<u16>, held: &mut Vec<(u16, TcpListener)>) {
    if taken.contains(&port) {
        return;
    }
    if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        held.push((port, listener));
    }
}

/// Whether `address` can be listened on now; the reason if not.
pub fn check(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// The larger of the gaps below and above the kernel's range for outgoing connections, inclusive.
fn candidates() -> (u16, u16) {
    let (low, high) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| {
            let mut parts = text.split_whitespace().map(str::parse::<u16>);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        })
        .unwrap_or((32_768, 60_999));
    let below = (LOWEST, low.saturating_sub(1));
    let above = (high.saturating_add(1).max(LOWEST), u16::MAX);
    let width = |(from, to): (u16, u16)| to.saturating_sub(from);
    let best = if width(below) >= width(above) { below } else { above };
    if width(best) >= 64 { best } else { (LOWEST, u16::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_are_different_free_and_not_among_those_taken() {
        let first = choose(9, &BTreeSet::new()).expect("ports");
        let taken: BTreeSet<u16> = first.iter().copied().collect();
        assert_eq!(taken.len(), 9);
        let second = choose(9, &taken).expect("ports");
        assert!(second.iter().all(|port| !taken.contains(port)));
        for port in second {
            check((Ipv4Addr::LOCALHOST, port).into()).expect("free");
        }
    }

    #[test]
    fn a_port_that_someone_listens_on_is_not_chosen_and_fails_the_check() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("address");
        assert!(check(address).is_err());
    }
}
