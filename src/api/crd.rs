//! The CustomResourceDefinitions as Kubernetes gets them: `armdb crd` prints them, `crds/` holds them.
//!
//! Invariant: what is printed, what is in `crds/` and what [`super::validate()`] judges by are one thing. The
//! derived schema is taken as it is but for `nullable`: no field of ours means anything by null, and a null
//! that the API server lets through would reach CEL as a value of no type.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;

use super::{ArmdbCluster, ArmdbPartition};

/// The definition of `ArmdbCluster`.
pub fn cluster_crd() -> CustomResourceDefinition {
    finished(ArmdbCluster::crd())
}

/// The definition of the internal `ArmdbPartition`.
pub fn partition_crd() -> CustomResourceDefinition {
    finished(ArmdbPartition::crd())
}

/// Both definitions, as one YAML of two documents.
pub fn crds_yaml() -> String {
    [cluster_crd(), partition_crd()].iter().map(yaml).collect()
}

/// One definition as a YAML document.
pub fn yaml(crd: &CustomResourceDefinition) -> String {
    let text = serde_yaml::to_string(crd).expect("a definition has only string keys and finite numbers");
    format!("---\n{text}")
}

fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_nullable(schema);
        }
    }
    crd
}

fn drop_nullable(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        drop_nullable(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => drop_nullable(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_nullable),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_nullable(values);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn both() -> [CustomResourceDefinition; 2] {
        [cluster_crd(), partition_crd()]
    }

    #[test]
    fn the_files_in_crds_and_in_the_chart_are_what_is_printed() {
        for crd in both() {
            let name = crd.metadata.name.clone().expect("a definition has a name");
            let wanted = yaml(&crd);
            // A chart can only read what is within it.
            for folder in ["crds", "charts/armdb-operator/files/crds"] {
                let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
                let path = folder.join(format!("{name}.yaml"));
                if std::env::var_os("UPDATE").is_some() {
                    std::fs::write(&path, &wanted).expect("the file can be written");
                }
                let have = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    have == wanted,
                    "{} is not what `armdb crd` prints: run the tests with UPDATE=1",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn each_definition_stays_small_enough_for_a_chart() {
        // A chart is stored in one Secret of at most 1 MiB, with everything else that is in it.
        for crd in both() {
            assert!(yaml(&crd).len() < 150 * 1024);
        }
    }

    #[test]
    fn the_columns_are_those_that_people_on_call_read() {
        let crd = cluster_crd();
        let columns = crd.spec.versions[0].additional_printer_columns.as_ref().expect("there are columns");
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["Phase", "Leader", "Ready", "Lag", "Safe", "Version", "Age"]);
        assert_eq!(crd.spec.names.short_names.as_deref(), Some(&["armdb".to_owned()][..]));
        assert!(crd.spec.names.categories.is_none(), "a category of that name would shadow the short name");
        let sub = crd.spec.versions[0].subresources.as_ref().expect("there are subresources");
        assert!(sub.status.is_some());
        let scale = sub.scale.as_ref().expect("scale");
        assert_eq!(scale.label_selector_path.as_deref(), Some(".status.selector"));
    }

    fn each(schema: &Value, path: &str, see: &mut dyn FnMut(&str, &Value)) {
        see(path, schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            each(property, &format!("{path}.{name}"), see);
        }
        for part in ["items", "additionalProperties"] {
            if schema[part].is_object() {
                each(&schema[part], &format!("{path}[]"), see);
            }
        }
    }

    fn schemas() -> Vec<Value> {
        both()
            .iter()
            .map(|crd| {
                serde_json::to_value(crd).expect("JSON")["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
            })
            .collect()
    }

    #[test]
    fn the_schemas_are_structural_and_know_only_formats_that_kubernetes_knows() {
        for schema in schemas() {
            each(&schema, "", &mut |path, part| {
                assert!(
                    part["type"].is_string() || part["x-kubernetes-int-or-string"] == true,
                    "{path} has no type: {part}"
                );
                for word in ["oneOf", "anyOf", "allOf", "not", "$ref", "nullable"] {
                    if word != "anyOf" || part["x-kubernetes-int-or-string"] != true {
                        assert!(part[word].is_null(), "{path} has {word}");
                    }
                }
                if let Some(format) = part["format"].as_str() {
                    assert!(["int32", "int64", "date-time"].contains(&format), "{path} has format {format}");
                }
            });
        }
    }

    #[test]
    fn every_number_and_text_of_the_spec_is_bounded_and_explained() {
        for schema in schemas() {
            each(&schema["properties"]["spec"], "spec", &mut |path, part| {
                // Kubernetes' own types, and free maps, are bounded by Kubernetes.
                let foreign = ["resources", "tolerations", "imagePullSecrets", "podTemplate", "[]", "restore"];
                if foreign.iter().any(|name| path.contains(name)) {
                    return;
                }
                assert!(part["description"].is_string(), "{path} is not explained");
                match part["type"].as_str() {
                    Some("integer") => {
                        assert!(part["minimum"].is_number() && part["maximum"].is_number(), "{path} is unbounded");
                    }
                    Some("string") => {
                        assert!(part["maxLength"].is_number() || part["enum"].is_array(), "{path} is unbounded");
                    }
                    _ => {}
                }
            });
        }
    }

    #[test]
    fn enum_values_are_pascal_case() {
        for schema in schemas() {
            each(&schema, "", &mut |path, part| {
                for value in part["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    let pascal = value.starts_with(|c: char| c.is_ascii_uppercase())
                        && value.chars().all(|c| c.is_ascii_alphanumeric());
                    assert!(pascal, "{path}: {value}");
                }
            });
        }
    }

    #[test]
    fn a_default_in_the_schema_is_what_the_type_means_when_the_field_is_left_out() {
        let schema = &schemas()[0]["properties"]["spec"];
        let least = serde_json::json!({"image": "a:1", "storage": {"size": "1Gi"}});
        let spec: super::super::ArmdbClusterSpec = serde_json::from_value(least).expect("the least spec");
        let filled = serde_json::to_value(&spec).expect("JSON");
        fn compare(schema: &Value, filled: &Value, path: &str) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                if property["default"].is_null() {
                    assert!(
                        filled[name].is_null()
                            || schema["required"].as_array().is_some_and(|r| r.contains(&Value::from(name.as_str()))),
                        "{path} has a meaning when left out that the API server does not know"
                    );
                } else if !property["default"].is_object() && !property["default"].is_array() {
                    assert_eq!(property["default"], filled[name], "{path}");
                }
                if filled[name].is_object() {
                    compare(property, &filled[name], &path);
                }
            }
        }
        compare(schema, &filled, "spec");
    }

    #[test]
    fn a_register_keeps_what_an_older_version_does_not_know() {
        let register = &schemas()[1]["properties"]["status"]["properties"]["register"];
        assert_eq!(register["x-kubernetes-preserve-unknown-fields"], true);
    }
}
