//! Looks after every cluster while this replica holds the lease: the queue at work.
//!
//! Few at a time, each by one task; what is remembered of a cluster travels with its task. A task that fails, or even
//! panics, pauses its own cluster and nobody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cache::Key;
use super::context::Context;
use super::kinds::Kind;
use super::memory::Memory;
use super::queue::{Next, Queue, jittered};
use super::reconcile::reconcile;

/// Clusters that are looked after at once.
const AT_ONCE: usize = 8;
/// A look that takes longer hangs: it is given up and begun again.
const LOOK: Duration = Duration::from_secs(60);

/// Follows `clusters`, each named whenever something of it changed, until `stop`.
pub async fn run(
    context: Arc<Context>,
    mut clusters: mpsc::UnboundedReceiver<Key>,
    mut holds: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let started = Instant::now();
    let mut queue = Queue::default();
    let mut memories: HashMap<Key, Memory> = HashMap::new();
    let mut working: JoinSet<(Key, Memory, Next)> = JoinSet::new();
    let mut acting = false;
    tokio::select! {
        () = stop.cancelled() => return,
        () = context.cache.synced() => {}
    }
    holds.mark_changed();
    loop {
        let now = started.elapsed();
        while acting && working.len() < AT_ONCE {
            let Some(key) = queue.take(now) else { break };
            let memory = memories.remove(&key).unwrap_or_default();
            working.spawn(look(Arc::clone(&context), key, memory));
        }
        let due = queue.next_due().filter(|_| acting && working.len() < AT_ONCE);
        tokio::select! {
            () = stop.cancelled() => break,
            Some(key) = clusters.recv() => queue.add(key, started.elapsed()),
            Some(done) = working.join_next() => {
                // Panics are caught within the task: what is left is a task that was aborted, and none is.
                let Ok((key, memory, next)) = done else { continue };
                memories.insert(key.clone(), memory);
                queue.done(key, next, started.elapsed(), jittered);
            }
            changed = holds.changed() => {
                if changed.is_err() {
                    break;
                }
                acting = *holds.borrow_and_update();
                context.metrics.acting(acting);
                queue.clear();
                if acting {
                    // What was remembered may be long past.
                    memories.clear();
                    for key in context.cache.keys(Kind::Cluster) {
                        queue.add(key, started.elapsed());
                    }
                }
            }
            () = sleep_until(started, due) => {}
        }
        memories.retain(|key, _| context.cache.get(Kind::Cluster, key).is_some());
    }
    // What is being written is written to its end.
    while tokio::time::timeout(Duration::from_secs(5), working.join_next()).await.is_ok_and(|done| done.is_some()) {}
}

async fn sleep_until(started: Instant, due: Option<Duration>) {
    match due {
        Some(due) => tokio::time::sleep_until((started + due).into()).await,
        None => std::future::pending().await,
    }
}

async fn look(context: Arc<Context>, key: Key, mut memory: Memory) -> (Key, Memory, Next) {
    let began = Instant::now();
    let looked = {
        let looking = std::panic::AssertUnwindSafe(reconcile(&context, &key, &mut memory)).catch_unwind();
        tokio::time::timeout(LOOK, looking).await
    };
    context.metrics.reconciled(began.elapsed());
    let next = match looked {
        Ok(Ok(Ok(next))) => return (key, memory, next),
        Ok(Ok(Err(error))) => {
            context.metrics.reconcile_failed(error.why());
            if error.is_conflict() {
                tracing::debug!(cluster = %key, %error, "begun again");
            } else {
                tracing::warn!(cluster = %key, %error, "it is tried again after a pause");
            }
            Next::Failed
        }
        Ok(Err(_)) => {
            context.metrics.reconcile_failed("panic");
            tracing::error!(cluster = %key, "looking after it panicked; it is tried again after a pause");
            Next::Failed
        }
        Err(_) => {
            context.metrics.reconcile_failed("timeout");
            tracing::warn!(cluster = %key, "looking after it took more than {LOOK:?}; it is begun again");
            Next::Failed
        }
    };
    (key, memory, next)
}
