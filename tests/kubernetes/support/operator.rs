//! The operator as a user installs it, and the clusters it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use armdb::api::{ArmdbClusterStatus, names};
use armdb::client::{Client, ClientOptions};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::harness::root;
use super::members::IMAGE;
use super::{PATIENCE, apply, eventually, get, kubectl, patiently};

/// What an upgrade goes to.
pub const NEXT: &str = "registry.test/armdb:2";
/// Where the chart is installed.
pub const NAMESPACE: &str = "armdb-system";
/// Under which name.
const RELEASE: &str = "armdb";

/// Runs `helm` with these arguments; fails the case if it complains.
pub async fn helm(arguments: &[&str]) -> String {
    let outcome = helm_outcome(arguments).await;
    outcome.unwrap_or_else(|complaint| panic!("helm {}: {complaint}", arguments.join(" ")))
}

/// The same; what it complained of is for whoever asks.
pub async fn helm_outcome(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("helm").args(arguments).output().await.expect("helm is on the PATH of the harness");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The chart of this tree.
pub fn chart() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/armdb-operator");
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Installs the operator, once for all cases; again if a case took it away and failed.
pub async fn operator() {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    if INSTALLED.initialized() && get(NAMESPACE, "deployment", RELEASE).await.is_none() {
        install().await;
    }
    INSTALLED.get_or_init(install).await;
}

/// Installs it, or brings what is installed up to date.
pub async fn install() {
    let whence = ["upgrade", "--install", RELEASE, &chart(), "--namespace", NAMESPACE, "--create-namespace"];
    // Another case may have applied the definitions by hand.
    let how = ["--set-string", &image(IMAGE), "--take-ownership", "--wait", "--timeout", "5m"];
    helm(&[&whence[..], &how[..]].concat()).await;
}

/// The values that name the operator's image. A tag that looks like a number is a text: `--set-string`.
pub fn image(image: &str) -> String {
    let (repository, tag) = image.rsplit_once(':').expect("the image has a tag");
    // On a Kubernetes that is kept, an image that was built anew has its old name: its date makes new pods.
    let built = image_archive(image).metadata().and_then(|meta| meta.modified()).expect("the image was built");
    let built = built.duration_since(std::time::UNIX_EPOCH).expect("a date").as_millis();
    format!("image.repository={repository},image.tag={tag},podAnnotations.built={built}")
}

/// The archive that the nodes have an image from.
pub fn image_archive(image: &str) -> PathBuf {
    let (_, tag) = image.rsplit_once(':').expect("the image has a tag");
    root().join(format!("images/armdb-{tag}.tar"))
}

/// Runs `kubectl armdb` as people do: with this binary on the path as `kubectl-armdb`. An error is all that it said.
pub async fn kubectl_armdb(arguments: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = env!("CARGO_BIN_EXE_armdb");
    std::os::unix::fs::symlink(binary, folder.path().join("kubectl-armdb")).expect("a link can be made");
    let path = std::env::var_os("PATH").expect("the harness sets a path");
    let path = std::env::join_paths(std::iter::once(folder.path().to_owned()).chain(std::env::split_paths(&path)));
    let mut command = Command::new("kubectl");
    command.arg("armdb").args(arguments).env("PATH", path.expect("a path"));
    let output = command.output().await.expect("kubectl is on the PATH of the harness");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

/// A cluster that the operator runs.
pub struct Cluster<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Cluster<'a> {
    /// Applies the plainest manifest there is, with `spec` over it, and waits for nothing.
    pub async fn apply(namespace: &'a str, name: &'a str, spec: Value) -> Self {
        let mut manifest = json!({
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster", "metadata": {"name": name},
            "spec": {
                "image": IMAGE, "replicas": 3, "storage": {"storageClassName": "nvme-local", "size": "1Gi"},
                // Without a request a container runs when nobody else on its node wants to.
                "resources": {"requests": {"cpu": "100m"}},
            },
        });
        let fields = manifest["spec"].as_object_mut().expect("it is a mapping");
        fields.extend(spec.as_object().cloned().unwrap_or_default());
        apply(namespace, &[manifest]).await;
        Self { namespace, name }
    }

    /// Waits as a pipeline does.
    pub async fn ready(&self) {
        let object = format!("armdb/{}", self.name);
        let waited = kubectl(["-n", self.namespace, "wait", "--for=condition=Ready", &object, "--timeout=5m"]).await;
        waited.unwrap_or_else(|complaint| panic!("{object} is not Ready: {complaint}"));
    }

    /// What the operator tells about it.
    pub async fn status(&self) -> ArmdbClusterStatus {
        let object = get(self.namespace, "armdb", self.name).await.expect("it is there");
        // Null: the operator has not said anything yet.
        let status = Some(object["status"].clone()).filter(|status| !status.is_null());
        status.map_or_else(Default::default, |status| serde_json::from_value(status).expect("it is a status"))
    }

    /// The leader of the first partition.
    pub async fn leader(&self) -> String {
        eventually("there is a leader", async || self.status().await.partitions.first()?.leader.clone()).await
    }

    /// Waits until another member than `former` leads, and serves; who.
    pub async fn another_leader(&self, former: &str) -> String {
        eventually("another member leads", async || {
            let partition = self.status().await.partitions.into_iter().next()?;
            let serves = partition.state == armdb::api::PartitionState::Available;
            partition.leader.filter(|leader| leader != former && serves)
        })
        .await
    }

    /// The newest epoch of the first partition in which somebody leads.
    pub async fn epoch(&self) -> i64 {
        let led = async || self.status().await.partitions.first().filter(|p| p.leader.is_some()).map(|p| p.epoch);
        eventually("an epoch is led", led).await
    }

    /// Waits until somebody leads a later epoch than `former`, and serves. After a kill that may be the same member, if
    /// it was started again before anybody else was chosen.
    pub async fn led_anew(&self, former: i64) {
        eventually("a later epoch is led", async || {
            let partition = self.status().await.partitions.into_iter().next()?;
            let serves = partition.state == armdb::api::PartitionState::Available;
            (partition.epoch > former && partition.leader.is_some() && serves).then_some(())
        })
        .await;
    }

    /// Status and reason of a condition.
    pub async fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.status().await.conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == kind);
        found.map(|condition| (condition.status, condition.reason)).unwrap_or_default()
    }

    /// Waits until a condition has this status and reason; its message.
    pub async fn until(&self, kind: &str, status: &str, reason: &str) -> String {
        let mut last = None;
        let found = patiently(async || {
            let conditions = self.status().await.conditions;
            last = conditions.into_iter().find(|condition| condition.type_ == kind);
            let found = last.as_ref().filter(|it| it.status == status && it.reason == reason)?;
            Some(found.message.clone())
        })
        .await;
        found.unwrap_or_else(|| {
            panic!("never within {PATIENCE:?}: {kind} is {status} with {reason}; the last was {last:?}")
        })
    }

    /// Changes the object as `kubectl patch --type merge` does.
    pub async fn patch(&self, patch: Value) {
        let object = format!("armdb/{}", self.name);
        let patched = kubectl(["-n", self.namespace, "patch", &object, "--type=merge", "-p", &patch.to_string()]).await;
        patched.unwrap_or_else(|complaint| panic!("kubectl patch {object}: {complaint}"));
    }

    /// Changes the spec and waits until all of it is in force.
    pub async fn change(&self, spec: Value) {
        self.patch(json!({"spec": spec})).await;
        self.ready().await;
    }

    /// Its pods, by name: uid and image.
    pub async fn pods(&self) -> BTreeMap<String, (String, String)> {
        let selector = format!("armdb.io/cluster={}", self.name);
        let listed = kubectl(["-n", self.namespace, "get", "pods", "-l", &selector, "-o", "json"]).await;
        let list: Value = serde_json::from_str(&listed.expect("pods can be listed")).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pods = list["items"].as_array().expect("a list").iter();
        pods.map(|pod| {
            let image = text(&pod["spec"]["containers"][0]["image"]);
            (text(&pod["metadata"]["name"]), (text(&pod["metadata"]["uid"]), image))
        })
        .collect()
    }

    /// `host:port` of one of its services, by name.
    pub fn address(&self, service: fn(&str) -> String) -> String {
        format!("{}.{}.svc.cluster.local:7400", service(self.name), self.namespace)
    }

    /// A client that knows nothing but the service of the leaders.
    pub async fn client(&self) -> Client {
        let options = ClientOptions::new([self.address(names::service_read_write)]);
        Client::connect(options).await.expect("the service of the leaders answers")
    }
}
