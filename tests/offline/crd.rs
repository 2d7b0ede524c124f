//! The CRD as a document: up to date, documented, and the same in every version of YAML.

use serde_json::Value;
use switchyard::{choices, commands::crd, source::manifest::ambiguity};

use crate::golden;

/// Calls back with each field's path, its name and its schema.
fn each_field(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &str, &Value)) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, name, field);
        each_field(field, &path, visit);
    }
    if schema["items"].is_object() {
        each_field(&schema["items"], &format!("{path}[]"), visit);
    }
}

fn schema() -> Value {
    serde_json::to_value(switchyard::api::crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

#[test]
fn the_crd_in_the_repository_is_the_one_of_the_types() {
    golden::assert_same(&golden::root().join("crds/websocketroutes.yaml"), &crd::yaml());
}

#[test]
fn the_chart_brings_the_same_crd() {
    golden::assert_same(&golden::root().join("charts/switchyard/crds/websocketroutes.yaml"), &crd::yaml());
}

#[test]
fn every_field_is_described() {
    each_field(&schema(), "", &mut |path, _, field| {
        assert!(field["description"].as_str().is_some_and(|text| text.len() > 10), "{path} has no description");
    });
}

#[test]
fn every_list_every_text_and_every_number_of_the_spec_is_bounded() {
    each_field(&schema()["properties"]["spec"], "spec", &mut |path, _, field| {
        let check = |path: &str, schema: &Value| {
            let bounds: &[&str] = match schema["type"].as_str() {
                Some("array") => &["maxItems"],
                Some("string") if schema["enum"].is_null() => &["maxLength"],
                Some("integer") => &["minimum", "maximum"],
                _ => &[],
            };
            for bound in bounds {
                assert!(schema[bound].is_number(), "{path} has no {bound}");
            }
        };
        check(path, field);
        check(&format!("{path}[]"), &field["items"]);
        assert!(field["type"] != "array" || field["x-kubernetes-list-type"].is_string(), "{path} has no list type");
    });
}

#[test]
fn descriptions_tell_the_defaults_that_compiling_applies() {
    let defaults = [
        ("timeouts.handshake", choices::DEFAULT_HANDSHAKE_TIMEOUT),
        ("timeouts.backendConnect", choices::DEFAULT_BACKEND_CONNECT_TIMEOUT),
        ("keepalive.pingInterval", choices::DEFAULT_PING_INTERVAL),
        ("keepalive.pingTimeout", choices::DEFAULT_PING_TIMEOUT),
    ];
    let mut told = 0;
    each_field(&schema(), "", &mut |path, _, field| {
        for (_, default) in defaults.iter().filter(|(end, _)| path.ends_with(end)) {
            let description = field["description"].as_str().unwrap();
            let words = description.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains(&format!("Default: {default:?}")), "{path}: {words}");
            told += 1;
        }
    });
    assert_eq!(told, defaults.len());
}

#[test]
fn absence_has_one_spelling() {
    let text = crd::yaml();
    assert!(!text.contains("nullable"), "optional fields need not be nullable");
    assert!(!text.contains("- null"));
}

#[test]
fn the_schema_has_defaults_only_where_the_api_says_so() {
    let mut defaults = Vec::new();
    each_field(&schema(), "", &mut |path, _, field| {
        defaults.extend((!field["default"].is_null()).then(|| path.to_owned()));
    });
    let expected =
        [".spec.className", ".spec.rules[].backendRefs[].weight", ".spec.rules[].matches[].path.type", ".status"];
    assert_eq!(defaults, expected);
}

/// Whether some version of YAML reads a plain scalar as something other than a string.
fn is_no_text(scalar: &str) -> bool {
    ambiguity(scalar).is_some() || !matches!(serde_yaml::from_str(scalar), Ok(serde_yaml::Value::String(_)))
}

#[test]
fn no_name_and_no_value_of_the_api_is_a_boolean_a_null_or_a_number_to_any_yaml() {
    each_field(&schema(), "", &mut |path, name, field| {
        assert!(!is_no_text(name), "{path}");
        for value in field["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(!is_no_text(value), "{path}: {value}");
        }
        let is_text = field["type"] == "string" || field["items"]["type"] == "string";
        for example in examples(field["description"].as_str().unwrap()).filter(|_| is_text) {
            // As users would write it: a leading * needs quotes, and without them it is not a scalar.
            assert!(example.starts_with('*') || !is_no_text(example), "{path}: the example {example} must be quoted");
        }
    });
}

/// The quoted text in a description.
fn examples(description: &str) -> impl Iterator<Item = &str> {
    description.split('`').skip(1).step_by(2)
}

#[test]
fn the_cel_rules_compile() {
    fn errors(compiled: &kube_cel::CompiledSchema) -> usize {
        let below = compiled.properties.values().chain(compiled.items.as_deref());
        compiled.compilation_errors().len() + below.map(errors).sum::<usize>()
    }
    assert_eq!(errors(&kube_cel::compile_schema(&schema())), 0);
}
