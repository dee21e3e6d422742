//! What is done to the cluster: one fault at a time is begun, some of them last while the next ones come.
//!
//! A seed decides what comes, to whom, for how long. Faults that destroy data of one member (its directory wiped, or
//! replaced by a copy of another's) begin only when every member is in sync: the promise is that a minority may be lost.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use super::dice::Dice;
use super::kinds::kinds;
use super::lasting::Lasting;
use super::site::{Held, Site, name};
use super::support::{eventually, process};
use super::wire::{Ends, Imposed, Rule, Treatment};

/// How long somebody may be cut off, or a link be bad.
const CUT: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(20));
/// How long a process may be stopped.
const STOP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// What stays free on a full disk, at most.
const LEFT_BYTES: u64 = 6 << 20;

kinds! {
    KillMember 14 "a member killed (SIGKILL)",
    KillLeader 8 "the leader killed",
    EndMember 4 "a member told to end (SIGTERM)",
    KillAll 4 "all members killed at once",
    KillSupervisor 3 "the supervisor killed",
    KillEverything 2 "the supervisor and all members killed",
    StopMember 12 "a member stopped (SIGSTOP)",
    StopLeader 5 "the leader stopped",
    StopSupervisor 3 "the supervisor stopped",
    HoldDown 4 "a member kept down",
    CutOff 8 "a member cut off from all",
    CutOffLeader 6 "the leader cut off from all",
    CutFromMembers 5 "a member cut off from the other members",
    OneWayOut 5 "a member heard by nobody (one way)",
    OneWayIn 5 "a member that hears nobody (one way)",
    Bridge 5 "two halves with one member between (bridge)",
    Halves 5 "two halves",
    CutController 5 "the controller cut off from members",
    CutClients 3 "clients cut off from a member",
    Slow 6 "slow links",
    Lossy 6 "lossy links",
    Unordered 3 "packets doubled and out of order",
    FullDisk 6 "a disk full",
    Wiped 3 "a directory wiped",
    Copied 2 "a directory copied (one sid twice)",
    Clock 7 "a wall clock set",
    Switchover 5 "a switchover asked for",
    RegisterLost 2 "the register removed",
}

/// What ends when a fault ends.
enum Undo {
    Rules { _imposed: Imposed },
    Continue(i32),
    Release { _held: Held },
    Room(std::path::PathBuf),
}

/// See the module.
pub struct Faults {
    dice: Dice,
    active: Lasting<(Kind, Undo)>,
    /// How many of each kind were begun.
    pub counts: BTreeMap<Kind, u64>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), active: Lasting::new(), counts: BTreeMap::new() }
    }

    /// Ends what is due.
    pub fn end_due(&mut self, site: &Site) {
        end(self.active.due(), site);
    }

    /// Ends everything.
    pub fn end_all(&mut self, site: &Site) {
        end(self.active.all(), site);
    }

    /// How long to wait for the next.
    pub fn pause(&mut self) -> Duration {
        self.dice.time(Duration::from_millis(100), Duration::from_millis(4000))
    }

    /// Whether to let everything recover now.
    pub fn rests(&mut self) -> bool {
        self.dice.one_in(14)
    }

    /// Which comes next.
    pub fn next(&mut self) -> Kind {
        Kind::draw(&mut self.dice)
    }

    /// Whether it may begin only when every member is in sync.
    pub fn wants_health(kind: Kind) -> bool {
        matches!(kind, Kind::Wiped | Kind::Copied | Kind::RegisterLost)
    }

    /// Begins a fault; what happened, in words. None = it could not be begun now.
    pub async fn begin(&mut self, kind: Kind, site: &mut Site) -> Option<String> {
        let told = self.try_begin(kind, site).await?;
        *self.counts.entry(kind).or_default() += 1;
        Some(told)
    }

    async fn try_begin(&mut self, kind: Kind, site: &mut Site) -> Option<String> {
        let member = self.dice.below(site.members as u64) as usize;
        let who = name(member);
        match kind {
            Kind::KillMember => site.signal(member, Signal::KILL).then(|| format!("{who} is killed")),
            Kind::EndMember => site.signal(member, Signal::TERM).then(|| format!("{who} is told to end")),
            Kind::KillLeader => {
                let leader = leader(site).await?;
                site.signal(leader, Signal::KILL).then(|| format!("{} is killed while it leads", name(leader)))
            }
            Kind::KillAll => {
                kill_all(site);
                Some("all members are killed".into())
            }
            Kind::KillSupervisor | Kind::KillEverything => {
                if kind == Kind::KillEverything {
                    kill_all(site);
                }
                self.restart_supervisor(site).await;
                Some("the supervisor is killed and started again".into())
            }
            Kind::StopMember => self.stop(kind, site.pid(member)?, &who),
            Kind::StopLeader => {
                let leader = leader(site).await?;
                self.stop(kind, site.pid(leader)?, &format!("{} (it leads)", name(leader)))
            }
            Kind::StopSupervisor => self.stop(kind, site.cluster.supervisor(), "the supervisor"),
            Kind::HoldDown => {
                if self.active.any(|(active, _)| *active == kind) {
                    return None;
                }
                let held = site.hold(member).await;
                let time = self.last(kind, CUT, Undo::Release { _held: held });
                Some(format!("{who} is kept down for {time:?}"))
            }
            Kind::CutOff => self.cut_off(kind, member, site),
            Kind::CutOffLeader => {
                let leader = leader(site).await?;
                self.cut_off(kind, leader, site)
            }
            Kind::CutFromMembers => {
                let rules = both_ways(1 << member, site.all_members() & !(1 << member), Treatment::Cut);
                self.impose(kind, site, rules, format!("{who} is cut off from the other members"))
            }
            Kind::OneWayOut | Kind::OneWayIn => {
                let (this, others) = (1 << member, site.everybody() & !(1 << member));
                let (from, to) = if kind == Kind::OneWayOut { (this, others) } else { (others, this) };
                let rules = vec![Rule { from, to, treatment: Treatment::Cut }];
                let what = if kind == Kind::OneWayOut { "is heard by nobody" } else { "hears nobody" };
                self.impose(kind, site, rules, format!("{who} {what}"))
            }
            Kind::Bridge => {
                let one = self.some(site.everybody() & !(1 << member));
                let other = site.everybody() & !one & !(1 << member);
                let rules = both_ways(one, other, Treatment::Cut);
                self.impose(kind, site, rules, format!("{one:b} and {other:b} are apart, {who} hears both"))
            }
            Kind::Halves => {
                let one = self.some(site.everybody());
                let rules = both_ways(one, site.everybody() & !one, Treatment::Cut);
                self.impose(kind, site, rules, format!("{one:b} is apart from the rest"))
            }
            Kind::CutController => {
                let members = self.some(site.all_members());
                let rules = both_ways(site.controller(), members, Treatment::Cut);
                self.impose(kind, site, rules, format!("the controller is cut off from {members:b}"))
            }
            Kind::CutClients => {
                let clients = self.some(site.clients());
                let rules = both_ways(clients, 1 << member, Treatment::Cut);
                self.impose(kind, site, rules, format!("clients {clients:b} are cut off from {who}"))
            }
            Kind::Slow => {
                let delay = self.dice.time(Duration::from_millis(1), Duration::from_millis(400));
                let spread = delay.mul_f64(self.dice.below(100) as f64 / 100.0);
                let ends = self.some(site.everybody());
                let rules = both_ways(ends, site.everybody(), Treatment::Delay(delay / 2, spread));
                self.impose(kind, site, rules, format!("links of {ends:b} take {delay:?} and up to {spread:?} more"))
            }
            Kind::Lossy => {
                let share = 10 + self.dice.below(300);
                let ends = self.some(site.everybody());
                let rules = both_ways(ends, site.everybody(), Treatment::Lose(share));
                self.impose(kind, site, rules, format!("links of {ends:b} lose {share} packets of 1000"))
            }
            Kind::Unordered => {
                let mut rules = both_ways(site.everybody(), site.everybody(), Treatment::Double(100));
                rules.extend(both_ways(
                    site.everybody(),
                    site.everybody(),
                    Treatment::Delay(Duration::ZERO, Duration::from_millis(20)),
                ));
                self.impose(kind, site, rules, "packets are doubled and overtake each other".into())
            }
            Kind::FullDisk => {
                let small = *site.small.as_ref().ok()?;
                if self.active.any(|(active, _)| *active == kind) {
                    return None;
                }
                let ballast = site.cluster.dir().join(name(small)).join("ballast");
                let left = self.dice.below(LEFT_BYTES);
                fill(&ballast, left).ok()?;
                let time = self.last(kind, CUT, Undo::Room(ballast));
                Some(format!("the disk of {} is full but for {left} bytes, for {time:?}", name(small)))
            }
            Kind::Wiped => {
                let held = site.hold(member).await;
                // Not the directory itself: on the small disk it is where that is mounted.
                std::fs::remove_dir_all(site.data(member)).ok()?;
                drop(held);
                Some(format!("{who} has lost its directory"))
            }
            Kind::Copied => self.copy(member, site).await,
            Kind::Clock => {
                let clocks = site.clocks.as_ref().ok()?;
                let off = self.dice.time(Duration::from_millis(50), Duration::from_secs(7200)).as_millis() as i64;
                let off = match self.dice.below(5) {
                    0 => 0,
                    1 | 2 => off,
                    _ => -off,
                };
                clocks.set_wrong(member, off);
                Some(format!("{who}'s clock is set {off} ms off"))
            }
            Kind::Switchover => {
                let asked = site.cluster.ask(["switchover"]);
                let asked = tokio::time::timeout(Duration::from_secs(3), asked).await;
                let answer = asked.map_or("no answer yet".to_owned(), |answer| answer.status.to_string());
                Some(format!("the lead is asked to move: {answer}"))
            }
            Kind::RegisterLost => {
                std::fs::remove_file(site.cluster.dir().join("register.json")).ok()?;
                Some("the register is removed".into())
            }
        }
    }

    /// One of a member's processes meets its double: another member's data in its place. It must be refused and told,
    /// and leave when its own data is back.
    async fn copy(&mut self, member: usize, site: &mut Site) -> Option<String> {
        let other = (member + 1 + self.dice.below(site.members as u64 - 1) as usize) % site.members;
        let told = || site.cluster.said().matches("it is refused and left as it is").count();
        let before = told();
        let own = site.data(member).with_file_name("own");
        {
            let _held = site.hold(member).await;
            std::fs::rename(site.data(member), &own).ok()?;
            if copy_live(&site.data(other), &site.data(member)).is_err() {
                // No room: it keeps what it has.
                std::fs::remove_dir_all(site.data(member)).expect("half a copy is removed");
                std::fs::rename(&own, site.data(member)).expect("its own data is put back");
                return None;
            }
        }
        eventually("storage that is there twice is told", async || (told() > before).then_some(())).await;
        let lasted = self.dice.time(Duration::from_millis(200), Duration::from_secs(8));
        tokio::time::sleep(lasted).await;
        {
            let _held = site.hold(member).await;
            std::fs::remove_dir_all(site.data(member)).expect("the copy is removed");
            std::fs::rename(&own, site.data(member)).expect("its own data is put back");
        }
        Some(format!("{} ran over a copy of {}'s data for {lasted:?}, was refused and told", name(member), name(other)))
    }

    async fn restart_supervisor(&mut self, site: &mut Site) {
        // Whoever is stopped cannot see that its supervisor is gone.
        end(self.active.those(|(_, undo)| matches!(undo, Undo::Continue(_))), site);
        site.cluster.end(Signal::KILL).await;
        eventually("nobody is left", async || process::naming(&site.cluster.dir()).is_empty().then_some(())).await;
        site.run();
    }

    fn stop(&mut self, kind: Kind, pid: i32, who: &str) -> Option<String> {
        if !process::signal(pid, Signal::STOP) {
            return None;
        }
        let time = self.last(kind, STOP, Undo::Continue(pid));
        Some(format!("{who} is stopped for {time:?}"))
    }

    fn cut_off(&mut self, kind: Kind, member: usize, site: &Site) -> Option<String> {
        let rules = both_ways(1 << member, site.everybody() & !(1 << member), Treatment::Cut);
        self.impose(kind, site, rules, format!("{} is cut off from all", name(member)))
    }

    fn impose(&mut self, kind: Kind, site: &Site, rules: Vec<Rule>, what: String) -> Option<String> {
        let imposed = site.wire.impose(rules);
        let time = self.last(kind, CUT, Undo::Rules { _imposed: imposed });
        Some(format!("{what} for {time:?}"))
    }

    fn last(&mut self, kind: Kind, (from, to): (Duration, Duration), undo: Undo) -> Duration {
        let time = self.dice.time(from, to);
        self.active.begin(time, (kind, undo));
        time
    }

    /// Some of these, not all and not none of them if there are two.
    fn some(&mut self, of: Ends) -> Ends {
        loop {
            let drawn = self.dice.below(1 << 32) as Ends & of;
            if drawn != 0 && (drawn != of || of.count_ones() < 2) {
                return drawn;
            }
        }
    }
}

fn end(faults: Vec<(Kind, Undo)>, site: &Site) {
    for (_, undo) in faults {
        match undo {
            Undo::Continue(pid) => drop(site.cluster.signal(pid, Signal::CONT)),
            Undo::Room(ballast) => drop(std::fs::remove_file(ballast)),
            Undo::Rules { .. } | Undo::Release { .. } => {}
        }
    }
}

fn kill_all(site: &Site) {
    for member in 0..site.members {
        site.signal(member, Signal::KILL);
    }
}

fn both_ways(one: Ends, other: Ends, treatment: Treatment) -> Vec<Rule> {
    vec![Rule { from: one, to: other, treatment }, Rule { from: other, to: one, treatment }]
}

async fn leader(site: &Site) -> Option<usize> {
    let leader = super::support::cluster::leader_of(&site.cluster.try_status().await?)?;
    (0..site.members).find(|member| name(*member) == leader.name)
}

/// Takes all room of a disk but so much.
fn fill(ballast: &std::path::Path, left: u64) -> std::io::Result<()> {
    let file = std::fs::File::create(ballast)?;
    let disk = rustix::fs::fstatvfs(&file)?;
    let free = disk.f_bavail * disk.f_frsize;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free.saturating_sub(left).max(1))?;
    Ok(())
}

/// Copies a directory that somebody writes to: what goes away meanwhile is not copied.
fn copy_live(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let copied = if entry.file_type()?.is_dir() {
            copy_live(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).map(drop)
        };
        match copied {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
