//! Judges a document by a structural schema, as the API server does: types, enums, bounds, required and
//! unknown fields, each with the path it was found at.
//!
//! Works on JSON values, so that a manifest is judged as it was written, before any type drops what it does
//! not know. The schema is the one in the CustomResourceDefinition: a bound is written once, on its field.

use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;

/// A step from an object to a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field of an object.
    Field(String),
    /// An element of a list.
    Index(usize),
}

/// A path from the root of a document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    /// A path of plain field names.
    pub(crate) fn of_fields(dotted: &str) -> Self {
        Self(dotted.split('.').map(|name| Step::Field(name.to_owned())).collect())
    }

    pub(crate) fn field(&self, name: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Field(name.to_owned()));
        Self(steps)
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The object that the last step leads from.
    pub(crate) fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the document");
        }
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if i == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Where a fault is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// At the name of the field.
    Key,
    /// At its value.
    Value,
    /// At the object that lacks it.
    Parent,
}

/// Something that the schema refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: Path,
    pub(crate) at: At,
    pub(crate) message: String,
}

/// The schema of `ArmdbCluster`, as in its definition.
pub(crate) static CLUSTER: LazyLock<Value> = LazyLock::new(|| {
    let crd = super::cluster_crd();
    let schema = crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    serde_json::to_value(schema.expect("the definition has a schema")).expect("a schema is JSON")
});

/// Everything in `value` that `schema` refuses. Fields that are null count as left out.
pub(crate) fn judge(schema: &Value, value: &Value, path: &Path) -> Vec<Fault> {
    let mut faults = Vec::new();
    walk(schema, value, path, &mut faults);
    faults
}

fn walk(schema: &Value, value: &Value, path: &Path, faults: &mut Vec<Fault>) {
    let mut fault = |at, message: String| faults.push(Fault { path: path.clone(), at, message });
    if schema["x-kubernetes-int-or-string"] == Value::Bool(true) {
        if !value.is_string() && !value.is_i64() {
            fault(At::Value, format!("{} is given, where a number or a string is wanted", kind(value)));
        }
        return;
    }
    match (schema["type"].as_str(), value) {
        (None, _) => {}
        (Some("object"), Value::Object(_)) | (Some("array"), Value::Array(_)) | (Some("boolean"), Value::Bool(_)) => {}
        (Some("string"), Value::String(text)) => {
            if let Some(allowed) = schema["enum"].as_array() {
                if !allowed.contains(value) {
                    fault(At::Value, unknown_value(text, allowed));
                }
                return;
            }
            let length = text.chars().count() as u64;
            match (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
                (Some(1), _) if length == 0 => fault(At::Value, "it is empty: give a value or leave it out".to_owned()),
                (Some(min), max) if length < min => {
                    let wanted = if max == Some(min) { format!("exactly {min}") } else { format!("at least {min}") };
                    fault(At::Value, format!("{length} characters are given: give {wanted}"));
                }
                (_, Some(max)) if length > max => {
                    fault(At::Value, format!("{length} characters are given: give at most {max}"));
                }
                _ => {}
            }
        }
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
            // Bounds are floats in the schema; every bound of ours is far below 2^53.
            let (min, max) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            let below = min.is_some_and(|min| number.as_f64().is_some_and(|n| n < min));
            let above = max.is_some_and(|max| number.as_f64().is_some_and(|n| n > max));
            if below || above {
                fault(At::Value, format!("{number} is out of range: set {}", range(min, max)));
            } else if schema["format"] == "int32" && number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
                fault(At::Value, format!("{number} is out of range: set a number that fits 32 bits"));
            }
        }
        (Some("number"), Value::Number(_)) => {}
        (Some(wanted), other) => {
            let wanted = match wanted {
                "integer" => "a whole number",
                "object" => "a mapping",
                "array" => "a list",
                "boolean" => "true or false",
                "string" => "a string",
                other => other,
            };
            let quotes = if wanted == "a string" && matches!(other, Value::Number(_) | Value::Bool(_)) {
                ": put it in quotes"
            } else {
                ""
            };
            fault(At::Value, format!("{} is given, where {wanted} is wanted{quotes}", kind(other)));
            return;
        }
    }
    match value {
        Value::Object(fields) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if fields.get(name).is_none_or(Value::is_null) {
                    faults.push(Fault {
                        path: path.field(name),
                        at: At::Parent,
                        message: "it is missing: add it".to_owned(),
                    });
                }
            }
            let known = schema["properties"].as_object();
            let open = schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true)
                || (known.is_none() && schema["additionalProperties"].is_null() && schema["type"].is_null());
            if let Some(max) = schema["maxProperties"].as_u64().filter(|&max| fields.len() as u64 > max) {
                faults.push(Fault {
                    path: path.clone(),
                    at: At::Value,
                    message: format!("{} entries are given: give at most {max}", fields.len()),
                });
            }
            for (name, value) in fields {
                if value.is_null() {
                    continue;
                }
                let path = path.field(name);
                if let Some(schema) = known.and_then(|known| known.get(name)) {
                    walk(schema, value, &path, faults);
                } else if schema["additionalProperties"].is_object() {
                    walk(&schema["additionalProperties"], value, &path, faults);
                } else if !open {
                    let names = known.into_iter().flat_map(|known| known.keys().map(String::as_str));
                    let hint = nearest(name, names).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                    let parent = path.parent();
                    faults.push(Fault {
                        path,
                        at: At::Key,
                        message: format!("unknown field {name:?} in {parent}{hint}"),
                    });
                }
            }
        }
        Value::Array(items) => {
            if let Some(max) = schema["maxItems"].as_u64().filter(|&max| items.len() as u64 > max) {
                faults.push(Fault {
                    path: path.clone(),
                    at: At::Value,
                    message: format!("{} entries are given: give at most {max}", items.len()),
                });
            }
            for (i, item) in items.iter().enumerate() {
                walk(&schema["items"], item, &path.index(i), faults);
            }
        }
        _ => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn range(min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("{min} or more"),
        (None, Some(max)) => format!("{max} or less"),
        (None, None) => "another number".to_owned(),
    }
}

fn unknown_value(text: &str, allowed: &[Value]) -> String {
    let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
    let hint = nearest(text, names.iter().copied()).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    format!("unknown value {text:?}, allowed are {}{hint}", names.join(", "))
}

/// The name most like `text`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    names
        .map(|name| (edits(&lower, &name.to_lowercase()), name))
        .filter(|&(edits, name)| edits <= 1 + name.len().min(text.len()) / 4)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) between two texts; only used on short names.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
