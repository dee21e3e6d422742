//! The network between namespaces: every packet goes through here, and may be lost, delayed, doubled or overtaken.
//!
//! One thread reads what leaves each namespace and writes it into the one that it is addressed to, at once or when its
//! time has come. It needs nothing of the kernel but tunnels: neither `tc netem` nor a packet filter. Rules lie over each
//! other; each is lifted when its guard is dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dice::Dice;
use super::namespace::Namespace;

/// Ends of the wire, as bits.
pub type Ends = u32;

/// What happens to packets on their way.
#[derive(Debug, Clone, Copy)]
pub enum Treatment {
    /// None arrives.
    Cut,
    /// So many of a thousand are lost.
    Lose(u64),
    /// So many of a thousand arrive twice.
    Double(u64),
    /// They take this long, and up to that much longer each: they overtake each other.
    Delay(Duration, Duration),
}

/// Packets from any of these to any of those.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub from: Ends,
    pub to: Ends,
    pub treatment: Treatment,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    cut: bool,
    lose: u64,
    double: u64,
    delay: Duration,
    spread: Duration,
}

struct Shared {
    namespaces: Vec<Namespace>,
    rules: Mutex<(u64, Vec<(u64, Vec<Rule>)>)>,
    /// Raised when the rules change.
    version: AtomicU64,
    ended: AtomicBool,
    carried: AtomicU64,
    lost: AtomicU64,
    /// By how many microseconds a wait was longer than asked for, at most: the machine was busy with others.
    late_us: AtomicU64,
}

/// See the module.
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Holds rules up.
pub struct Imposed {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Imposed {
    fn drop(&mut self) {
        self.shared.rules.lock().1.retain(|(id, _)| *id != self.id);
        self.shared.version.fetch_add(1, Ordering::Release);
    }
}

impl Wire {
    /// Begins to carry packets between these.
    pub fn new(namespaces: Vec<Namespace>, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            namespaces,
            rules: Mutex::default(),
            version: AtomicU64::new(1),
            ended: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            late_us: AtomicU64::new(0),
        });
        let carrier = Carrier { shared: Arc::clone(&shared), dice: Dice::new(seed), late: BinaryHeap::new(), count: 0 };
        Self { shared, thread: Some(std::thread::spawn(move || carrier.run())) }
    }

    /// What lies at its ends, in the order given.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.shared.namespaces
    }

    /// Puts rules up until the guard is dropped.
    pub fn impose(&self, rules: Vec<Rule>) -> Imposed {
        let mut all = self.shared.rules.lock();
        all.0 += 1;
        let id = all.0;
        all.1.push((id, rules));
        self.shared.version.fetch_add(1, Ordering::Release);
        Imposed { shared: Arc::clone(&self.shared), id }
    }

    /// Packets that arrived, and that were lost on purpose.
    pub fn figures(&self) -> (u64, u64) {
        (self.shared.carried.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }

    /// The longest that this machine kept the network from going on: what nobody did on purpose.
    pub fn latest(&self) -> Duration {
        Duration::from_micros(self.shared.late_us.load(Ordering::Relaxed))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Carrier {
    shared: Arc<Shared>,
    dice: Dice,
    /// What arrives later: when, in which order, where, what.
    late: BinaryHeap<Reverse<(Instant, u64, usize, Vec<u8>)>>,
    count: u64,
}

impl Carrier {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let ends = shared.namespaces.len();
        let mut links = vec![Link::default(); ends * ends];
        let mut version = 0;
        let mut packet = vec![0; 1 << 16];
        let descriptor =
            |namespace: &Namespace| libc::pollfd { fd: namespace.tunnel.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut polled: Vec<libc::pollfd> = shared.namespaces.iter().map(descriptor).collect();
        while !shared.ended.load(Ordering::Relaxed) {
            let next = self.late.peek().map(|Reverse((due, ..))| due.saturating_duration_since(Instant::now()));
            let wait = next.unwrap_or(Duration::MAX).min(Duration::from_millis(50));
            let wait = wait.as_micros().div_ceil(1000) as libc::c_int;
            let asked = Instant::now() + Duration::from_millis(wait as u64);
            // SAFETY: the array is as long as is said, and its descriptors are open.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, wait) };
            let late = Instant::now().saturating_duration_since(asked).as_micros() as u64;
            shared.late_us.fetch_max(late, Ordering::Relaxed);
            let now_version = shared.version.load(Ordering::Acquire);
            if version != now_version {
                version = now_version;
                links = table(&shared.rules.lock().1, ends);
            }
            for from in (0..ends).filter(|end| polled[*end].revents & libc::POLLIN != 0) {
                // A few at a time: nobody shall wait for one who sends without end.
                for _ in 0..64 {
                    let Ok(len) = (&shared.namespaces[from].tunnel).read(&mut packet) else { break };
                    if let Some(to) = self.destination(&packet[..len]) {
                        self.carry(links[from * ends + to], to, &packet[..len]);
                    }
                }
            }
            let now = Instant::now();
            while self.late.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                if let Some(Reverse((_, _, to, packet))) = self.late.pop() {
                    self.deliver(to, &packet);
                }
            }
        }
    }

    /// Who has the address that an IPv4 packet is for.
    fn destination(&self, packet: &[u8]) -> Option<usize> {
        let address = packet.get(16..20).filter(|_| packet[0] >> 4 == 4)?;
        self.shared.namespaces.iter().position(|namespace| namespace.address.octets() == *address)
    }

    fn carry(&mut self, link: Link, to: usize, packet: &[u8]) {
        if link.cut || self.dice.below(1000) < link.lose {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let copies = 1 + u64::from(self.dice.below(1000) < link.double);
        for _ in 0..copies {
            if link.delay.is_zero() && link.spread.is_zero() {
                self.deliver(to, packet);
                continue;
            }
            let more = Duration::from_micros(self.dice.below(link.spread.as_micros() as u64 + 1));
            self.count += 1;
            self.late.push(Reverse((Instant::now() + link.delay + more, self.count, to, packet.to_vec())));
        }
    }

    fn deliver(&self, to: usize, packet: &[u8]) {
        // A full queue loses a packet, as real ones do.
        if (&self.shared.namespaces[to].tunnel).write(packet).is_ok() {
            self.shared.carried.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn table(rules: &[(u64, Vec<Rule>)], ends: usize) -> Vec<Link> {
    let mut links = vec![Link::default(); ends * ends];
    for rule in rules.iter().flat_map(|(_, rules)| rules) {
        for from in (0..ends).filter(|end| rule.from >> end & 1 == 1) {
            for to in (0..ends).filter(|end| rule.to >> end & 1 == 1) {
                let link = &mut links[from * ends + to];
                match rule.treatment {
                    Treatment::Cut => link.cut = true,
                    Treatment::Lose(share) => link.lose = link.lose.max(share),
                    Treatment::Double(share) => link.double = link.double.max(share),
                    Treatment::Delay(delay, spread) => {
                        link.delay += delay;
                        link.spread += spread;
                    }
                }
            }
        }
    }
    links
}
