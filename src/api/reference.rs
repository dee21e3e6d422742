//! The tables of `docs/api.md`, made from the schema and the rules: a test keeps the page equal to them.
//!
//! `UPDATE=1` rewrites what stands between the marks; the prose around them is written by hand.

use std::fmt::Write as _;

use serde_json::Value;

use super::rules::{self, Holds};
use super::schema;

/// Types of Kubernetes itself, and free-form objects: told by name, not field by field.
const FOREIGN: [(&str, &str); 4] = [
    ("spec.resources", "ResourceRequirements"),
    ("spec.placement.tolerations", "list of Toleration"),
    ("spec.imagePullSecrets", "list of LocalObjectReference"),
    ("status.conditions", "list of Condition"),
];

fn rows(schema: &Value, path: &str, out: &mut String) {
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|n| n == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let foreign = FOREIGN.iter().find(|(foreign, _)| *foreign == path);
        let items = &field["items"];
        let kind = match (foreign, field["type"].as_str()) {
            (Some((_, kind)), _) => (*kind).to_owned(),
            (None, Some("array")) => "list".to_owned(),
            (None, Some("object")) if field["additionalProperties"].is_object() => "map of strings".to_owned(),
            (None, Some("object")) if field["x-kubernetes-preserve-unknown-fields"] == true => "any object".to_owned(),
            (None, Some("string")) if field["enum"].is_array() => {
                let values: Vec<&str> =
                    field["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                values.join(" \\| ")
            }
            (None, Some("string")) if field["format"] == "date-time" => "time".to_owned(),
            (None, Some("integer")) => match (field["minimum"].as_f64(), field["maximum"].as_f64()) {
                (Some(min), Some(max)) => format!("{min} to {max}"),
                _ => "integer".to_owned(),
            },
            (None, other) => other.unwrap_or("any").to_owned(),
        };
        let default = match &field["default"] {
            Value::Null if required(name) && path.starts_with("spec") => "**required**".to_owned(),
            Value::Null | Value::Object(_) | Value::Array(_) => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let text = field["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(out, "| `{path}` | {kind} | {default} | {text} |");
        if foreign.is_none() {
            rows(field, &path, out);
            rows(items, &format!("{path}[]"), out);
        }
    }
}

fn fields(of: &str) -> String {
    let mut out = String::from("| field | type | default | meaning |\n|---|---|---|---|\n");
    rows(&schema::CLUSTER["properties"][of], of, &mut out);
    out
}

fn rule_table() -> String {
    let mut out = String::from("| field | judged | what is said |\n|---|---|---|\n");
    for rule in rules::ALL {
        let when = match rule.holds {
            Holds::Always(_) => "always",
            Holds::OnUpdate(_) => "on update",
        };
        let _ = writeln!(out, "| `{}` | {when} | {} |", rule.path, rule.message);
    }
    out
}

fn replace_between(page: &str, mark: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/api.md has no mark {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("docs/api.md has no mark {end}"));
    format!("{before}{begin}{content}{end}{after}")
}

#[test]
fn the_page_of_the_api_tells_every_field_and_every_rule() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md");
    let have = std::fs::read_to_string(&path).expect("docs/api.md can be read");
    let mut wanted = replace_between(&have, "fields of spec", &fields("spec"));
    wanted = replace_between(&wanted, "rules", &rule_table());
    wanted = replace_between(&wanted, "fields of status", &fields("status"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).expect("docs/api.md can be written");
    } else {
        assert!(have == wanted, "docs/api.md does not tell the API as it is: run the tests with UPDATE=1");
    }
}
