//! Reads a manifest: the very file that `kubectl apply` takes, judged as strictly and told with line and column.
//!
//! Stricter than the API server in one way: a field that nobody knows is refused, never dropped, because a
//! misspelt `replicas` must not quietly become the default. Everything else is the same: the schema of the
//! definition, then the rules of [`super::rules`] with their messages.
//!
//! Invariants: what [`load`] returns, [`super::validate()`] finds valid; every refusal names the file, and the
//! place in it where there is one. All faults of a file are told at once, in the order of the file.

use std::fmt;
use std::io::Read as _;
use std::path::Path as FilePath;
use std::sync::LazyLock;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::place::{Place, locate};
use super::schema::{self, At, Path};
use super::spec::ArmdbCluster;
use super::{API_VERSION, validate};

/// Largest manifest that is read; Kubernetes itself ends at 3 MiB of JSON.
const MAX_BYTES: u64 = 1 << 20;

/// Why a manifest was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("reading the manifest {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Everything that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// What is wrong with it, in the order of the file; never empty.
    pub faults: Vec<ManifestFault>,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFault {
    /// Line, from 1, if it can be told.
    pub line: Option<usize>,
    /// Column, from 1, if it can be told.
    pub column: Option<usize>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(line) = fault.line {
                write!(f, ":{line}:{}", fault.column.unwrap_or(1))?;
            }
            write!(f, ": {}", fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Reads the manifest in `path`.
pub fn load_file(path: &FilePath) -> Result<ArmdbCluster, ManifestError> {
    let name = path.display().to_string();
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        // One byte more than allowed, so that a file that is too large is seen to be.
        std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => load(&name, &text),
        Err(source) => Err(ManifestError::Read { path: name, source }),
    }
}

/// Reads the manifest `text`; `file` is what it is called in errors.
pub fn load(file: &str, text: &str) -> Result<ArmdbCluster, ManifestError> {
    let reader = Reader { text };
    reader.read().map_err(|mut faults| {
        faults.sort_by_key(|fault| (fault.line.unwrap_or(0), fault.column));
        ManifestError::Refused(Refusal { file: file.to_owned(), faults })
    })
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn read(&self) -> Result<ArmdbCluster, Vec<ManifestFault>> {
        if self.text.len() as u64 > MAX_BYTES {
            return Err(vec![ManifestFault {
                line: None,
                column: None,
                message: format!("is larger than {MAX_BYTES} bytes: a manifest holds one ArmdbCluster"),
            }]);
        }
        let (document, mut value) = self.only_document()?;
        drop_nulls(&mut value);
        let fault = |path: &Path, at: At, message: String| self.fault(document, path, at, message);

        let wanted = [("apiVersion", API_VERSION), ("kind", "ArmdbCluster")];
        if !value.is_object() {
            return Err(vec![fault(&Path::default(), At::Value, not_a_cluster("it is no mapping"))]);
        }
        for (field, wanted) in wanted {
            let path = Path::of_fields(field);
            match value.get(field) {
                Some(Value::String(text)) if text == wanted => {}
                None => return Err(vec![fault(&path, At::Parent, not_a_cluster(&format!("it has no {field}")))]),
                Some(other) => {
                    let shown = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                    let message = format!("{field} is {shown}, this armdb reads {wanted}: write {field}: {wanted}");
                    return Err(vec![fault(&path, At::Value, message)]);
                }
            }
        }

        let faults: Vec<_> = schema::judge(&SCHEMA, &value, &Path::default())
            .into_iter()
            .map(|found| {
                let message = match found.at {
                    At::Key => found.message,
                    At::Value | At::Parent => format!("{}: {}", found.path, found.message),
                };
                fault(&found.path, found.at, message)
            })
            .collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let cluster: ArmdbCluster = serde_json::from_value(value)
            .map_err(|error| vec![fault(&Path::default(), At::Value, format!("is not understood: {error}"))])?;
        let faults: Vec<_> = validate::broken(&cluster)
            .map(|broken| fault(&Path::of_fields(&broken.path), At::Value, broken.to_string()))
            .collect();
        if faults.is_empty() { Ok(cluster) } else { Err(faults) }
    }

    /// The one document that is not empty, and which of the file's it is.
    fn only_document(&self) -> Result<(usize, Value), Vec<ManifestFault>> {
        let mut found: Option<(usize, Value)> = None;
        for (number, document) in serde_yaml::Deserializer::from_str(self.text).enumerate() {
            let mut yaml = serde_yaml::Value::deserialize(document).map_err(|error| vec![syntax(&error)])?;
            if yaml.is_null() {
                continue;
            }
            if let Some((_, first)) = &found {
                let what = |value: &Value| value["kind"].as_str().map(|kind| format!(" (kind: {kind})"));
                let second = what(&serde_json::to_value(&yaml).unwrap_or_default()).unwrap_or_default();
                let message = format!(
                    "a second document{second} after the first{}: a manifest holds one ArmdbCluster and nothing else; \
                     put the others in files of their own",
                    what(first).unwrap_or_default()
                );
                return Err(vec![self.fault(number, &Path::default(), At::Value, message)]);
            }
            yaml.apply_merge().map_err(|error| vec![syntax(&error)])?;
            let value = to_json(yaml, &Path::default())
                .map_err(|(path, message)| vec![self.fault(number, &path, At::Value, message)])?;
            found = Some((number, value));
        }
        found.ok_or_else(|| vec![ManifestFault { line: None, column: None, message: not_a_cluster("it is empty") }])
    }

    fn fault(&self, document: usize, path: &Path, at: At, message: String) -> ManifestFault {
        let place = match at {
            At::Key => locate(self.text, document, path, Place::Key),
            At::Value => locate(self.text, document, path, Place::Value),
            At::Parent => locate(self.text, document, &path.parent(), Place::Key),
        };
        let (line, column) = place.unzip();
        ManifestFault { line, column, message }
    }
}

fn not_a_cluster(why: &str) -> String {
    format!(
        "is no manifest of a cluster, {why}: it begins with apiVersion: {API_VERSION} and kind: ArmdbCluster, as \
         examples/quickstart.yaml does"
    )
}

fn syntax(error: &serde_yaml::Error) -> ManifestFault {
    let text = error.to_string();
    // The place is told in front, as everywhere else.
    let message = text.find(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let (line, column) = error.location().map(|place| (place.line(), place.column())).unzip();
    ManifestFault { line, column, message: format!("is no valid YAML: {message}") }
}

/// A field left empty (`nodeSelector:`) is a field left out.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// YAML knows more than JSON: keys that are no strings, tags, infinities. None of it means anything here.
fn to_json(yaml: serde_yaml::Value, path: &Path) -> Result<Value, (Path, String)> {
    let refuse = |what: &str| Err((path.clone(), format!("{path}: {what}")));
    Ok(match yaml {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(value) => Value::Bool(value),
        serde_yaml::Value::String(text) => Value::String(text),
        serde_yaml::Value::Number(number) => {
            let value = if let Some(n) = number.as_i64() {
                Some(Value::from(n))
            } else if let Some(n) = number.as_u64() {
                Some(Value::from(n))
            } else {
                number.as_f64().and_then(serde_json::Number::from_f64).map(Value::Number)
            };
            match value {
                Some(value) => value,
                None => return refuse("is no finite number: write digits"),
            }
        }
        serde_yaml::Value::Sequence(items) => Value::Array(
            items.into_iter().enumerate().map(|(i, item)| to_json(item, &path.index(i))).collect::<Result<_, _>>()?,
        ),
        serde_yaml::Value::Mapping(fields) => {
            let mut object = serde_json::Map::new();
            for (key, value) in fields {
                let serde_yaml::Value::String(key) = key else {
                    return refuse("has a key that is no string: put it in quotes");
                };
                let value = to_json(value, &path.field(&key))?;
                object.insert(key, value);
            }
            Value::Object(object)
        }
        serde_yaml::Value::Tagged(_) => return refuse("has a YAML tag, which means nothing here: remove it"),
    })
}

/// The schema of a manifest: the definition's, with what every Kubernetes object has besides.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schema::CLUSTER.clone();
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    // What `kubectl get -o yaml` prints must be readable again, so the fields that the server sets are known too.
    let metadata = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string" }, "namespace": { "type": "string" },
            "labels": texts, "annotations": texts,
            "generateName": {}, "uid": {}, "resourceVersion": {}, "generation": {}, "creationTimestamp": {},
            "deletionTimestamp": {}, "deletionGracePeriodSeconds": {}, "selfLink": {},
            "finalizers": {}, "ownerReferences": {}, "managedFields": {},
        },
    });
    schema["properties"]["apiVersion"] = json!({ "type": "string" });
    schema["properties"]["kind"] = json!({ "type": "string" });
    schema["properties"]["metadata"] = metadata;
    // Written by the operator; whatever stands there is not asked for.
    schema["properties"]["status"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    schema["required"] = json!(["metadata", "spec"]);
    schema
});

#[cfg(test)]
mod tests {
    use super::*;

    const QUICKSTART: &str = include_str!("../../examples/quickstart.yaml");

    fn refused(text: &str) -> String {
        load("cluster.yaml", text).expect_err("refused").to_string()
    }

    fn manifest(spec: &str) -> String {
        format!("apiVersion: armdb.io/v1alpha1\nkind: ArmdbCluster\nmetadata:\n  name: kv\nspec:\n  image: a:1\n{spec}")
    }

    #[test]
    fn the_examples_are_valid() {
        let cluster = load("quickstart.yaml", QUICKSTART).expect("valid");
        assert_eq!((cluster.spec.replicas, cluster.spec.storage.shards), (3, 1));
        load("cluster.yaml", include_str!("../../examples/cluster.yaml")).expect("valid");
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let cluster = load("c", &manifest("  storage: {size: 1Gi}\n  failover:\n")).expect("valid");
        assert_eq!(cluster.spec.replicas, 3);
        assert_eq!(cluster.spec.failover.leader_timeout_millis, 1000);
        assert_eq!(cluster.spec.min_voters(), 2);
        assert_eq!(cluster.spec.replication.ack, super::super::Ack::Quorum);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_name_and_place() {
        assert_eq!(
            refused(&manifest("  replica: 3\n  storage: {size: 1Gi}\n")),
            "cluster.yaml:7:3: unknown field \"replica\" in spec; did you mean \"replicas\"?"
        );
        assert_eq!(
            refused(&manifest("  storage: {size: 1Gi, shard: 2}\n")),
            "cluster.yaml:7:24: unknown field \"shard\" in spec.storage; did you mean \"shards\"?"
        );
        assert_eq!(
            refused(&manifest("  storage: {size: 1Gi}\n  zzz: 1\n")),
            "cluster.yaml:8:3: unknown field \"zzz\" in spec"
        );
        assert_eq!(
            refused(&manifest("  storage: {size: 1Gi}\nsepc: {}\n")),
            "cluster.yaml:8:1: unknown field \"sepc\" in the document; did you mean \"spec\"?"
        );
        let text = manifest("  storage: {size: 1Gi}\n").replace("  name: kv", "  name: kv\n  lables: {}");
        assert_eq!(refused(&text), "cluster.yaml:5:3: unknown field \"lables\" in metadata; did you mean \"labels\"?");
    }

    #[test]
    fn a_field_of_a_kubernetes_type_is_known_too() {
        let text = manifest("  storage: {size: 1Gi}\n  placement:\n    tolerations:\n    - key: a\n    - kye: b\n");
        assert_eq!(
            refused(&text),
            "cluster.yaml:11:7: unknown field \"kye\" in spec.placement.tolerations[1]; did you mean \"key\"?"
        );
    }

    #[test]
    fn no_replicas_are_refused_with_the_bounds() {
        assert_eq!(
            refused(&manifest("  replicas: 0\n  storage: {size: 1Gi}\n")),
            "cluster.yaml:7:13: spec.replicas: 0 is out of range: set 1 to 9"
        );
        assert!(refused(&manifest("  replicas: 10\n  storage: {size: 1Gi}\n")).contains("set 1 to 9"));
        assert!(refused(&manifest("  replicas: 1.5\n  storage: {size: 1Gi}\n")).contains("a fraction is given"));
        assert!(refused(&manifest("  replicas: three\n  storage: {size: 1Gi}\n")).contains("a whole number is wanted"));
        assert!(
            refused(&manifest("  replicas: 99999999999999999999\n  storage: {size: 1Gi}\n")).contains("spec.replicas")
        );
    }

    #[test]
    fn an_unknown_ack_mode_is_refused_with_the_modes_there_are() {
        assert_eq!(
            refused(&manifest("  storage: {size: 1Gi}\n  replication:\n    ack: Most\n")),
            "cluster.yaml:9:10: spec.replication.ack: unknown value \"Most\", allowed are Leader, Quorum, All"
        );
        assert!(
            refused(&manifest("  storage: {size: 1Gi}\n  replication: {ack: quorum}\n"))
                .ends_with("allowed are Leader, Quorum, All; did you mean \"Quorum\"?")
        );
    }

    #[test]
    fn a_broken_rule_is_refused_with_its_message_at_its_place() {
        assert_eq!(
            refused(&manifest("  storage:\n    size: ten\n")),
            format!("cluster.yaml:8:11: spec.storage.size: {}", super::super::rules::SIZE.message)
        );
        let two = "  replicas: 2\n  failover:\n    minVoters: 3\n  storage: {size: 1Gi}\n";
        assert_eq!(
            refused(&manifest(two)),
            format!(
                "cluster.yaml:9:16: spec.failover.minVoters: {}",
                super::super::rules::MIN_VOTERS_AMONG_REPLICAS.message
            )
        );
        let text = manifest("  storage: {size: 1Gi}\n").replace("name: kv", "name: Kv");
        assert!(refused(&text).starts_with("cluster.yaml:4:9: metadata.name: "), "{}", refused(&text));
    }

    #[test]
    fn all_faults_are_told_at_once_in_the_order_of_the_file() {
        let text = refused(&manifest("  replicas: 0\n  storage: {shards: 65}\n"));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("cluster.yaml:7:13: spec.replicas"), "{text}");
        assert_eq!(lines[1], "cluster.yaml:8:3: spec.storage.size: it is missing: add it");
        assert!(lines[2].starts_with("cluster.yaml:8:21: spec.storage.shards"), "{text}");
    }

    #[test]
    fn another_kind_or_version_is_refused() {
        let other = QUICKSTART.replace("ArmdbCluster", "ConfigMap");
        assert!(refused(&other).starts_with("cluster.yaml:4:7: kind is ConfigMap"), "{}", refused(&other));
        let newer = QUICKSTART.replace("v1alpha1", "v2");
        assert!(refused(&newer).contains(":3:13: apiVersion is armdb.io/v2, this armdb reads armdb.io/v1alpha1"));
        for text in ["", "---\n", "# nothing\n", "[1, 2]\n", "hello\n", "kind: ArmdbCluster\n"] {
            assert!(refused(text).contains("is no manifest of a cluster"), "{text:?}: {}", refused(text));
        }
    }

    #[test]
    fn a_second_document_is_refused_and_an_empty_one_is_not() {
        let text = format!("{QUICKSTART}---\nkind: ConfigMap\n");
        let line = QUICKSTART.lines().count() + 2;
        let refused = refused(&text);
        assert!(
            refused.starts_with(&format!("cluster.yaml:{line}:1: a second document (kind: ConfigMap)")),
            "{refused}"
        );
        load("cluster.yaml", &format!("---\n{QUICKSTART}---\n# the end\n")).expect("valid");
    }

    #[test]
    fn broken_yaml_is_refused_with_its_place() {
        for (text, place) in [
            ("a: [1, 2\nb: 3\n", "cluster.yaml:2:"),
            ("a: 1\na: 2\n", "cluster.yaml:"),
            ("\tx: 1\n", "cluster.yaml:1:"),
        ] {
            let refused = refused(text);
            assert!(refused.starts_with(place) && refused.contains("is no valid YAML"), "{text:?}: {refused}");
        }
        for (text, wanted) in [("1: x\n", "no string"), ("a: !b c\n", "tag"), ("a: .inf\n", "finite")] {
            assert!(refused(text).contains(wanted), "{text:?}: {}", refused(text));
        }
    }

    #[test]
    fn what_kubectl_prints_can_be_read_again() {
        let text = QUICKSTART.replace(
            "  name: kv",
            "  name: kv\n  uid: u\n  resourceVersion: \"7\"\n  generation: 2\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  managedFields: []",
        ) + "status:\n  phase: Healthy\n  replicas: 3\n  readyMembers: 3\n";
        load("cluster.yaml", &text).expect("valid");
    }

    #[test]
    fn anchors_merges_and_json_are_read_as_kubectl_reads_them() {
        load("c", &manifest("  storage: {size: &size 1Gi}\n  engine: {logRetention: {maxSize: *size}}\n"))
            .expect("valid");
        let json = r#"{"apiVersion":"armdb.io/v1alpha1","kind":"ArmdbCluster","metadata":{"name":"kv"},"spec":{"image":"a:1","storage":{"size":"1Gi"}}}"#;
        load("c", json).expect("valid");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = load_file(FilePath::new("/nonexistent/cluster.yaml")).expect_err("refused").to_string();
        assert!(error.starts_with("reading the manifest /nonexistent/cluster.yaml: "), "{error}");
        assert!(refused(&"#".repeat(2 << 20)).contains("is larger than"));
    }
}
