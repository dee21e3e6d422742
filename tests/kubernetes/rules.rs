//! The definitions on a real API server: they are taken as they are, and each rule is judged there as it is here.

use std::collections::BTreeSet;

use armdb::api::rules;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::cases::Case;
use crate::support::{case, definitions, kubectl, kubectl_reading};

/// How many cases are put to the API server at once.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_what_a_rule_refuses_with_its_message_and_nothing_else() {
    case("rules", async |namespace| {
        definitions().await;
        let cases = Case::all();
        assert!(cases.len() > 50, "all cases are read");
        let complaints: Vec<String> = futures::stream::iter(cases.iter().enumerate())
            .map(|(number, case)| judge(namespace, number, case))
            .buffer_unordered(AT_ONCE)
            .filter_map(async |judged| judged.err())
            .collect()
            .await;
        assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), cases.len(), complaints.join("\n"));
    })
    .await;
}

/// Puts one case to the API server; what is wrong with the answer.
async fn judge(namespace: &str, number: usize, case: &Case) -> Result<(), String> {
    let mut manifest = case.manifest();
    if let Some(mut old) = case.old_manifest() {
        // Updates are real, so that what is unset before or after is unset in the store too: each has an object of
        // its own. Paused, so that an operator that watches has nothing to do for it.
        let name = json!(format!("update-{number}"));
        old["metadata"]["name"] = name.clone();
        old["spec"]["paused"] = json!(true);
        manifest["metadata"]["name"] = name;
        manifest["spec"]["paused"] = json!(true);
        let made = kubectl_reading(&old.to_string(), ["-n", namespace, "apply", "-f", "-"]).await;
        made.map_err(|complaint| format!("{}: the old one is refused: {complaint}", case.name))?;
        let answer = kubectl_reading(&manifest.to_string(), ["-n", namespace, "apply", "-f", "-"]).await;
        return compare(case, answer);
    }
    let arguments = ["-n", namespace, "create", "--dry-run=server", "-f", "-"];
    compare(case, kubectl_reading(&manifest.to_string(), arguments).await)
}

fn compare(case: &Case, answer: Result<String, String>) -> Result<(), String> {
    let fail = |what: String| Err(format!("{}: {what}", case.name));
    let complaint = match answer {
        Ok(_) if case.refused.is_empty() => return Ok(()),
        Ok(_) => return fail(format!("passes; {:?} should refuse it", case.refused)),
        Err(complaint) => complaint,
    };
    let mut messages = messages(&complaint);
    // What is no name to Kubernetes either, Kubernetes refuses besides.
    messages.retain(|(place, message)| place != "metadata.name" || !message.contains("RFC 1123"));
    let mut wanted = BTreeSet::new();
    for path in &case.refused {
        let rule = rules::ALL.iter().find(|rule| rule.path == path).expect("the unit tests know each path");
        wanted.insert(rule.message);
        // The API server says where, as far as it can: rules about the name, or about a field that is absent, are
        // told of what they are in.
        let told = messages.iter().find(|(_, message)| message.ends_with(rule.message));
        match told {
            None => return fail(format!("{path} does not speak: {complaint}")),
            Some((place, _)) if place == path || (rule.field.is_empty() && path.starts_with(place.as_str())) => {}
            Some((place, _)) => return fail(format!("{path} speaks of {place}: {complaint}")),
        }
    }
    if messages.len() == wanted.len() { Ok(()) } else { fail(format!("something else speaks too: {complaint}")) }
}

/// `(field, message)` of what `kubectl` prints about an invalid object: one in the line, several one a line.
fn messages(complaint: &str) -> Vec<(String, String)> {
    let list = complaint.split_once("is invalid: ").map_or(complaint, |(_, list)| list);
    let lines = list.lines().map(|line| line.trim_start_matches("* ").trim()).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (place, message) = line.split_once(": ").unwrap_or(("", line));
            let place = if place == "<nil>" { "" } else { place };
            (place.to_owned(), message.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_listed_by_its_short_name_with_the_columns_that_people_on_call_read() {
    case("columns", async |namespace| {
        definitions().await;
        let manifest = json!({
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster", "metadata": {"name": "kv"},
            "spec": {"image": "armdb:0.1.0", "storage": {"size": "1Gi"}, "paused": true},
        });
        crate::support::apply(namespace, &[manifest]).await;
        let listed = kubectl(["-n", namespace, "get", "armdb"]).await.expect("the short name is known");
        let columns: Vec<&str> = listed.lines().next().expect("a heading").split_whitespace().collect();
        assert_eq!(columns, ["NAME", "PHASE", "LEADER", "READY", "LAG", "SAFE", "VERSION", "AGE"]);

        let stored = crate::support::get(namespace, "armdb", "kv").await.expect("it is there");
        let least: armdb::api::ArmdbCluster = serde_json::from_value(stored.clone()).expect("it is one");
        let filled = serde_json::to_value(&least.spec).expect("JSON");
        assert_eq!(without_empty(stored["spec"].clone()), without_empty(filled), "defaults of the API server");

        kubectl(["-n", namespace, "scale", "armdb/kv", "--replicas=5"]).await.expect("it can be scaled");
        let scaled = crate::support::get(namespace, "armdb", "kv").await.expect("it is there");
        assert_eq!(scaled["spec"]["replicas"], 5);
        let refused = kubectl(["-n", namespace, "scale", "armdb/kv", "--replicas=10"]).await;
        let complaint = refused.expect_err("no more than 9");
        assert!(complaint.contains("spec.replicas"), "{complaint}");
    })
    .await;
}

/// Empty maps and lists mean the same as absent ones.
fn without_empty(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        for field in fields.values_mut() {
            *field = without_empty(field.take());
        }
        fields.retain(|_, field| match field {
            Value::Null => false,
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => !items.is_empty(),
            _ => true,
        });
    }
    value
}
