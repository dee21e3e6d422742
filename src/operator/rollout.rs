//! Which member restarts next, and with which template: pure decisions.
//!
//! ```text
//! dead and outdated --> at once (they hold nothing up, and a mended spec must reach them)
//! outdated followers --> one by one, the highest ordinal first, once everybody is in sync; the first is the canary
//! outdated leader --> last, after a follower has taken over
//! canary stands still for podTimeoutSeconds --> the last good template is put back
//! ```
//! Invariants: nobody who is in sync is restarted unless one member may be missed; a template that was taken back is
//! not tried again until the spec changes or somebody asks for it; the last good template is one that every member
//! ran with, in sync; whoever is told that the cluster is ready may rely on there being one.

use std::time::Duration;

use super::build::hash::is_current;
use super::facts::PodFacts;
use crate::api::{LeaderUpdate, UpdateSpec};

/// Which template is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The last good one instead of the one that the spec asks for.
    pub last_good: bool,
    /// The hash in force.
    pub hash: String,
    /// The hash that was taken back, as long as the spec asks for it.
    pub rejected: Option<String>,
    /// The request to try again that was heeded last.
    pub retried: Option<String>,
}

/// What decides it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Templates<'a> {
    /// Hash of what the spec asks for.
    pub wanted: &'a str,
    /// Hash of the last good template, if there is one.
    pub good: Option<&'a str>,
    /// The hash that was taken back.
    pub rejected: Option<&'a str>,
    /// The request to try again, as it stands on the cluster.
    pub retry: Option<&'a str>,
    /// The one that was heeded last.
    pub retried: Option<&'a str>,
}

/// Chooses the template in force.
pub fn choose(templates: Templates<'_>) -> Choice {
    let asked_again = templates.retry.is_some() && templates.retry != templates.retried;
    let taken_back = !asked_again && templates.rejected == Some(templates.wanted);
    let good = templates.good.filter(|good| taken_back && *good != templates.wanted);
    Choice {
        last_good: good.is_some(),
        hash: good.unwrap_or(templates.wanted).to_owned(),
        rejected: templates.rejected.filter(|_| taken_back).map(str::to_owned),
        retried: templates.retry.or(templates.retried).map(str::to_owned),
    }
}

/// A member, as far as a rollout cares.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number.
    pub ordinal: i32,
    /// Its pod, if there is one.
    pub pod: Option<&'a PodFacts>,
    /// It leads.
    pub leads: bool,
    /// For how long it has been in sync without a break; None: it is not.
    pub in_sync_for: Option<Duration>,
    /// For how long neither its recovery nor its copying got on.
    pub still_for: Duration,
}

/// What a rollout looks at.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// The hash in force.
    pub hash: &'a str,
    /// It is the one that the spec asks for, and not the last good one put back.
    pub is_wanted: bool,
    /// Hash of the last good template.
    pub good: Option<&'a str>,
    /// Members that shall exist, by ordinal.
    pub members: Vec<Member<'a>>,
    /// One member may be missed.
    pub quorum_safe: bool,
    /// How members are to be replaced.
    pub update: &'a UpdateSpec,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Everybody runs the template in force, in sync.
    Done,
    /// Not now.
    Wait(Wait),
    /// Delete this pod.
    Restart {
        /// The member.
        member: String,
        /// Its pod.
        uid: String,
        /// Why.
        why: String,
    },
    /// Somebody else shall lead first.
    HandOver {
        /// The leader.
        from: String,
    },
    /// Put the last good template back.
    TakeBack {
        /// Why, with the canary's name.
        why: String,
    },
}

/// Why nothing is done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// In words.
    pub text: String,
    /// Look again after this long, if nothing happens before.
    pub again: Option<Duration>,
    /// It will not go on by itself.
    pub stuck: bool,
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Members that run the template in force.
    pub updated: usize,
    /// Members there shall be.
    pub total: usize,
    /// What is next.
    pub step: Step,
}

impl Member<'_> {
    fn is_current(&self, hash: &str) -> bool {
        self.pod.is_some_and(|pod| {
            !pod.terminating && pod.spec_hash.as_deref().is_some_and(|carried| is_current(carried, hash))
        })
    }

    fn is_outdated(&self, hash: &str) -> bool {
        self.pod.is_some_and(|pod| !pod.terminating) && !self.is_current(hash)
    }
}

/// Says what to do next.
pub fn next(situation: &Situation<'_>) -> Progress {
    let updated = situation.members.iter().filter(|member| member.is_current(situation.hash)).count();
    Progress { updated, total: situation.members.len(), step: step(situation) }
}

fn step(situation: &Situation<'_>) -> Step {
    let hash = situation.hash;
    let timeout = Duration::from_secs(u64::try_from(situation.update.pod_timeout_seconds).unwrap_or(0));
    let min_ready = Duration::from_secs(u64::try_from(situation.update.min_ready_seconds).unwrap_or(0));
    let outdated = || situation.members.iter().filter(|member| member.is_outdated(hash));

    // Whoever does not run, or has long stood still, loses nothing by a restart.
    for member in outdated().filter(|member| member.in_sync_for.is_none() && !member.leads) {
        let Some(pod) = member.pod else { continue };
        let why = match &pod.trouble {
            Some(trouble) => format!("it does not run ({}) and is outdated", trouble.reason),
            None if member.still_for >= timeout => "it does not get on and is outdated".to_owned(),
            None => continue,
        };
        return Step::Restart { member: member.name.to_owned(), uid: pod.uid.clone(), why };
    }

    let canary_passed = situation.members.iter().any(|member| member.is_current(hash) && member.in_sync_for.is_some());
    let mut waiting: Option<Wait> = None;
    for member in &situation.members {
        let Some(pod) = member.pod else {
            waiting.get_or_insert(wait("MemberStarting", format!("{} is being made", member.name)));
            continue;
        };
        if pod.terminating {
            waiting.get_or_insert(wait("MemberStopping", format!("{} is stopping", member.name)));
            continue;
        }
        if member.in_sync_for.is_some() || member.leads {
            continue;
        }
        let trouble = pod.trouble.as_ref().map(|t| format!(" ({}: {})", t.reason, t.text)).unwrap_or_default();
        if member.is_current(hash) && member.still_for >= timeout {
            let why = format!("{} did not get on for {} s{trouble}", member.name, timeout.as_secs());
            let may_take_back = situation.is_wanted && situation.good.is_some_and(|good| good != hash);
            if may_take_back && !canary_passed && outdated().next().is_some() {
                return Step::TakeBack { why };
            }
            waiting = Some(Wait { stuck: true, ..wait("MemberStuck", why) });
            continue;
        }
        let mut catching_up = wait("MemberNotInSync", format!("{} is not in sync{trouble}", member.name));
        catching_up.again = Some(timeout.saturating_sub(member.still_for));
        if waiting.as_ref().is_none_or(|known| !known.stuck) {
            waiting.get_or_insert(catching_up);
        }
    }
    if let Some(waiting) = waiting {
        return Step::Wait(waiting);
    }
    let Some(leader_or_last) = outdated().min_by_key(|member| (member.leads, -member.ordinal)) else {
        return match steady(situation, min_ready) {
            Some(waiting) => Step::Wait(waiting),
            None => Step::Done,
        };
    };
    if let Some(waiting) = steady(situation, min_ready) {
        return Step::Wait(waiting);
    }
    let alone = situation.members.len() == 1;
    if !alone && !situation.quorum_safe {
        return Step::Wait(wait("NotQuorumSafe", "no member may be missed now".to_owned()));
    }
    let Some(pod) = leader_or_last.pod else { return Step::Done };
    if leader_or_last.leads && !alone && situation.update.leader_update == LeaderUpdate::Switchover {
        return Step::HandOver { from: leader_or_last.name.to_owned() };
    }
    Step::Restart {
        member: leader_or_last.name.to_owned(),
        uid: pod.uid.clone(),
        why: "its pod is not what the spec asks for".to_owned(),
    }
}

/// Whether the template that the spec asks for has shown that members come up with it: everybody runs it, in sync, and for
/// a while. The first one need not wait: nothing is there to go back to, and who reads that the cluster is ready may put
/// the next one, a bad one, in force at once.
/// `step` is what comes [`next`].
pub fn is_good(situation: &Situation<'_>, step: &Step) -> bool {
    let first = situation.good.is_none();
    let runs = |member: &Member<'_>| member.is_current(situation.hash) && member.in_sync_for.is_some();
    situation.is_wanted && (*step == Step::Done || first && situation.members.iter().all(runs))
}

/// Members that were replaced must have been in sync for a while.
fn steady(situation: &Situation<'_>, min_ready: Duration) -> Option<Wait> {
    let young = situation.members.iter().filter(|member| member.is_current(situation.hash) && !member.leads);
    let (name, left) = young
        .filter_map(|member| Some((member.name, min_ready.checked_sub(member.in_sync_for?)?)))
        .filter(|(_, left)| !left.is_zero())
        .max_by_key(|(_, left)| *left)?;
    Some(Wait {
        again: Some(left),
        ..wait("MinReady", format!("{name} must have been in sync for {} s", min_ready.as_secs()))
    })
}

fn wait(reason: &'static str, text: String) -> Wait {
    Wait { reason, text, again: None, stuck: false }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Trouble;
    use super::*;

    const NEW: &str = "v1:new";
    const OLD: &str = "v1:old";

    /// A member: its pod's hash, whether it leads, seconds in sync, seconds without progress.
    struct Given(&'static str, bool, Option<u64>, u64, Option<&'static str>);

    fn in_sync(hash: &'static str) -> Given {
        Given(hash, false, Some(1000), 0, None)
    }

    fn leader(hash: &'static str) -> Given {
        Given(hash, true, Some(1000), 0, None)
    }

    fn decide(given: &[Given], change: impl FnOnce(&mut Situation<'_>)) -> Step {
        let names: Vec<String> = (0..given.len()).map(|ordinal| format!("kv-0-{ordinal}")).collect();
        let pods: Vec<PodFacts> = given
            .iter()
            .zip(&names)
            .map(|(Given(hash, .., trouble), name)| PodFacts {
                name: name.clone(),
                uid: format!("uid-{name}"),
                spec_hash: Some((*hash).to_owned()),
                trouble: trouble.map(|reason| Trouble { reason: reason.into(), text: "no".into() }),
                ..PodFacts::default()
            })
            .collect();
        let update = UpdateSpec { min_ready_seconds: 10, pod_timeout_seconds: 600, ..UpdateSpec::default() };
        let members = given
            .iter()
            .zip(&pods)
            .enumerate()
            .map(|(ordinal, (Given(_, leads, sync, still, _), pod))| Member {
                name: &pod.name,
                ordinal: i32::try_from(ordinal).expect("few"),
                pod: Some(pod),
                leads: *leads,
                in_sync_for: sync.map(Duration::from_secs),
                still_for: Duration::from_secs(*still),
            })
            .collect();
        let mut situation =
            Situation { hash: NEW, is_wanted: true, good: Some(OLD), members, quorum_safe: true, update: &update };
        change(&mut situation);
        next(&situation).step
    }

    fn restarted(step: &Step) -> &str {
        match step {
            Step::Restart { member, .. } => member,
            other => panic!("{other:?}"),
        }
    }

    fn waits(step: &Step) -> &'static str {
        match step {
            Step::Wait(wait) => wait.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn followers_go_first_from_the_highest_ordinal_and_the_leader_last_by_switchover() {
        assert_eq!(restarted(&decide(&[in_sync(OLD), leader(OLD), in_sync(OLD)], |_| {})), "kv-0-2");
        assert_eq!(restarted(&decide(&[in_sync(OLD), leader(OLD), in_sync(NEW)], |_| {})), "kv-0-0");
        let last = decide(&[in_sync(NEW), leader(OLD), in_sync(NEW)], |_| {});
        assert_eq!(last, Step::HandOver { from: "kv-0-1".into() });
        assert_eq!(restarted(&decide(&[in_sync(NEW), in_sync(OLD), leader(NEW)], |_| {})), "kv-0-1");
        assert_eq!(decide(&[in_sync(NEW), in_sync(NEW), leader(NEW)], |_| {}), Step::Done);
    }

    #[test]
    fn a_single_member_and_a_leader_that_may_be_restarted_are_restarted_in_place() {
        assert_eq!(restarted(&decide(&[leader(OLD)], |s| s.quorum_safe = false)), "kv-0-0");
        let step = decide(&[in_sync(NEW), leader(OLD)], |s| {
            static IN_PLACE: std::sync::LazyLock<UpdateSpec> = std::sync::LazyLock::new(|| UpdateSpec {
                leader_update: LeaderUpdate::Restart,
                ..UpdateSpec::default()
            });
            s.update = &IN_PLACE;
        });
        assert_eq!(restarted(&step), "kv-0-1");
    }

    #[test]
    fn nobody_is_restarted_while_somebody_is_missed_or_young() {
        let syncing = Given(NEW, false, None, 5, None);
        assert_eq!(waits(&decide(&[in_sync(OLD), leader(OLD), syncing], |_| {})), "MemberNotInSync");
        let young = Given(NEW, false, Some(3), 0, None);
        let step = decide(&[in_sync(OLD), leader(OLD), young], |_| {});
        match step {
            Step::Wait(wait) => assert_eq!((wait.reason, wait.again), ("MinReady", Some(Duration::from_secs(7)))),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            waits(&decide(&[in_sync(OLD), leader(OLD), in_sync(OLD)], |s| s.quorum_safe = false)),
            "NotQuorumSafe"
        );
        let missing = decide(&[in_sync(OLD), leader(OLD), in_sync(NEW)], |s| s.members[2].pod = None);
        assert_eq!(waits(&missing), "MemberStarting");
    }

    #[test]
    fn the_dead_go_first_whatever_else_is_missing() {
        let dead = Given(OLD, false, None, 1, Some("ImagePullBackOff"));
        let syncing = Given(NEW, false, None, 5, None);
        assert_eq!(restarted(&decide(&[dead, leader(OLD), syncing], |s| s.quorum_safe = false)), "kv-0-0");
    }

    #[test]
    fn a_canary_that_stands_still_brings_the_last_good_template_back() {
        let canary = |still, trouble| Given(NEW, false, None, still, trouble);
        let soon = decide(&[in_sync(OLD), leader(OLD), canary(599, Some("CrashLoopBackOff"))], |_| {});
        assert_eq!(waits(&soon), "MemberNotInSync");
        let late = decide(&[in_sync(OLD), leader(OLD), canary(600, Some("CrashLoopBackOff"))], |_| {});
        match late {
            Step::TakeBack { why } => assert!(why.contains("kv-0-2") && why.contains("CrashLoopBackOff"), "{why}"),
            other => panic!("{other:?}"),
        }
        // The failed canary is the one pod that is replaced then: the others never left the good template.
        let back = decide(&[in_sync(OLD), leader(OLD), canary(600, Some("CrashLoopBackOff"))], |s| {
            s.hash = OLD;
            s.is_wanted = false;
        });
        assert_eq!(restarted(&back), "kv-0-2");
        let hung = decide(&[in_sync(OLD), leader(OLD), canary(600, None)], |s| {
            s.hash = OLD;
            s.is_wanted = false;
        });
        assert_eq!(restarted(&hung), "kv-0-2");
    }

    #[test]
    fn a_later_member_that_stands_still_stops_the_rollout_and_nothing_is_taken_back() {
        let stuck = Given(NEW, false, None, 700, None);
        match decide(&[stuck, leader(OLD), in_sync(NEW)], |_| {}) {
            Step::Wait(wait) => assert!(wait.stuck && wait.text.contains("kv-0-0"), "{wait:?}"),
            other => panic!("{other:?}"),
        }
        let nothing_good = Given(NEW, false, None, 700, None);
        assert_eq!(waits(&decide(&[in_sync(OLD), leader(OLD), nothing_good], |s| s.good = None)), "MemberStuck");
    }

    #[test]
    fn a_template_that_was_taken_back_is_tried_again_only_when_the_spec_changes_or_somebody_asks() {
        let given = Templates { wanted: NEW, good: Some(OLD), rejected: Some(NEW), ..Templates::default() };
        let choice = choose(given);
        assert_eq!((choice.last_good, choice.hash.as_str(), choice.rejected.as_deref()), (true, OLD, Some(NEW)));
        let edited = choose(Templates { wanted: "v1:newer", ..given });
        assert_eq!((edited.last_good, edited.hash.as_str(), edited.rejected), (false, "v1:newer", None));
        let asked = choose(Templates { retry: Some("1"), ..given });
        assert_eq!((asked.last_good, asked.rejected, asked.retried.as_deref()), (false, None, Some("1")));
        let heeded = choose(Templates { retry: Some("1"), retried: Some("1"), ..given });
        assert!(heeded.last_good, "one request is one try");
    }
}
