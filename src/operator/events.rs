//! What happened, as Kubernetes events: one object a kind of happening, counted when it happens again.
//!
//! Publishing is beside the way: a queue of bounded length, drained by one task; when it is full or the API server says
//! no, an event is lost and logged, and nothing else suffers. The same sentence about the same object is written once
//! a minute at most.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::{ErrorKind, Kube, KubeError};
use super::kinds::Kind;
use crate::topology::notice::{Notice, Severity};

/// Events that may wait.
const WAITING: usize = 256;
/// The same event is written again after this long at the earliest.
const REPEAT: Duration = Duration::from_secs(60);
/// After this long an event that happens again is a new one.
const FORGET: Duration = Duration::from_secs(360);
/// The API server takes 1 KiB.
const LONGEST_NOTE: usize = 1000;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Regarding {
    /// About this object.
    pub fn object(kind: Kind, object: &DynamicObject) -> Self {
        let meta = &object.metadata;
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Happening {
    /// To whom.
    pub regarding: Regarding,
    /// Worth a look.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: String,
    /// The sentence.
    pub note: String,
}

/// Where happenings are told. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Happening>);

impl Events {
    /// A queue, and what drains it.
    pub fn new(kube: Kube, instance: String) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let publisher = Publisher { kube, instance: instance.into(), known: HashMap::new() };
        (Self(sender), publisher.run(receiver))
    }

    /// Tells it, if there is room.
    pub fn tell(&self, happening: Happening) {
        if let Err(error) = self.0.try_send(happening) {
            tracing::debug!(%error, "an event was not told");
        }
    }

    /// A controller's notice about a partition.
    pub fn notice(&self, regarding: &Regarding, partition: u32, notice: &Notice) {
        let (note, reason) = (format!("partition {partition}: {}", notice.text), notice.reason);
        match notice.severity {
            Severity::Info => tracing::info!(cluster = %regarding.name, reason, "{note}"),
            Severity::Warning => tracing::warn!(cluster = %regarding.name, reason, "{note}"),
            Severity::Alarm => tracing::error!(cluster = %regarding.name, reason, "{note}"),
        }
        self.tell(Happening {
            regarding: regarding.clone(),
            warning: notice.severity > Severity::Info,
            reason: reason.to_owned(),
            note,
        });
    }
}

struct Known {
    name: String,
    count: i64,
    written: Instant,
}

struct Publisher {
    kube: Kube,
    instance: Arc<str>,
    known: HashMap<Happening, Known>,
}

impl Publisher {
    async fn run(mut self, mut happenings: mpsc::Receiver<Happening>) {
        while let Some(happening) = happenings.recv().await {
            let now = Instant::now();
            self.known.retain(|_, known| now < known.written + FORGET);
            let result = match self.known.get_mut(&happening) {
                Some(known) => {
                    known.count += 1;
                    if now < known.written + REPEAT {
                        continue;
                    }
                    known.written = now;
                    let (name, count) = (known.name.clone(), known.count);
                    self.repeat(&happening, &name, count).await
                }
                None => self.publish(happening.clone(), now).await,
            };
            if let Err(error) = result {
                tracing::debug!(%error, reason = happening.reason, "an event was not written");
                self.known.remove(&happening);
            }
        }
    }

    async fn publish(&mut self, happening: Happening, now: Instant) -> Result<(), KubeError> {
        let stamp = Timestamp::now();
        let name = format!("{}.{:x}", happening.regarding.name, stamp.as_nanosecond());
        self.kube.create(Kind::Event, &event(&happening, &name, &self.instance, stamp)).await?;
        self.known.insert(happening, Known { name, count: 1, written: now });
        Ok(())
    }

    async fn repeat(&self, happening: &Happening, name: &str, count: i64) -> Result<(), KubeError> {
        let series = json!({"series": {"count": count, "lastObservedTime": micro(Timestamp::now())}});
        match self.kube.merge(Kind::Event, &happening.regarding.namespace, name, &series).await {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

fn event(happening: &Happening, name: &str, instance: &str, now: Timestamp) -> DynamicObject {
    let regarding = &happening.regarding;
    let mut note = happening.note.clone();
    if note.len() > LONGEST_NOTE {
        let end = (0..=LONGEST_NOTE).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push_str(" ...");
    }
    DynamicObject::new(name, &Kind::Event.resource()).within(&regarding.namespace).data(json!({
        "eventTime": micro(now),
        "reportingController": "armdb.io/operator",
        "reportingInstance": instance,
        "action": happening.reason,
        "reason": happening.reason,
        "type": if happening.warning { "Warning" } else { "Normal" },
        "note": note,
        "regarding": {
            "apiVersion": regarding.kind.resource().api_version,
            "kind": regarding.kind.name(),
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
        },
    }))
}

fn micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_the_api_server_and_says_whom_it_is_about() {
        let happening = Happening {
            regarding: Regarding { kind: Kind::Cluster, namespace: "prod".into(), name: "kv".into(), uid: "u".into() },
            warning: true,
            reason: "ChangeStarted".into(),
            note: "é".repeat(2000),
        };
        let event = event(&happening, "kv.1", "operator-0", Timestamp::UNIX_EPOCH);
        assert!(event.data["note"].as_str().expect("a note").len() <= 1024);
        assert_eq!(event.data["regarding"]["apiVersion"], "armdb.io/v1alpha1");
        assert_eq!(
            (&event.data["type"], &event.data["eventTime"]),
            (&json!("Warning"), &json!("1970-01-01T00:00:00.000000Z"))
        );
    }
}
