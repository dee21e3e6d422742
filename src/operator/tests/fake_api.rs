//! An API server in memory, behind the client's own interface: no socket, no thread.
//!
//! Real enough for what is tested with it: resource versions and conflicts, generations, the status subresource, dry
//! runs, merge patches, preconditions, lists and watches. It fills in a default where a test says so, and can be told
//! to fail. Schemas, owners and finalizers are not its business: those are tested on a real one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::super::client::Kube;
use super::super::kinds::Kind;
use super::super::metrics::Metrics;

type Admit = Box<dyn Fn(&str, &mut Value) + Send>;

#[derive(Default)]
struct State {
    version: u64,
    /// By path: `<collection>/<name>`.
    objects: BTreeMap<String, Value>,
    watchers: Vec<Watcher>,
    /// Every change, with its version: a watch begins with those it has not seen.
    log: Vec<(u64, Watched, Bytes)>,
    /// Method and path of every request but reads.
    writes: Vec<String>,
    reads: usize,
    admit: Option<Admit>,
    /// Answers to give instead of doing anything, the next first.
    failures: Vec<(&'static str, u16)>,
}

struct Watcher {
    scope: Watched,
    events: mpsc::UnboundedSender<Bytes>,
}

/// A collection, of one namespace or of all.
#[derive(Clone)]
struct Watched {
    collection: String,
    namespace: Option<String>,
}

impl Watched {
    fn covers(&self, other: &Self) -> bool {
        self.collection == other.collection && (self.namespace.is_none() || self.namespace == other.namespace)
    }
}

/// See the module. Clones are the same server.
#[derive(Clone, Default)]
pub(in super::super) struct FakeApi(Arc<Mutex<State>>);

struct Asked {
    /// `/apis/<group>/<version>/<plural>` or `/api/v1/<plural>`, without the namespace.
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
}

impl Asked {
    fn of(uri: &http::Uri) -> Self {
        let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let group = if parts[0] == "api" { 2 } else { 3 };
        let mut collection: Vec<&str> = parts.drain(..group).collect();
        let namespace = (parts.first() == Some(&"namespaces")).then(|| {
            let namespace = parts[1].to_owned();
            parts.drain(..2);
            namespace
        });
        collection.push(parts[0]);
        let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Self {
            collection: collection.join("/"),
            namespace,
            name: parts.get(1).map(|name| (*name).to_owned()),
            subresource: parts.get(2).map(|sub| (*sub).to_owned()),
            query: query.collect(),
        }
    }

    fn path(&self, name: &str) -> String {
        path(&self.collection, self.namespace.as_deref().unwrap_or_default(), name)
    }
}

fn path(collection: &str, namespace: &str, name: &str) -> String {
    format!("{collection}/{namespace}/{name}")
}

fn collection(kind: Kind) -> String {
    let resource = kind.resource();
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}/{}", resource.api_version, resource.plural)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}))
}

impl FakeApi {
    /// A client of it.
    pub(in super::super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// The same, as the operator uses it.
    pub(in super::super) fn kube(&self) -> Kube {
        Kube::new(self.client(), Duration::from_secs(5), Arc::new(Metrics::default()))
    }

    /// Every stored object passes through here first.
    pub(in super::super) fn admit(&self, admit: impl Fn(&str, &mut Value) + Send + 'static) {
        self.0.lock().admit = Some(Box::new(admit));
    }

    /// The next request with this method is answered with this code.
    pub(in super::super) fn fail(&self, method: &'static str, code: u16) {
        self.0.lock().failures.push((method, code));
    }

    /// Writes since the last call, as `METHOD path`.
    pub(in super::super) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().writes)
    }

    /// Reads so far, lists and watches aside.
    pub(in super::super) fn reads(&self) -> usize {
        self.0.lock().reads
    }

    /// The object as it is.
    pub(in super::super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.0.lock().objects.get(&path(&collection(kind), namespace, name)).cloned()
    }

    /// Puts an object there, as somebody else's hand; what it replaces is gone.
    pub(in super::super) fn put(&self, kind: Kind, mut object: Value) -> Value {
        let resource = kind.resource();
        object["apiVersion"] = resource.api_version.into();
        object["kind"] = resource.kind.into();
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let namespace = object["metadata"]["namespace"].as_str().expect("a namespace").to_owned();
        self.0.lock().store(&collection(kind), &namespace, &name, object, false)
    }

    /// Changes an object, as somebody else's hand.
    pub(in super::super) fn change(&self, kind: Kind, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(kind, namespace, name).expect("it is there");
        change(&mut object);
        self.0.lock().store(&collection(kind), namespace, name, object, false);
    }

    /// Takes an object away.
    pub(in super::super) fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        self.0.lock().remove(&collection(kind), namespace, name);
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let asked = Asked::of(&parts.uri);
        let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a body");
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
        if asked.query.contains_key("watch") {
            return self.0.lock().watch(&asked);
        }
        let (code, value) = self.0.lock().handle(&parts.method, &asked, body);
        let status = StatusCode::from_u16(code).expect("a status");
        Response::builder().status(status).body(Body::from(value.to_string())).expect("a response")
    }
}

impl State {
    fn handle(&mut self, method: &Method, asked: &Asked, body: Value) -> (u16, Value) {
        if let Some(at) = self.failures.iter().position(|(failing, _)| *failing == method.as_str()) {
            let (_, code) = self.failures.remove(at);
            return failure(code, "told to fail");
        }
        let name = match (&asked.name, method) {
            (Some(name), _) => name.clone(),
            (None, &Method::GET) => return (200, self.list(asked)),
            (None, _) => body["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        };
        let present = self.objects.get(&asked.path(&name)).cloned();
        if *method == Method::GET {
            self.reads += 1;
            return present.map_or_else(|| failure(404, "NotFound"), |object| (200, object));
        }
        let dry_run = asked.query.contains_key("dryRun");
        let sub = asked.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
        let tried = if dry_run { "try " } else { "" };
        self.writes.push(format!("{tried}{method} {}{sub}", asked.path(&name)));
        let namespace = asked.namespace.clone().unwrap_or_default();
        match (method.as_str(), present) {
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("POST", None) => {
                let mut object = body;
                object["metadata"]["namespace"] = namespace.as_str().into();
                (201, self.store(&asked.collection, &namespace, &name, object, dry_run))
            }
            (_, None) => failure(404, "NotFound"),
            ("PUT", Some(present)) => {
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != present["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                let mut object = body;
                match asked.subresource.as_deref() {
                    Some("status") => {
                        let status = object["status"].take();
                        object = present;
                        object["status"] = status;
                    }
                    _ => {
                        if let Some(status) = present.get("status") {
                            object["status"] = status.clone();
                        }
                        object["metadata"]["uid"] = present["metadata"]["uid"].clone();
                        object["metadata"]["creationTimestamp"] = present["metadata"]["creationTimestamp"].clone();
                    }
                }
                (200, self.store(&asked.collection, &namespace, &name, object, dry_run))
            }
            ("PATCH", Some(present)) => {
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != present["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                let mut object = present;
                merge(&mut object, &body);
                (200, self.store(&asked.collection, &namespace, &name, object, dry_run))
            }
            ("DELETE", Some(present)) => {
                let uid = &body["preconditions"]["uid"];
                if !uid.is_null() && *uid != present["metadata"]["uid"] {
                    return failure(409, "Conflict");
                }
                self.remove(&asked.collection, &namespace, &name);
                (200, present)
            }
            (other, _) => failure(405, other),
        }
    }

    fn store(&mut self, collection: &str, namespace: &str, name: &str, mut object: Value, dry_run: bool) -> Value {
        if let Some(admit) = &self.admit {
            admit(collection, &mut object);
        }
        let key = path(collection, namespace, name);
        let before = self.objects.get(&key);
        let meta = &mut object["metadata"];
        match before {
            None => {
                if meta["uid"].is_null() {
                    meta["uid"] = format!("uid-{}-{}", name, self.version).into();
                }
                meta["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
                meta["generation"] = 1.into();
            }
            Some(before) => {
                let changed = before["spec"] != object["spec"];
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(1) + i64::from(changed);
                object["metadata"]["generation"] = generation.into();
                object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
                if object == *before {
                    return object;
                }
            }
        }
        if !dry_run {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            let kind = if before.is_none() { "ADDED" } else { "MODIFIED" };
            self.objects.insert(key, object.clone());
            self.tell(collection, namespace, kind, &object);
        }
        object
    }

    fn remove(&mut self, collection: &str, namespace: &str, name: &str) {
        if let Some(mut object) = self.objects.remove(&path(collection, namespace, name)) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.tell(collection, namespace, "DELETED", &object);
        }
    }

    fn tell(&mut self, collection: &str, namespace: &str, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let place = Watched { collection: collection.to_owned(), namespace: Some(namespace.to_owned()) };
        self.watchers.retain(|watcher| !watcher.scope.covers(&place) || watcher.events.send(line.clone()).is_ok());
        self.log.push((self.version, place, line));
    }

    fn list(&self, asked: &Asked) -> Value {
        let prefix = match &asked.namespace {
            Some(namespace) => format!("{}/{namespace}/", asked.collection),
            None => format!("{}/", asked.collection),
        };
        let items: Vec<_> =
            self.objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn watch(&mut self, asked: &Asked) -> Response<Body> {
        let (events, receiver) = mpsc::unbounded_channel();
        let scope = Watched { collection: asked.collection.clone(), namespace: asked.namespace.clone() };
        let since = asked.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        for (version, place, line) in &self.log {
            if *version > since && scope.covers(place) {
                let _ = events.send(line.clone());
            }
        }
        self.watchers.push(Watcher { scope, events });
        let lines = UnboundedReceiverStream::new(receiver).map(Ok::<_, Infallible>);
        Response::new(Body::from_stream(lines))
    }
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}
