//! The replicas of the operator, one by one: who they are, how they ended, and the failpoints in them.

use serde_json::Value;

use super::http::{http, http_get};
use super::operator::NAMESPACE;
use super::{eventually, kubectl};

const SELECTOR: &str = "app.kubernetes.io/name=armdb-operator";
const HTTP: u16 = 8080;
/// What `armdb::drive::failpoint` leaves behind.
const EXIT_CODE: i32 = armdb::drive::failpoint::EXIT_CODE;

/// A pod of the operator.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Its name, which is its identity too.
    pub pod: String,
    /// Where it is reached.
    pub ip: String,
}

async fn pods() -> Vec<Value> {
    let listed = kubectl(["-n", NAMESPACE, "get", "pods", "-l", SELECTOR, "-o", "json"]).await;
    let list: Value = serde_json::from_str(&listed.expect("pods can be listed")).expect("JSON");
    let pods = list["items"].as_array().expect("a list");
    pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
}

/// All of them.
pub async fn replicas() -> Vec<Replica> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = pods().await;
    pods.iter().map(|pod| Replica { pod: text(&pod["metadata"]["name"]), ip: text(&pod["status"]["podIP"]) }).collect()
}

/// New pods in place of all of them, so that Kubernetes holds no restart against them.
pub async fn fresh_replicas() -> Vec<Replica> {
    let before: Vec<String> = replicas().await.into_iter().map(|replica| replica.pod).collect();
    kubectl(["-n", NAMESPACE, "delete", "pods", "-l", SELECTOR]).await.expect("deleted");
    eventually("as many are there again, and ready", async || {
        let pods = pods().await;
        let ready = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).count();
        (pods.len() == before.len() && ready == pods.len()).then_some(())
    })
    .await;
    replicas().await
}

impl Replica {
    /// Arms a failpoint of a partition in it, as soon as it drives that.
    pub async fn arm(&self, namespace: &str, partition: &str, place: &str, deed: &str) {
        let path = format!("/failpoints/{namespace}/{partition}/{place}/{deed}");
        eventually(&format!("{} drives {partition}", self.pod), async || {
            let answer = http((self.ip.as_str(), HTTP), "PUT", &path).await.ok()?;
            assert!(!answer.contains(" 400 "), "{answer}");
            answer.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }

    /// Waits until it is held at its failpoint.
    pub async fn held(&self, namespace: &str, partition: &str) {
        let path = format!("/failpoints/{namespace}/{partition}");
        eventually(&format!("{} is held", self.pod), async || {
            let answer = http_get((self.ip.as_str(), HTTP), &path).await.ok()?;
            answer.ends_with("held").then_some(())
        })
        .await;
    }

    /// Lets it go.
    pub async fn release(&self, namespace: &str, partition: &str) {
        let path = format!("/failpoints/{namespace}/{partition}");
        let answer = http((self.ip.as_str(), HTTP), "DELETE", &path).await.expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Who of `replicas` was ended by a failpoint.
pub async fn ended(replicas: &[Replica]) -> Vec<String> {
    let ended = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        [&status["state"], &status["lastState"]].iter().any(|state| state["terminated"]["exitCode"] == EXIT_CODE)
    };
    let names = pods().await.into_iter().filter(ended).map(|pod| pod["metadata"]["name"].to_string());
    let names: Vec<String> = names.map(|name| name.trim_matches('"').to_owned()).collect();
    names.into_iter().filter(|name| replicas.iter().any(|replica| replica.pod == *name)).collect()
}
