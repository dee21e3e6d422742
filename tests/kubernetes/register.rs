//! What the register asks of a real API server: that it keeps what it was given, and that the first of two wins.

use serde_json::{Value, json};

use crate::support::{apply, case, definitions, get, kubectl_reading};

/// Replaces the status of `object`, as the failover driver does.
async fn replace_status(namespace: &str, object: &Value) -> Result<String, String> {
    kubectl_reading(&object.to_string(), ["-n", namespace, "replace", "--subresource=status", "-f", "-"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_keeps_what_is_unknown_to_the_definition_and_the_first_of_two_writers_wins() {
    case("register", async |namespace| {
        definitions().await;
        let partition = json!({
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbPartition", "metadata": {"name": "kv-0"},
            "spec": {"cluster": "kv", "clusterID": "0".repeat(32), "partition": 0, "partitions": 1, "replicas": 3,
                "shards": 1, "minVoters": 2},
        });
        apply(namespace, &[partition]).await;
        let mut first = get(namespace, "armdbpartition", "kv-0").await.expect("it is there");
        let mut second = first.clone();

        // The largest integer that JSON carries everywhere, deep fields, lists in lists: none of it is in the schema.
        let register = json!({
            "formatVersion": 1, "digest": "00ff", "epoch": 9_007_199_254_740_991_u64,
            "later": {"version": {"deep": [[1, 2], [], {"": "an empty name"}]}}, "text": "\u{0001}\u{10ffff}",
        });
        first["status"] = json!({"register": register});
        replace_status(namespace, &first).await.expect("the first is taken");
        second["status"] = json!({"register": {"formatVersion": 1, "epoch": 2}});
        let refused = replace_status(namespace, &second).await.expect_err("it was read before the first was written");
        assert!(refused.contains("(Conflict)"), "{refused}");

        let stored = get(namespace, "armdbpartition", "kv-0").await.expect("it is there");
        assert_eq!(stored["status"]["register"], register);
        assert_eq!(stored["spec"]["failoverPolicy"], "Automatic", "defaults are filled in");
    })
    .await;
}
