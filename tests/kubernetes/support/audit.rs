//! Who wrote what: the API server's audit log, which `harness/audit.yaml` limits to the writes that concern us.

use serde_json::Value;

use super::harness::root;

/// A place in the audit log.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// Where the log ends now.
pub fn mark() -> Mark {
    Mark(log().len())
}

/// Every write by a service account of `namespace` since `mark`, as `verb resource namespace/name`. Its own leases, by
/// which it lives, are left out.
pub fn writes_since(mark: Mark, namespace: &str) -> Vec<String> {
    let account = format!("system:serviceaccount:{namespace}:");
    let theirs = events_since(mark).into_iter().filter(|event| {
        let by = event["user"]["username"].as_str().unwrap_or_default();
        by.starts_with(&account) && event["objectRef"]["resource"] != "leases"
    });
    theirs.map(|event| told(&event)).collect()
}

/// The HTTP status that each `write` since `mark` was answered with, in the order of the answers.
pub fn outcomes_since(mark: Mark, write: &str) -> Vec<u64> {
    let events = events_since(mark).into_iter().filter(|event| told(event) == write);
    events.filter_map(|event| event["responseStatus"]["code"].as_u64()).collect()
}

fn events_since(mark: Mark) -> Vec<Value> {
    log()[mark.0..].lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn told(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let resource = [text(&object["resource"]), text(&object["subresource"])].join("/");
    let name = [text(&object["namespace"]), text(&object["name"])].join("/");
    format!("{} {} {name}", text(&event["verb"]), resource.trim_end_matches('/'))
}

fn log() -> String {
    std::fs::read_to_string(root().join("log/audit.log")).expect("the API server keeps an audit log")
}
