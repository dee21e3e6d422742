//! One-shot requests: a switchover is carried out once, and the register says what became of it.

use std::time::Duration;

use super::Controller;
use super::change::{Kind, Plan};
use super::detect::Verdict;
use super::recovery::refused;
use crate::ident::Sid;
use crate::topology::message::MemberName;
use crate::topology::register::{DoneRequest, Register};

/// A request that could not be carried out for so long is refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// A switchover that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    target: Option<MemberName>,
    id: String,
    asked: Duration,
}

/// Why a switchover is not begun.
enum Declined {
    /// All is as it was asked for.
    AsWished(String),
    /// It cannot be.
    Refused(String),
}

impl From<String> for Declined {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

impl From<&str> for Declined {
    fn from(why: &str) -> Self {
        Self::Refused(why.to_owned())
    }
}

impl Controller {
    pub(super) fn take_wish(&mut self, target: Option<MemberName>, id: String) {
        if let Some(earlier) = self.wish.replace(Wish { target, id, asked: self.now }) {
            // The newest wish counts; only one outcome fits into the register anyway.
            self.outcome = Some(refused(earlier.id, "another request came before it began"));
        }
    }

    /// A plan for the request that is waiting, if it can be carried out now.
    pub(super) fn carry_out_wish(&mut self, register: &Register, verdict: &Verdict) -> Option<Plan> {
        let wish = self.wish.clone()?;
        if register.last_request.as_ref().is_some_and(|done| done.id == wish.id) {
            self.wish = None;
            return None;
        }
        match self.plan_switchover(register, verdict, &wish) {
            Ok(Some(mut plan)) => {
                if self.now < self.backoff.until() {
                    self.wake(self.backoff.until());
                    return None;
                }
                plan.request = Some(wish.id);
                self.wish = None;
                Some(plan)
            }
            Ok(None) => {
                self.wake(wish.asked + PATIENCE);
                None
            }
            Err(why) => {
                self.wish = None;
                self.outcome = Some(match why {
                    Declined::AsWished(outcome) => DoneRequest { id: wish.id, outcome },
                    Declined::Refused(why) => refused(wish.id, &why),
                });
                None
            }
        }
    }

    /// `Ok(None)`: not yet.
    fn plan_switchover(&self, register: &Register, verdict: &Verdict, wish: &Wish) -> Result<Option<Plan>, Declined> {
        let late = self.now >= wish.asked + PATIENCE;
        if self.config.spec.paused {
            return Err("the cluster is paused".into());
        }
        let Some(leader) = register.leader else {
            return if late { Err("there is no leader to move from".into()) } else { Ok(None) };
        };
        let target = match &wish.target {
            None => None,
            Some(name) => Some(self.target(register, name)?),
        };
        if target == Some(leader) {
            return Err(Declined::AsWished(format!("{} leads already", self.name_of(leader))));
        }
        let mut plan = Plan::same_voters(Kind::Switchover, "a switchover was asked for".into(), wish.asked, register);
        plan.want = target;
        match target {
            // If the one that was asked for cannot, nobody asked for another.
            Some(_) => plan.keep = Some(leader),
            None => plan.avoid = Some(leader),
        }
        let report = self.members.fresh(leader, self.now).filter(|_| verdict.leads());
        let Some(report) = report else {
            // By hand, where failover is not automatic: enough that a read quorum answers.
            let present = self.present_voters(register);
            let can = present.len() >= register.read_quorum()
                && match target {
                    Some(target) => present.contains(&target),
                    None => present.iter().any(|&sid| sid != leader),
                };
            let silent = matches!(verdict, Verdict::Ended { .. })
                || matches!(verdict, Verdict::Unreachable { silent, .. } if *silent >= register.read_quorum());
            return match (can && silent, late) {
                (true, _) => Ok(Some(plan)),
                (false, true) => Err("the leader does not answer, and too few others do to replace it".into()),
                (false, false) => Ok(None),
            };
        };
        plan.drain = Some(leader);
        let heirs = self.heirs(register, report);
        let able = match target {
            Some(target) => heirs.iter().any(|(sid, _)| *sid == target),
            None => !heirs.is_empty(),
        };
        match (able, late) {
            (true, _) => Ok(Some(plan)),
            (false, false) => Ok(None),
            (false, true) => Err(match target {
                Some(target) => format!("{} is not in sync with the leader", self.name_of(target)).into(),
                None => "no other member is in sync with the leader".into(),
            }),
        }
    }

    fn target(&self, register: &Register, name: &str) -> Result<Sid, String> {
        let member = self.members.get(name).ok_or_else(|| format!("there is no member {name}"))?;
        let known = register.members.iter().find(|(sid, m)| m.name == name && register.voters.contains(sid));
        let sid = member.sid().or(known.map(|(sid, _)| *sid)).ok_or_else(|| format!("{name} was never heard"))?;
        if !register.voters.contains(&sid) {
            return Err(format!("{name} has no vote yet: it must be in sync first"));
        }
        Ok(sid)
    }
}
