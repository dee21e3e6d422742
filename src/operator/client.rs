//! Every request to the API server goes through here: with a deadline, without automatic retry, with a word for what
//! went wrong that the caller can decide by.
//!
//! No retry, because whoever asks knows better what an answer that never came means: a register must be read again
//! before anything is written, a reconcile begins anew. Watches have their own way in [`super::cache`].

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Client, Config};
use serde_json::Value;

use super::kinds::Kind;
use super::metrics::Metrics;

/// Who writes, as managed fields call it.
pub const FIELD_MANAGER: &str = "armdb-operator";

/// A request that was not answered as hoped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {reason}")]
pub struct KubeError {
    /// What was asked.
    pub operation: String,
    /// What it means.
    pub kind: ErrorKind,
    /// In words.
    pub reason: String,
}

/// What a failed request means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such object.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// Somebody was faster: read again.
    Conflict,
    /// The API server does not take it as it is.
    Invalid,
    /// The operator lacks a right, or an admission policy says no.
    Forbidden,
    /// No answer, or none that says what happened: a write may have been done.
    Unreachable,
}

impl ErrorKind {
    /// For metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
        }
    }

    /// By code: of the reasons only one says more, and not every answer has one.
    fn of(status: &kube::core::Status) -> Self {
        match status.code {
            404 => Self::NotFound,
            409 if status.is_already_exists() => Self::AlreadyExists,
            409 => Self::Conflict,
            400 | 413 | 422 => Self::Invalid,
            401 | 403 => Self::Forbidden,
            _ => Self::Unreachable,
        }
    }
}

/// A way to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kube").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Kube {
    /// Over `client`; no answer within `timeout` is an error.
    pub fn new(client: Client, timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self { client, timeout, metrics }
    }

    /// A client of its own connections, without automatic retry.
    pub fn connect(config: &Config) -> Result<Client, kube::Error> {
        let mut config = config.clone();
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(3));
        Client::try_from(config)
    }

    /// The same, with another deadline.
    pub fn within(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    async fn ask<T>(
        &self,
        operation: impl FnOnce() -> String,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, KubeError> {
        let answered = tokio::time::timeout(self.timeout, request).await;
        let (kind, reason) = match answered {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) => (ErrorKind::of(&status), status.message),
            Ok(Err(error)) => (ErrorKind::Unreachable, chain(&error)),
            Err(_) => (ErrorKind::Unreachable, format!("no answer within {:?}", self.timeout)),
        };
        self.metrics.api_error(kind);
        Err(KubeError { operation: operation(), kind, reason })
    }

    /// The object as it is, read from a quorum.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<DynamicObject>, KubeError> {
        let api = self.api(kind, namespace);
        self.ask(|| format!("reading {} {namespace}/{name}", kind.name()), api.get_opt(name)).await
    }

    /// Makes it.
    pub async fn create(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, KubeError> {
        let (namespace, name) = place(object);
        let api = self.api(kind, namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        self.ask(|| format!("creating {} {namespace}/{name}", kind.name()), api.create(&params, object)).await
    }

    /// Replaces it, if its resource version is still the one in `object`; or says what would become of that.
    pub async fn replace(&self, kind: Kind, object: &DynamicObject, dry_run: bool) -> Result<DynamicObject, KubeError> {
        let (namespace, name) = place(object);
        let api = self.api(kind, namespace);
        let params = PostParams { dry_run, field_manager: Some(FIELD_MANAGER.into()) };
        let what = if dry_run { "trying to replace" } else { "replacing" };
        self.ask(|| format!("{what} {} {namespace}/{name}", kind.name()), api.replace(name, &params, object)).await
    }

    /// Replaces its status, if its resource version is still the one in `object`.
    pub async fn replace_status(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, KubeError> {
        let (namespace, name) = place(object);
        let api = self.api(kind, namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let operation = || format!("replacing the status of {} {namespace}/{name}", kind.name());
        self.ask(operation, api.replace_status(name, &params, object)).await
    }

    /// Merges `patch` into it.
    pub async fn merge(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<DynamicObject, KubeError> {
        let api = self.api(kind, namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(patch);
        self.ask(|| format!("patching {} {namespace}/{name}", kind.name()), api.patch(name, &params, &patch)).await
    }

    /// Deletes it, if it is still this one. That it is gone already is as good.
    pub async fn delete(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<(), KubeError> {
        let api = self.api(kind, namespace);
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted =
            self.ask(|| format!("deleting {} {namespace}/{name}", kind.name()), api.delete(name, &params)).await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn place(object: &DynamicObject) -> (&str, &str) {
    let meta = &object.metadata;
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// An error with everything beneath it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(beneath) = source {
        let more = beneath.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = beneath.source();
    }
    text
}
