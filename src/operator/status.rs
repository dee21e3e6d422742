//! `ArmdbCluster.status` from what is observed: members, conditions with reasons, one word for the whole.
//!
//! Pure. What must outlive a replica of the operator (since when a condition is as it is, the last transitions, the
//! last known lag) is taken from the status before. Nothing here is an input to a decision.
//!
//! Invariants: equal observations give an equal status, so that nothing is written while nothing changes; a new spec
//! is not Ready in the status that first speaks of it; a lag that is not known now is shown as it was last known, and
//! marked stale.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::facts::PodFacts;
use super::rollout::{Progress, Step};
use super::validate::Warning;
use crate::api::status::condition;
use crate::api::{
    ArmdbClusterStatus, FailoverPolicy, LagStatus, MemberRole, MemberState, MemberStatus, PartitionState,
    PartitionStatus, Phase, Summary, Transition, TransitionType, quantity,
};
use crate::drive::status::{self as shared, PartitionPicture};
use crate::topology::view;

/// Above so many partitions only members that are not in sync are listed: an object must not grow without bound.
const LIST_ALL_UP_TO: usize = 16;
/// What the controller calls a register that went back, and people are told.
const CONFIG_REGRESSED: &str = "ConfigRegressed";

/// What the spec says, as far as a status cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The generation of the spec.
    pub generation: i64,
    /// Members per partition.
    pub replicas: i32,
    /// Partitions.
    pub partitions: i32,
    /// Planned things rest.
    pub paused: bool,
    /// Whether an unreachable leader is replaced.
    pub failover: FailoverPolicy,
    /// Lag within which a follower is healthy, in bytes.
    pub max_lag_bytes: u64,
    /// The same in milliseconds.
    pub max_lag_millis: u64,
}

/// A partition, as far as it is observed.
#[derive(Debug, Clone)]
pub struct PartitionSeen {
    /// Its number.
    pub id: i32,
    /// What its controller sees; None: no controller runs yet.
    pub picture: Option<PartitionPicture>,
    /// Its pods.
    pub pods: Vec<PodFacts>,
    /// Pods that its StatefulSet shall have; None: there is none yet.
    pub pods_wanted: Option<i32>,
    /// How far its rollout is.
    pub rollout: Option<Progress>,
    /// The hash that a failed rollout was taken back from.
    pub rejected: Option<String>,
    /// The template in force is not the one that this operator makes for the same wishes.
    pub drift: bool,
    /// What is wrong with its volumes: reason and sentence.
    pub storage: Vec<(&'static str, String)>,
}

/// Something that stands between the spec and the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// In words.
    pub text: String,
}

/// Everything that a status is made from.
#[derive(Debug)]
pub struct Observed<'a> {
    /// What the spec says.
    pub shape: Shape,
    /// The cluster's identity, once it is known.
    pub cluster_id: Option<String>,
    /// Label selector of the members.
    pub selector: String,
    /// Each partition.
    pub partitions: &'a [PartitionSeen],
    /// Why nothing is done about the spec.
    pub refused: Option<String>,
    /// What is not done, or unwise.
    pub warnings: &'a [Warning],
    /// What keeps the objects from being as they shall be.
    pub obstacle: Option<Obstacle>,
    /// The status before.
    pub before: Option<&'a ArmdbClusterStatus>,
    /// Now.
    pub now: Timestamp,
}

/// The status that tells it.
pub fn status(observed: &Observed<'_>) -> ArmdbClusterStatus {
    let partitions = partitions(observed);
    let facts = Facts::of(observed, &partitions);
    let conditions = conditions(observed, &facts);
    let wanted = observed.shape.replicas.saturating_mul(observed.shape.partitions);
    let ready = whole(facts.in_sync);
    let lag = lag(observed, &partitions, &facts);
    ArmdbClusterStatus {
        observed_generation: Some(observed.shape.generation),
        phase: Some(phase(observed, &facts)),
        replicas: observed.partitions.iter().map(|partition| whole(partition.pods.len())).min().unwrap_or(0),
        ready_members: ready,
        selector: Some(observed.selector.clone()),
        version: version(observed.partitions),
        cluster_id: observed.cluster_id.clone(),
        summary: Some(Summary {
            leader: shared::leaders(&partitions),
            ready: format!("{ready}/{wanted}"),
            lag: format!(
                "{}{}",
                quantity::format(u64::try_from(lag.max_bytes).unwrap_or(0)),
                if facts.stale { " (stale)" } else { "" }
            ),
        }),
        lag: Some(lag),
        recent_transitions: transitions(observed),
        partitions: listed(partitions),
        last_request: None,
        conditions,
    }
}

/// Whether `after` must be told at once: it differs in more than figures that move all the time and words about them.
pub fn is_news(before: Option<&ArmdbClusterStatus>, after: &ArmdbClusterStatus) -> bool {
    before.is_none_or(|before| without_figures(before) != without_figures(after))
}

fn without_figures(status: &ArmdbClusterStatus) -> ArmdbClusterStatus {
    let mut status = status.clone();
    for member in status.partitions.iter_mut().flat_map(|partition| &mut partition.members) {
        (member.lag_bytes, member.lag_entries, member.lag_millis) = (0, 0, 0);
    }
    if let Some(lag) = &mut status.lag {
        (lag.max_bytes, lag.max_entries) = (0, 0);
    }
    if let Some(summary) = &mut status.summary {
        summary.lag.clear();
    }
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}

fn whole(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn partitions(observed: &Observed<'_>) -> Vec<PartitionStatus> {
    observed
        .partitions
        .iter()
        .map(|seen| {
            let mut status = match &seen.picture {
                Some(picture) => shared::partition(picture),
                None => PartitionStatus { id: seen.id, ..PartitionStatus::default() },
            };
            let before =
                observed.before.and_then(|before| before.partitions.iter().find(|partition| partition.id == seen.id));
            for member in &mut status.members {
                // Rises with every write: of no use in a status that shall rest.
                member.commit = None;
                member.node = seen.pods.iter().find(|pod| pod.name == member.name).and_then(|pod| pod.node.clone());
                if member.stale {
                    remember(member, before);
                }
                round(member);
            }
            status
        })
        .collect()
}

/// The lag that was known last, of the same storage.
fn remember(member: &mut MemberStatus, before: Option<&PartitionStatus>) {
    let known = before.and_then(|before| before.members.iter().find(|known| known.name == member.name));
    if let Some(known) = known.filter(|known| known.sid == member.sid) {
        (member.lag_bytes, member.lag_entries, member.lag_millis) =
            (known.lag_bytes, known.lag_entries, known.lag_millis);
    }
}

/// Powers of two: a figure is told when it has changed, not whenever it moves.
fn round(member: &mut MemberStatus) {
    let up = |value: i64, least: i64| if value <= 0 { 0 } else { least.max(rounded_up(value)) };
    member.lag_bytes = up(member.lag_bytes, 4096);
    member.lag_entries = up(member.lag_entries, 16);
    member.lag_millis = up(member.lag_millis, 64);
}

fn rounded_up(value: i64) -> i64 {
    let power = u64::try_from(value).unwrap_or(0).checked_next_power_of_two();
    power.and_then(|power| i64::try_from(power).ok()).unwrap_or(i64::MAX)
}

fn lag(observed: &Observed<'_>, partitions: &[PartitionStatus], facts: &Facts) -> LagStatus {
    let followers = || {
        let members = partitions.iter().flat_map(|partition| &partition.members);
        members.filter(|member| member.role != MemberRole::Leader)
    };
    let before = observed.before.and_then(|before| before.lag.as_ref()).and_then(|lag| lag.since.clone());
    LagStatus {
        max_bytes: followers().map(|member| member.lag_bytes).max().unwrap_or(0),
        max_entries: followers().map(|member| member.lag_entries).max().unwrap_or(0),
        since: facts.behind.as_ref().map(|_| before.unwrap_or(Time(observed.now))),
    }
}

fn listed(mut partitions: Vec<PartitionStatus>) -> Vec<PartitionStatus> {
    if partitions.len() > LIST_ALL_UP_TO {
        for partition in &mut partitions {
            partition.members.retain(|member| member.state != MemberState::InSync);
        }
    }
    partitions
}

/// Those that this replica saw, and those that were told before.
fn transitions(observed: &Observed<'_>) -> Vec<Transition> {
    let mut known: Vec<Transition> =
        observed.before.map(|before| before.recent_transitions.clone()).unwrap_or_default();
    for picture in observed.partitions.iter().filter_map(|partition| partition.picture.as_ref()) {
        for transition in shared::transitions(picture) {
            let told = known.iter().any(|t| t.partition == transition.partition && t.epoch == transition.epoch);
            if !told {
                known.push(Transition { at: seconds(&transition.at), ..transition });
            }
        }
        let foreign = elsewhere(observed, picture, &known);
        known.extend(foreign);
    }
    shared::newest(known)
}

/// A change of leader that another replica of the operator made: all that is known of it is that it happened.
fn elsewhere(observed: &Observed<'_>, picture: &PartitionPicture, known: &[Transition]) -> Option<Transition> {
    let (view, id) = (&picture.view, i32::try_from(picture.id).unwrap_or(i32::MAX));
    let before = observed.before?.partitions.iter().find(|partition| partition.id == id)?;
    let (from, to) = (before.leader.clone()?, view.leader.clone()?);
    let epoch = i64::try_from(view.epoch).unwrap_or(i64::MAX);
    // Made here, and told once it is known how long it took.
    let own = view.transitions.iter().any(|transition| transition.epoch == view.epoch);
    let told = own || known.iter().any(|transition| transition.partition == id && transition.epoch == epoch);
    (from != to && epoch > before.epoch && !told).then(|| Transition {
        transition_type: TransitionType::Failover,
        partition: id,
        from: Some(from),
        to: Some(to),
        epoch,
        duration_millis: 0,
        reason: "another replica of the operator made it; its log has the reason and how long it took".to_owned(),
        at: seconds(&Time(observed.now)),
    })
}

/// Kubernetes' times have whole seconds: a finer one would differ from itself when it is read back.
fn seconds(time: &Time) -> Time {
    Time(Timestamp::from_second(time.0.as_second()).unwrap_or(time.0))
}

/// The version that the members run, by their images; the lowest while they differ.
fn version(partitions: &[PartitionSeen]) -> Option<String> {
    let mut versions: Vec<&str> = partitions
        .iter()
        .flat_map(|partition| &partition.pods)
        .filter_map(|pod| {
            let name = pod.image.split('@').next().unwrap_or_default();
            let (_, tag) = name.rsplit_once(':')?;
            (!tag.contains('/')).then_some(tag)
        })
        .collect();
    let parts = |version: &str| -> Vec<u64> {
        version.trim_start_matches('v').split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
    };
    versions.sort_by(|a, b| parts(a).cmp(&parts(b)).then(a.cmp(b)));
    versions.first().map(|version| (*version).to_owned())
}

/// What the conditions are made from.
#[derive(Debug, Default)]
struct Facts {
    /// Members in sync that shall exist.
    in_sync: usize,
    /// Partitions that serve.
    serving: usize,
    /// A partition of which nothing is known.
    unobserved: bool,
    /// The first partition that does not serve, and how.
    not_serving: Option<(&'static str, String)>,
    /// Members that are not in sync, with what they are.
    missing: Vec<String>,
    /// One of them is on its way: copying, or reading the log.
    syncing: bool,
    /// Somebody does not answer.
    absent: bool,
    /// A change of leadership or voters runs.
    changing: Option<String>,
    /// The follower beyond the bound.
    behind: Option<String>,
    /// A lag that is shown is not of now.
    stale: bool,
    /// Partitions that can lose a member.
    safe: usize,
    /// A leader refuses puts, because its disk is full.
    refuses: Option<String>,
    /// What is amiss with members' storage, each with its reason.
    storage: Vec<(&'static str, String)>,
    /// Wall clocks that are too far from the others'.
    skew: Option<String>,
    /// The register is older than what members promised, and nothing is decided.
    regressed: Option<String>,
    /// A rollout runs.
    rolling: Option<(&'static str, String)>,
    /// A rollout failed.
    failed: Option<(&'static str, String)>,
    /// Members are added or taken away.
    scaling: Option<String>,
    /// A member that shall vote and does not yet.
    joining: Option<String>,
}

impl Facts {
    fn of(observed: &Observed<'_>, statuses: &[PartitionStatus]) -> Self {
        let mut facts = Self::default();
        for (seen, status) in observed.partitions.iter().zip(statuses) {
            facts.take(&observed.shape, seen, status);
        }
        let missing = usize::try_from(observed.shape.partitions).unwrap_or(0).saturating_sub(statuses.len());
        if missing > 0 && facts.not_serving.is_none() {
            facts.not_serving = Some(("Bootstrapping", format!("{missing} partitions are not made yet")));
        }
        facts
    }

    fn take(&mut self, shape: &Shape, seen: &PartitionSeen, status: &PartitionStatus) {
        self.take_state(seen, status);
        self.safe += usize::from(status.quorum_safe);
        let replicas = usize::try_from(shape.replicas).unwrap_or(0);
        for member in &status.members {
            let pod = seen.pods.iter().find(|pod| pod.name == member.name);
            let counts = super::names::ordinal_of(&member.name).is_some_and(|ordinal| ordinal < shape.replicas);
            if member.state == MemberState::InSync {
                self.in_sync += usize::from(counts);
                if counts && member.role == MemberRole::Learner {
                    self.joining.get_or_insert_with(|| format!("{} is in sync and has no vote yet", member.name));
                }
            } else if counts || pod.is_some() {
                self.take_missing(member, pod);
            }
            self.stale |= member.stale && member.role != MemberRole::Leader && counts;
            if matches!(member.role, MemberRole::Follower) {
                self.take_lag(shape, member);
            }
        }
        for ordinal in status.members.len()..replicas {
            self.missing.push(format!("member {ordinal} of partition {} is not observed", seen.id));
        }
        self.storage.extend(seen.storage.iter().cloned());
        if let Some(picture) = &seen.picture {
            self.refuses = self.refuses.take().or_else(|| shared::puts_refused(picture));
            self.take_topology(&picture.view);
        }
        if let Some(wanted) = seen.pods_wanted.filter(|wanted| *wanted != shape.replicas || replicas != seen.pods.len())
        {
            self.scaling.get_or_insert_with(|| {
                format!(
                    "partition {}: {} pods, {wanted} for now, {} are asked for",
                    seen.id,
                    seen.pods.len(),
                    shape.replicas
                )
            });
        }
        self.take_rollout(seen);
    }

    fn take_state(&mut self, seen: &PartitionSeen, status: &PartitionStatus) {
        let lost = seen.picture.as_ref().is_some_and(|p| p.view.state == view::PartitionState::RegisterLost);
        let reason = match status.state {
            PartitionState::Available => {
                self.serving += 1;
                return;
            }
            _ if lost => "RegisterLost",
            _ if seen.picture.as_ref().is_some_and(|p| regressed(&p.view).is_some()) => CONFIG_REGRESSED,
            PartitionState::Bootstrapping => "Bootstrapping",
            PartitionState::Transitioning => "FailingOver",
            PartitionState::NoQuorum => "NoQuorum",
            PartitionState::NoLeader => "NoLeader",
            PartitionState::Unknown => {
                self.unobserved = true;
                return;
            }
        };
        let told = seen.picture.as_ref().map(|picture| &picture.view.conditions[..]).unwrap_or_default();
        let told: Vec<_> = told.iter().map(|condition| condition.text.as_str()).collect();
        let text = if told.is_empty() { "its members are being heard".to_owned() } else { told.join("; ") };
        self.not_serving.get_or_insert((reason, format!("partition {}: {text}", seen.id)));
    }

    fn is_full(&self) -> bool {
        self.refuses.is_some() || self.storage.iter().any(|(reason, _)| *reason == shared::DISK_FULL)
    }

    fn take_missing(&mut self, member: &MemberStatus, pod: Option<&PodFacts>) {
        let state = match member.state {
            MemberState::InSync => "in sync",
            MemberState::CatchingUp => "catching up",
            MemberState::Syncing => "taking a full copy",
            MemberState::Blank => "blank",
            MemberState::Amnesic => "amnesic",
            MemberState::Quarantined => "quarantined",
            MemberState::Damaged => "damaged",
            MemberState::Draining => "draining",
            MemberState::Unreachable => "unreachable",
            MemberState::Unknown => "unknown",
        };
        self.syncing |= matches!(member.state, MemberState::CatchingUp | MemberState::Syncing | MemberState::Blank);
        self.absent |= matches!(member.state, MemberState::Unreachable | MemberState::Unknown);
        let why = match pod {
            None => " (it has no pod)".to_owned(),
            Some(pod) if pod.terminating => " (its pod is stopping)".to_owned(),
            Some(pod) => pod.trouble.as_ref().map(|t| format!(" ({}: {})", t.reason, t.text)).unwrap_or_default(),
        };
        self.missing.push(format!("{} is {state}{why}", member.name));
    }

    fn take_lag(&mut self, shape: &Shape, member: &MemberStatus) {
        let bytes = u64::try_from(member.lag_bytes).unwrap_or(0);
        let millis = u64::try_from(member.lag_millis).unwrap_or(0);
        if bytes > shape.max_lag_bytes || millis > shape.max_lag_millis {
            self.behind.get_or_insert_with(|| {
                let stale = if member.stale { ", when last known" } else { "" };
                format!("{} is {} ({millis} ms) behind{stale}", member.name, quantity::format(bytes))
            });
        }
    }

    fn take_topology(&mut self, view: &view::PartitionView) {
        if let Some(change) = &view.change {
            self.changing.get_or_insert_with(|| change.text());
        }
        let of_storage = view.conditions.iter().filter(|condition| STORAGE.contains(&condition.kind));
        self.storage.extend(of_storage.map(|condition| (condition.kind, condition.text.clone())));
        if let Some(text) = regressed(view) {
            self.regressed.get_or_insert_with(|| text.to_owned());
        }
        let skew = view.conditions.iter().find(|condition| condition.kind == "ClockSkew");
        if let Some(skew) = skew {
            self.skew.get_or_insert_with(|| skew.text.clone());
        }
    }

    fn take_rollout(&mut self, seen: &PartitionSeen) {
        if let Some(hash) = &seen.rejected {
            self.failed.get_or_insert((
                "TakenBack",
                format!(
                    "partition {}: members did not come up with the pod template {hash}, the last good one is in force: \
                     mend the spec, or set the annotation armdb.io/retry-rollout to any new value",
                    seen.id
                ),
            ));
        }
        let Some(rollout) = &seen.rollout else { return };
        let count = format!("partition {}: {} of {} members updated", seen.id, rollout.updated, rollout.total);
        match &rollout.step {
            Step::Done => {}
            Step::Wait(wait) if wait.stuck => {
                self.failed.get_or_insert((wait.reason, format!("{count}; {}", wait.text)));
            }
            Step::Wait(_) if rollout.updated == rollout.total => {}
            Step::Wait(wait) => {
                self.rolling.get_or_insert(("RollingOut", format!("{count}; {}", wait.text)));
            }
            Step::Restart { .. } | Step::HandOver { .. } | Step::TakeBack { .. } => {
                self.rolling.get_or_insert(("RollingOut", count));
            }
        }
    }
}

fn phase(observed: &Observed<'_>, facts: &Facts) -> Phase {
    match (&facts.not_serving, facts.unobserved) {
        (Some((reason, _)), _) => match *reason {
            "Bootstrapping" => Phase::Bootstrapping,
            "FailingOver" => Phase::FailingOver,
            _ => Phase::Unavailable,
        },
        (None, true) => Phase::Pending,
        (None, false) if observed.partitions.is_empty() => Phase::Pending,
        (None, false) if observed.shape.paused => Phase::Paused,
        (None, false) if facts.absent || facts.failed.is_some() || facts.is_full() => Phase::Degraded,
        (None, false)
            if facts.rolling.is_some()
                || facts.changing.is_some()
                || facts.scaling.is_some()
                || facts.joining.is_some()
                || observed.obstacle.is_some()
                || facts.syncing =>
        {
            Phase::Progressing
        }
        (None, false) if !facts.missing.is_empty() => Phase::Degraded,
        (None, false) => Phase::Healthy,
    }
}

/// A verdict on one condition: status, reason, message.
type Verdict = (&'static str, &'static str, String);

fn yes(reason: &'static str) -> Verdict {
    ("True", reason, String::new())
}

fn no(reason: &'static str, text: impl Into<String>) -> Verdict {
    ("False", reason, text.into())
}

fn is_true(reason: &'static str, text: impl Into<String>) -> Verdict {
    ("True", reason, text.into())
}

fn conditions(observed: &Observed<'_>, facts: &Facts) -> Vec<Condition> {
    let available = available(observed, facts);
    // Of a full disk everything is served but puts.
    let serves = available.0 == "True" || available.1 == shared::DISK_FULL;
    let missing = facts.missing.join(", ");
    let progressing = progressing(observed, facts, serves);
    let ready = ready(observed, facts, &available, &progressing);
    let all = observed.partitions.len();
    let replication = if !serves {
        ("Unknown", "NoLeader", "nobody tells how far the followers are".to_owned())
    } else if let Some(behind) = &facts.behind {
        no("Behind", behind.clone())
    } else if !facts.missing.is_empty() {
        no("NotInSync", missing.clone())
    } else {
        yes("InSync")
    };
    let safe = if facts.safe == all && all > 0 {
        yes("OneMayBeLost")
    } else {
        no("NoneMayBeLost", "another member lost would stop writes, or leave too few to be sure of nothing lost")
    };
    let failover = match observed.shape.failover {
        FailoverPolicy::Manual => no("ManualPolicy", "failover.policy is Manual: nobody takes over unasked"),
        FailoverPolicy::Automatic if !serves => no("NoLeader", available.2.clone()),
        FailoverPolicy::Automatic if observed.shape.replicas == 1 => no("SingleMember", "there is nobody else"),
        FailoverPolicy::Automatic => match &facts.regressed {
            Some(text) => no(CONFIG_REGRESSED, text.clone()),
            None if safe.0 == "True" => yes("CandidateInSync"),
            None => no("NoCandidate", missing.clone()),
        },
    };
    let rollout = match &facts.failed {
        Some((reason, text)) => no(reason, text.clone()),
        None if observed.partitions.iter().any(|partition| partition.drift) => is_true(
            "TemplateDriftPending",
            "this operator makes another pod template of the same spec; it comes into force with each next restart",
        ),
        None => yes("UpToDate"),
    };
    // The worst gives the reason; the others are told with it.
    let mut findings = facts.storage.clone();
    findings.sort_by_key(|(reason, _)| STORAGE.iter().position(|known| known == reason).unwrap_or(STORAGE.len()));
    let storage = match first_and_all(&findings) {
        Some((reason, text)) => no(reason, text),
        None => yes("Sound"),
    };
    let configuration = match (&observed.refused, observed.warnings) {
        (Some(why), _) => {
            is_true("Refused", format!("nothing is done about generation {}: {why}", observed.shape.generation))
        }
        (None, warnings) => {
            let mut findings: Vec<_> = facts.skew.iter().map(|text| ("ClockSkew", text.clone())).collect();
            findings.extend(warnings.iter().map(|warning| (warning.reason, warning.text.clone())));
            match first_and_all(&findings) {
                Some((reason, text)) => is_true(reason, text),
                None => no("Clean", ""),
            }
        }
    };
    let degraded = if facts.missing.is_empty() { no("AllPresent", "") } else { is_true("MembersMissing", missing) };
    let paused = if observed.shape.paused {
        is_true("Asked", "changes of objects, rollouts and planned moves rest; failover does not")
    } else {
        no("Running", "")
    };
    [
        (condition::READY, ready),
        (condition::AVAILABLE, available),
        (condition::PROGRESSING, progressing),
        (condition::DEGRADED, degraded),
        (condition::REPLICATION_HEALTHY, replication),
        (condition::QUORUM_SAFE, safe),
        (condition::FAILOVER_READY, failover),
        (condition::ROLLOUT_HEALTHY, rollout),
        (condition::STORAGE_HEALTHY, storage),
        (condition::PAUSED, paused),
        (condition::CONFIGURATION_WARNING, configuration),
    ]
    .into_iter()
    .map(|(kind, verdict)| told(observed, kind, verdict))
    .collect()
}

/// The reason of the first of these, and what all of them say.
fn first_and_all(findings: &[(&'static str, String)]) -> Option<(&'static str, String)> {
    let texts: Vec<_> = findings.iter().map(|(_, text)| text.as_str()).collect();
    findings.first().map(|(reason, _)| (*reason, texts.join("; ")))
}

/// What is told of members' storage, the worst first: data that count for nothing, volumes that a human must decide about,
/// what mends itself or wants room.
const STORAGE: [&str; 9] = [
    "Quarantined",
    "RolledBack",
    "VolumeUnreachable",
    "CopiedStorage",
    "ForeignStorage",
    "LineageOld",
    "Damaged",
    shared::DISK_FULL,
    "ResizeUnsupported",
];

/// Why nothing is decided, where the register is older than what members promised.
fn regressed(view: &view::PartitionView) -> Option<&str> {
    view.conditions.iter().find(|condition| condition.kind == CONFIG_REGRESSED).map(|condition| &*condition.text)
}

fn available(observed: &Observed<'_>, facts: &Facts) -> Verdict {
    match &facts.not_serving {
        Some((reason, text)) => no(reason, text.clone()),
        None if facts.unobserved => ("Unknown", "NotObserved", "the members were not heard yet".to_owned()),
        None if observed.partitions.is_empty() => no("Pending", "no partition is made yet"),
        None => match &facts.refuses {
            Some(text) => no(shared::DISK_FULL, text.clone()),
            None => yes("Serving"),
        },
    }
}

fn progressing(observed: &Observed<'_>, facts: &Facts, serves: bool) -> Verdict {
    if let Some((reason @ ("Bootstrapping" | "FailingOver"), text)) = &facts.not_serving {
        let change = facts.changing.as_ref().map(|change| format!("; {change}")).unwrap_or_default();
        return is_true(reason, format!("{text}{change}"));
    }
    if observed.shape.paused {
        return no("Paused", "");
    }
    if let Some(obstacle) = &observed.obstacle {
        return is_true(obstacle.reason, obstacle.text.clone());
    }
    if let Some((reason, text)) = &facts.rolling {
        return is_true(reason, text.clone());
    }
    if let Some(text) = &facts.scaling {
        return is_true("Scaling", text.clone());
    }
    if let Some(text) = &facts.changing {
        return is_true("Transition", text.clone());
    }
    if let Some(text) = &facts.joining {
        return is_true("Joining", text.clone());
    }
    if serves && facts.syncing {
        return is_true("Syncing", facts.missing.join(", "));
    }
    no("Idle", "")
}

fn ready(observed: &Observed<'_>, facts: &Facts, available: &Verdict, progressing: &Verdict) -> Verdict {
    if let Some(why) = &observed.refused {
        return no("ConfigurationRefused", why.clone());
    }
    if available.0 != "True" {
        return (available.0, available.1, available.2.clone());
    }
    if let Some((_, text)) = &facts.failed {
        return no("RolloutFailed", text.clone());
    }
    if progressing.0 == "True" {
        return no(progressing.1, progressing.2.clone());
    }
    if !facts.missing.is_empty() {
        return no("MembersMissing", facts.missing.join(", "));
    }
    // Paused: what the spec asks for is not being done.
    let pending = observed.obstacle.as_ref().map(|obstacle| obstacle.text.clone());
    let pending = pending.or_else(|| facts.rolling.as_ref().map(|(_, text)| text.clone()));
    let pending = pending.or_else(|| facts.scaling.clone()).or_else(|| facts.joining.clone());
    match pending {
        Some(text) => no("Paused", text),
        None => yes("AllInSync"),
    }
}

fn told(observed: &Observed<'_>, kind: &str, (status, reason, message): Verdict) -> Condition {
    let before = observed
        .before
        .and_then(|before| before.conditions.iter().find(|condition| condition.type_ == kind))
        .filter(|before| before.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message),
        last_transition_time: before
            .map_or_else(|| seconds(&Time(observed.now)), |before| before.last_transition_time.clone()),
        observed_generation: Some(observed.shape.generation),
    }
}

/// The API server takes 32 KiB; people take less.
fn cut(mut message: String) -> String {
    const MOST: usize = 1024;
    if message.len() > MOST {
        let end = (0..=MOST).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
