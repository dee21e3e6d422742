//! When a majority of the volumes is lost: one survivor's data becomes the truth, because somebody asked for exactly that.
//!
//! One compare-and-swap does it: the register takes a new lineage whose only voter is the survivor. What follows is
//! the ordinary course, whoever carries it out and whatever dies meanwhile: upkeep raises the lineage of a voter that
//! is of an older one (`Recover`), then a leader is elected among the voters there are, and members join it. Members of
//! the older lineage are never told anything again, until somebody asks that their data be set aside.
//!
//! Refused while nothing need be given up: a leader leads or is heard, a read quorum answers (of a register that went
//! back: so many that adopting brings it forward), another member holds more. What cannot be known is said instead: a
//! leader that nobody here reaches is not stopped by this.

use std::collections::BTreeMap;
use std::time::Duration;

use super::change::Kind;
use super::members::{Member, is_blank, may_vote_with_all};
use super::{Call, Controller};
use crate::ident::{AttemptId, ClusterId, Sid};
use crate::position::Gsn;
use crate::replication::rules::is_vacant;
use crate::topology::message::{
    Envelope, HealthReport, InitState, LastConfig, MemberName, RecoverRequest, Request, Role, SetAsideRequest,
};
use crate::topology::notice::Severity;
use crate::topology::register::{DoneRequest, FORMAT_VERSION, Phase, Register};

/// A request that could not be carried out for so long is refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// A leader that was not heard for so long is taken for one that is gone, if somebody says so.
const SILENT: Duration = Duration::from_secs(5);
/// For a member to come back with new storage.
const NEW_STORAGE: Duration = Duration::from_secs(60);
/// Between two requests to the same member.
const AGAIN: Duration = Duration::from_secs(1);
/// What the outcome of a request that was not carried out begins with.
pub const REFUSED: &str = "refused: ";

/// What is told of such a request.
pub(super) fn refused(id: String, why: &str) -> DoneRequest {
    DoneRequest { id, outcome: format!("{REFUSED}{why}") }
}

/// A leader that was heard so lately may be there.
const HEARD: Duration = Duration::from_secs(2);

/// An unsafe recovery that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    pub(super) cluster_id: ClusterId,
    pub(super) from: MemberName,
    pub(super) id: String,
    pub(super) asked: Duration,
}

/// Storage of an older lineage that shall make room for new.
#[derive(Debug, Clone)]
pub(super) struct SetAside {
    pub(super) member: MemberName,
    pub(super) sid: Sid,
    pub(super) id: String,
    pub(super) asked: Duration,
    /// When the member was told last.
    pub(super) told: Option<Duration>,
}

/// Not yet, or never.
enum Hindrance {
    Wait(String),
    Refused(String),
}

impl Controller {
    /// Carries out what was asked for, if it can be now. True: the register is being written.
    pub(super) fn carry_out_recovery(&mut self, register: Option<&Register>) -> bool {
        let Some(wish) = self.recovery.clone() else { return false };
        if register.and_then(|r| r.last_request.as_ref()).is_some_and(|done| done.id == wish.id) {
            self.recovery = None;
            return false;
        }
        let why = match self.plan_recovery(register, &wish) {
            // The wish stays until the register says that it was granted: another controller may be faster.
            Ok((next, text)) => {
                self.tell(Severity::Alarm, "UnsafeRecovery", text);
                if let Some(attempt) = next.attempt {
                    self.own_attempts.insert(attempt);
                    let reason = format!("the data of {} was made the truth", wish.from);
                    self.unfinished = Some((attempt, Kind::Recover, reason, wish.asked));
                }
                self.register.swap(next, &mut self.actions);
                return true;
            }
            Err(Hindrance::Wait(_)) if self.now < wish.asked + PATIENCE => {
                self.wake(wish.asked + PATIENCE);
                return false;
            }
            Err(Hindrance::Wait(why) | Hindrance::Refused(why)) => why,
        };
        self.recovery = None;
        self.tell(Severity::Warning, "RecoveryRefused", why.clone());
        self.outcome = Some(refused(wish.id, &why));
        false
    }

    fn plan_recovery(&mut self, register: Option<&Register>, wish: &Recovery) -> Result<(Register, String), Hindrance> {
        let now = self.now;
        let refused = |why: String| Err(Hindrance::Refused(why));
        if let Some(other) = register.map(|r| r.cluster_id).filter(|id| *id != wish.cluster_id) {
            return refused(format!("the register is of cluster {other}, not of {}", wish.cluster_id));
        }
        let Some(member) = self.members.get(&wish.from) else {
            return refused(format!("there is no member {}", wish.from));
        };
        let Some(report) = member.fresh(now) else {
            return Err(Hindrance::Wait(format!("{} does not answer", wish.from)));
        };
        let standing = &report.standing;
        let survivor = standing.sid;
        if standing.cluster_id != Some(wish.cluster_id) || standing.init != InitState::Done {
            return refused(format!("{} holds no data of cluster {}", wish.from, wish.cluster_id));
        }
        if !may_vote_with_all(&report.shards) {
            let states: Vec<_> = report.shards.iter().map(|s| format!("{:?}", s.state)).collect();
            return refused(format!(
                "the data of {} cannot be the truth, its shards are {}: armdb inspect on its volume says what is wrong",
                wish.from,
                states.join(", ")
            ));
        }
        self.check_need(register, wish, report)?;
        let figures = self.figures_of_loss(report);
        let lineage = self
            .members
            .all()
            .filter_map(|m| m.report.as_ref())
            .filter(|r| r.standing.cluster_id == Some(wish.cluster_id))
            .map(|r| r.standing.lineage)
            .chain(register.map(|r| r.lineage))
            .max()
            .unwrap_or_default()
            + 1;
        let promised = self
            .members
            .all()
            .filter_map(|m| m.report.as_ref())
            .filter(|r| r.standing.cluster_id == Some(wish.cluster_id))
            .map(|r| r.standing.promised.max(r.standing.led))
            .chain(register.map(|r| r.epoch))
            .max()
            .unwrap_or_default();
        let text = format!(
            "lineage {lineage} begins with what {} (storage {survivor}) holds, because somebody accepted that data is lost. \
             {figures}. Data of older lineages is refused from now on and left as it is",
            wish.from
        );
        let base = register.cloned().unwrap_or_else(|| Register {
            format_version: FORMAT_VERSION,
            cluster_id: wish.cluster_id,
            lineage,
            epoch: 0,
            phase: Phase::Electing,
            attempt: None,
            leader: None,
            last_leading: None,
            voters: Vec::new(),
            write_quorum: 1,
            min_voters: 1,
            learners: Vec::new(),
            members: BTreeMap::new(),
            initialized: true,
            format_level: 1,
            slot_table_version: 1,
            shard_time_ms: 0,
            last_request: None,
            unknown: BTreeMap::new(),
        });
        let mut next = Register {
            lineage,
            epoch: promised + 1,
            phase: Phase::Electing,
            attempt: Some(AttemptId(self.random.next_u128())),
            leader: None,
            // Whoever leads the older lineage is no read quorum of this one.
            last_leading: None,
            voters: vec![survivor],
            write_quorum: 1,
            min_voters: self.min_voters(),
            learners: Vec::new(),
            initialized: true,
            last_request: Some(DoneRequest { id: wish.id.clone(), outcome: text.clone() }),
            ..base
        };
        self.note_members(&mut next);
        Ok((next, text))
    }

    /// Whether nobody else can go on without giving data up.
    fn check_need(&self, register: Option<&Register>, wish: &Recovery, report: &HealthReport) -> Result<(), Hindrance> {
        let now = self.now;
        let refused = |why: String| Err(Hindrance::Refused(why));
        let of_cluster = |r: &&HealthReport| r.standing.cluster_id == Some(wish.cluster_id);
        for other in self.members.all() {
            let led = other
                .known()
                .filter(of_cluster)
                .is_some_and(|r| r.standing.lineage == report.standing.lineage && r.role == Role::Leader && r.serving);
            if led && other.fresh(now).is_none() && other.silence(now) < SILENT {
                return Err(Hindrance::Wait(format!("{} led a moment ago, and may still acknowledge", other.name())));
            }
            let Some(r) = other.fresh(now).filter(of_cluster) else { continue };
            if r.standing.lineage > report.standing.lineage {
                return refused(format!(
                    "{} is of lineage {}, newer than that of {}: recover from it, or restore a newer register",
                    other.name(),
                    r.standing.lineage,
                    wish.from
                ));
            }
            if r.standing.lineage < report.standing.lineage {
                continue;
            }
            if r.role == Role::Leader && r.serving && r.cannot_commit.is_zero() {
                return refused(format!("{} leads: nothing need be given up", other.name()));
            }
            let hears = r.leader.is_some() && !r.leader_gone && r.leader_silence.is_some_and(|silence| silence < HEARD);
            if hears {
                return Err(Hindrance::Wait(format!(
                    "{} hears a leader: it may still acknowledge; nothing is given up while it does",
                    other.name()
                )));
            }
            if r.standing.sid != report.standing.sid && may_vote_with_all(&r.shards) && holds_more(r, report) {
                return refused(format!(
                    "{} holds more than {}: recover from that one, so that less is lost",
                    other.name(),
                    wish.from
                ));
            }
        }
        let Some(register) = register else { return Ok(()) };
        if !register.initialized {
            return refused("the cluster was never begun: nothing is lost".into());
        }
        let present = self.present_voters(register);
        if self.ahead_of(register).is_some() {
            // Who it counts as voters need not have what was committed since.
            if self.remains_now(register).is_some_and(|remains| remains.may_be_adopted()) {
                return refused(format!(
                    "the register is older than what members know, and enough of its voters answer: it is brought \
                     forward when all of them do, or when cluster {} is adopted; nothing need be given up",
                    wish.cluster_id
                ));
            }
        } else if present.len() >= register.read_quorum() {
            let names: Vec<_> = present.iter().map(|&sid| self.name_of(sid)).collect();
            return refused(format!(
                "{} answer, which is enough to choose a leader that has everything: nothing need be given up",
                names.join(", ")
            ));
        }
        Ok(())
    }

    /// What is known of what will be missing.
    fn figures_of_loss(&self, survivor: &HealthReport) -> String {
        let standing = &survivor.standing;
        let cluster_id = standing.cluster_id.unwrap_or_default();
        let mut lines = Vec::new();
        let mut known_lost: Gsn = 0;
        for (shard, have) in survivor.shards.iter().enumerate() {
            let known = self.members.known_commit(cluster_id, standing.lineage, shard);
            let lost = known.saturating_sub(have.tail.last.gsn);
            known_lost += lost;
            let end = format!("shard {shard} ends at entry {} of epoch {}", have.tail.last.gsn, have.tail.last.epoch);
            lines.push(if lost > 0 {
                format!("{end}, {known} entries are known to have been committed: {lost} are lost")
            } else {
                end
            });
        }
        let silence = match survivor.leader_silence {
            Some(silence) => format!("its leader was last heard {} s ago", silence.as_secs()),
            None => "it has heard no leader since it started".into(),
        };
        let rest = if known_lost > 0 {
            "more may be lost that nobody left knows of"
        } else {
            "nothing is known to be lost; what was acknowledged after it was last in touch is, if anything was"
        };
        format!("{}; {silence}; {rest}", lines.join("; "))
    }

    /// A voter that is of an older lineage than the register: an unsafe recovery chose it.
    pub(super) fn recover_request(&self, register: &Register, report: &HealthReport) -> RecoverRequest {
        let standing = &report.standing;
        RecoverRequest {
            envelope: Envelope { cluster_id: register.cluster_id, lineage: standing.lineage, to: standing.sid },
            lineage: register.lineage,
            config: LastConfig {
                epoch: register.epoch,
                voters: register.voters.clone(),
                write_quorum: register.write_quorum,
                min_voters: register.min_voters,
            },
        }
    }

    /// Tells a member of an older lineage to make room, until it shows new storage.
    pub(super) fn carry_out_set_aside(&mut self, register: &Register) {
        let Some(wish) = self.set_aside.clone() else { return };
        if register.last_request.as_ref().is_some_and(|done| done.id == wish.id) {
            self.set_aside = None;
            return;
        }
        let outcome = match self.judge_set_aside(register, &wish) {
            Ok(None) => return,
            Ok(Some(done)) => {
                self.tell(Severity::Info, "StorageSetAside", done.clone());
                done
            }
            Err(why) => {
                self.tell(Severity::Warning, "SetAsideRefused", why.clone());
                format!("{REFUSED}{why}")
            }
        };
        self.set_aside = None;
        self.outcome = Some(DoneRequest { id: wish.id, outcome });
    }

    /// `Ok(None)`: under way.
    fn judge_set_aside(&mut self, register: &Register, wish: &SetAside) -> Result<Option<String>, String> {
        let now = self.now;
        let (name, sid) = (&wish.member, wish.sid);
        let until = wish.asked + if wish.told.is_some() { NEW_STORAGE } else { PATIENCE };
        let member = self.members.get(name).ok_or_else(|| format!("there is no member {name}"))?;
        let Some(report) = member.fresh(now) else {
            if now >= until {
                return Err(format!("{name} does not answer"));
            }
            self.wake(until);
            return Ok(None);
        };
        let standing = &report.standing;
        if standing.sid != sid {
            let have = standing.sid;
            return match wish.told {
                Some(_) => Ok(Some(format!("{name} holds new storage {have}; what {sid} held is kept beside it"))),
                None => Err(format!("{name} holds storage {have}, not {sid}")),
            };
        }
        if standing.cluster_id != Some(register.cluster_id) || standing.lineage >= register.lineage {
            return Err(format!(
                "the storage of {name} is of lineage {}, the cluster of {}: only what an unsafe recovery left behind is set \
                 aside",
                standing.lineage, register.lineage
            ));
        }
        if register.voters.contains(&sid) {
            return Err(format!("{name} is a voter of the lineage in force"));
        }
        if now >= until {
            return Err(format!("{name} did not come back with new storage"));
        }
        let lineage = standing.lineage;
        self.wake(until);
        let due = wish.told.map_or(now, |told| told + AGAIN);
        if now < due {
            self.wake(due);
            return Ok(None);
        }
        let request = SetAsideRequest {
            envelope: Envelope { cluster_id: register.cluster_id, lineage, to: sid },
            lineage: register.lineage,
        };
        self.send(name.clone(), PATIENCE, Request::SetAside(request), Call::Upkeep);
        if let Some(wish) = &mut self.set_aside {
            wish.told = Some(now);
        }
        self.wake(now + AGAIN);
        Ok(None)
    }
}

/// Whether `other` reaches at least as far on every shard, and further on one.
fn holds_more(other: &HealthReport, than: &HealthReport) -> bool {
    let ends = |r: &HealthReport| r.shards.iter().map(|s| s.tail.last).collect::<Vec<_>>();
    let (other, than) = (ends(other), ends(than));
    other != than && other.len() == than.len() && other.iter().zip(&than).all(|(a, b)| a >= b)
}

/// The storage that an unsafe recovery left behind, in words with the remedy.
pub(super) fn left_behind(member: &Member, register_lineage: u64) -> Option<String> {
    let report = member.report.as_ref().filter(|r| !is_blank(r) && !is_vacant(&r.shards))?;
    let standing = &report.standing;
    (standing.lineage < register_lineage).then(|| {
        format!(
            "the volume of {} is of lineage {}, the cluster of {register_lineage}: an unsafe recovery left it behind. It is \
             left as it is and takes no part; to let the member join anew: set aside storage {} of {}",
            member.name(),
            standing.lineage,
            standing.sid,
            member.name()
        )
    })
}
