//! Looks after one cluster: dereference, validate, plan, build, apply, act, tell.
//!
//! Reads as that sentence; only dereference, apply, act and tell do I/O. Whatever is met on the way is in the status
//! before anything else is tried again. `paused` leaves out everything but the status and what drivers must know; a
//! spec that is refused leaves out everything but the status.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::act;
use super::apply::{Applier, ApplyError, check_owner};
use super::build::{Desired, Identity, authority_of, build, certificate_of};
use super::cache::Key;
use super::certificates::{self, Whose};
use super::client::{ErrorKind, KubeError};
use super::context::Context;
use super::dereference::{World, dereference};
use super::events::{Happening, Regarding};
use super::facts::is_terminating;
use super::kinds::Kind;
use super::memory::Memory;
use super::plan::{PartitionPlan, plan};
use super::queue::Next;
use super::rollout::Step;
use super::status::Obstacle;
use super::tell;
use super::validate::{Refused, ValidatedCluster, cluster_id, validate, warnings};
use crate::ident::ClusterId;
use crate::net::pki::Authority;

/// Lag moves without an event: it is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// What is in the way is looked at this often.
const OBSTACLE_AGAIN: Duration = Duration::from_secs(2);

/// Why a look came to nothing; it is repeated after a pause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ReconcileError(#[from] KubeError);

impl ReconcileError {
    /// For metrics.
    pub fn why(&self) -> &'static str {
        self.0.kind.word()
    }

    /// Somebody was faster; it is the normal course to begin again.
    pub fn is_conflict(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Conflict | ErrorKind::AlreadyExists)
    }
}

/// How far a look came.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub refused: Option<String>,
    pub obstacle: Option<Obstacle>,
    pub warnings: Vec<super::validate::Warning>,
    pub cluster: Option<ValidatedCluster>,
    pub identity: Option<Identity>,
    pub plans: BTreeMap<i32, PartitionPlan>,
    /// What became of a one-shot request, to be told before its annotation goes.
    pub answered: Option<act::Answered>,
}

/// One look.
pub async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Next, ReconcileError> {
    let now = Instant::now();
    let Some(cluster) = context.cache.get(Kind::Cluster, key) else {
        context.metrics.forget(key);
        return Ok(Next::OnChange);
    };
    memory.about(cluster.metadata.uid.as_deref().unwrap_or_default());
    let with_secrets = memory.identity(now).is_none();
    let Some(world) = dereference(context, key, with_secrets).await? else { return Ok(Next::OnChange) };
    if is_terminating(&world.cluster) {
        context.metrics.forget(key);
        return Ok(Next::OnChange);
    }
    let mut outcome = Outcome::default();
    let failed = match validate(&world.cluster, &world.existing()) {
        Err(refused) => {
            outcome.refuse(context, &world, &refused);
            None
        }
        Ok(cluster) => {
            outcome.warnings = warnings(&cluster);
            let failed = bring_about(context, &world, &cluster, memory, &mut outcome).await.err();
            outcome.cluster = Some(cluster);
            failed
        }
    };
    let told = tell::tell(context, &world, &outcome, memory).await;
    if let Some(failed) = failed {
        return Err(failed.into());
    }
    if let Some(answered) = &outcome.answered
        && told.is_ok()
    {
        act::finish_request(context, &world, answered).await?;
    }
    Ok(Next::After(told?.unwrap_or(LOOK_AGAIN).min(outcome.look_again())))
}

impl Outcome {
    fn refuse(&mut self, context: &Context, world: &World, refused: &Refused) {
        context.events.tell(Happening {
            regarding: Regarding::object(Kind::Cluster, &world.cluster),
            warning: true,
            reason: "SpecRefused".into(),
            note: refused.to_string(),
        });
        self.refused = Some(refused.to_string());
    }

    fn look_again(&self) -> Duration {
        // Not everything that may be in the way is watched.
        if self.obstacle.is_some() {
            return OBSTACLE_AGAIN;
        }
        let waits = self.plans.values().filter_map(|plan| match &plan.progress.step {
            Step::Wait(wait) => wait.again,
            _ => None,
        });
        waits.min().map_or(LOOK_AGAIN, |soonest| soonest.max(Duration::from_millis(200)))
    }
}

async fn bring_about(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    memory: &mut Memory,
    outcome: &mut Outcome,
) -> Result<(), KubeError> {
    let now = Instant::now();
    let Some(identity) = establish(context, world, cluster, memory, outcome).await? else { return Ok(()) };
    outcome.identity = Some(identity.clone());
    outcome.plans = plan(world, cluster, &identity, memory, now);
    let facts = outcome.plans.iter().map(|(number, plan)| (*number, plan.facts.clone())).collect();
    let desired = build(cluster, &identity, &facts);
    if !apply(context, world, cluster, &desired, memory, outcome).await? {
        return Ok(());
    }
    if cluster.spec.paused {
        return Ok(());
    }
    act::act(context, world, cluster, &identity, memory, outcome).await
}

/// The cluster's identity: read, or made before anything else. None: something is in the way, and told.
async fn establish(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    memory: &mut Memory,
    outcome: &mut Outcome,
) -> Result<Option<Identity>, KubeError> {
    let now = Instant::now();
    if let Some(identity) = memory.identity(now) {
        return Ok(Some(identity));
    }
    if let Some(authority) = &world.authority {
        let key = Key::of(authority);
        if let Err(error) = check_owner(Kind::Secret, &key, authority, &cluster.uid) {
            outcome.obstacle = Some(obstacle(&error));
            return Ok(None);
        }
        let made = authority.metadata.creation_timestamp.as_ref().map_or(SystemTime::UNIX_EPOCH, |t| t.0.into());
        let identity = authority_of(authority, &cluster.name)
            .ok_or_else(|| "it lacks an entry, or one is no text".to_owned())
            .and_then(|(id, authority)| certified(world, cluster, id, authority, made));
        return match identity {
            Ok(identity) => {
                tell_renewal(context, world, &identity);
                memory.set_identity(identity.clone(), now);
                Ok(Some(identity))
            }
            Err(why) => {
                outcome.refused = Some(format!(
                    "the Secret {key} does not hold the cluster's identity any more ({why}): restore it, or delete it to \
                     have the id read from the volume claims and a new authority made"
                ));
                Ok(None)
            }
        };
    }
    if cluster.spec.paused {
        return Ok(None);
    }
    let adopt = cluster.spec.bootstrap.as_ref().and_then(|bootstrap| bootstrap.adopt.as_ref());
    let id = match cluster_id(adopt.map(|adopt| adopt.cluster_id.as_str()), None, world.claim_ids()) {
        Ok(id) => id.unwrap_or_else(ClusterId::random),
        Err(refused) => {
            outcome.refuse(context, world, &refused);
            return Ok(None);
        }
    };
    let made = Authority::new(&cluster.name).map_err(|error| error.to_string());
    let identity = match made.and_then(|authority| certified(world, cluster, id, authority, SystemTime::now())) {
        Ok(identity) => identity,
        Err(why) => {
            outcome.refused = Some(format!("no certificate can be made: {why}"));
            return Ok(None);
        }
    };
    let secrets = build(cluster, &identity, &BTreeMap::new());
    for authority in secrets.iter().filter(|desired| desired.mode == super::build::Mode::CreateOnly) {
        // Two that make it at once: the second finds it and begins again with what is there.
        context.kube.create(authority.kind, &authority.object).await?;
        context.metrics.wrote(authority.kind.name(), "create");
    }
    memory.set_identity(identity.clone(), now);
    Ok(Some(identity))
}

/// The identity with the certificate that its members shall have now.
fn certified(
    world: &World,
    cluster: &ValidatedCluster,
    id: ClusterId,
    authority: Authority,
    made: SystemTime,
) -> Result<Identity, String> {
    let now = SystemTime::now();
    let whose = Whose { cluster: &cluster.name, namespace: &cluster.namespace, id };
    let age = now.duration_since(made).unwrap_or_default();
    let have = world.member_tls.as_ref().and_then(certificate_of);
    let certificate = certificates::decide(whose, &authority, age, have.as_ref(), now)?;
    Ok(Identity { id, authority, certificate })
}

fn tell_renewal(context: &Context, world: &World, identity: &Identity) {
    let have = world.member_tls.as_ref().and_then(certificate_of);
    let Some(have) = have.filter(|have| *have != identity.certificate) else { return };
    let note = if have.certificate_pem == identity.certificate.certificate_pem {
        "the authorities that members believe change; they and the operator take it up within minutes"
    } else {
        "the members' certificate is renewed; they and the operator take it up within minutes, without a restart"
    };
    context.events.tell(Happening {
        regarding: Regarding::object(Kind::Cluster, &world.cluster),
        warning: false,
        reason: "CertificateRenewed".into(),
        note: note.into(),
    });
}

/// Makes every object what it shall be. False: something is in the way, and told.
async fn apply(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    desired: &[Desired],
    memory: &mut Memory,
    outcome: &mut Outcome,
) -> Result<bool, KubeError> {
    let with_secrets = memory.secrets_due();
    let mut applier = Applier {
        kube: &context.kube,
        cache: &context.cache,
        metrics: &context.metrics,
        owner: &cluster.uid,
        compared: &mut memory.compared,
    };
    for desired in desired {
        // Drivers must hear of a pause; everything else rests.
        let rests = cluster.spec.paused && desired.kind != Kind::Partition;
        if rests || desired.kind == Kind::Secret && !with_secrets {
            continue;
        }
        match applier.apply(desired).await {
            Ok(_) => {}
            Err(ApplyError::Kube(error)) if error.kind != ErrorKind::Forbidden => return Err(error),
            Err(ApplyError::Refused(error)) => {
                outcome.refuse(context, world, &Refused(vec![error.to_string()]));
                return Ok(false);
            }
            Err(error) => {
                outcome.obstacle = Some(obstacle(&error));
                return Ok(false);
            }
        }
    }
    if with_secrets && !cluster.spec.paused {
        memory.secrets_applied();
    }
    Ok(true)
}

fn obstacle(error: &ApplyError) -> Obstacle {
    let reason = match error {
        ApplyError::Foreign { .. } => "ForeignObject",
        ApplyError::Terminating { .. } | ApplyError::Remains { .. } => "WaitingForDeletion",
        ApplyError::Refused(_) => "ObjectRefused",
        ApplyError::Kube(_) => "Forbidden",
    };
    Obstacle { reason, text: error.to_string() }
}
