//! Compares the built-in validation with independent validators: a JSON Schema validator for the structure, and a CEL
//! interpreter for the rules. The cluster tests add a real API server.

use std::collections::BTreeSet;

use jsonschema::error::ValidationErrorKind;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use switchyard::api::{self, validation};

use crate::golden;

/// The reference validators.
struct Judges {
    openapi: Value,
    structure: jsonschema::Validator,
    rules: kube_cel::CompiledSchema,
}

impl Judges {
    fn new() -> Self {
        let mut openapi = json!(api::crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        for field in ["apiVersion", "kind", "metadata"] {
            openapi["properties"][field] = json!({});
        }
        let structure = jsonschema::options().with_draft(jsonschema::Draft::Draft7).build(&strict(&openapi)).unwrap();
        let rules = kube_cel::compile_schema(&openapi);
        Self { openapi, structure, rules }
    }

    /// Whether the structure is valid, and the broken rules if the API server would evaluate them.
    fn judge(&self, object: &Value) -> (bool, BTreeSet<(String, String)>) {
        use ValidationErrorKind::{Enum, MaxItems, MaxLength, Required, Type};
        let errors: Vec<_> = self.structure.iter_errors(object).collect();
        let is_shapeless = errors.iter().any(|error| {
            matches!(error.kind(), Type { .. } | Required { .. } | Enum { .. } | MaxLength { .. } | MaxItems { .. })
        });
        let has_duplicates = object["spec"]["hostnames"].as_array().is_some_and(|hostnames| {
            hostnames.iter().enumerate().any(|(index, hostname)| hostnames[..index].contains(hostname))
        });
        let broken = if is_shapeless { BTreeSet::new() } else { self.broken_rules(object) };
        (errors.is_empty() && !has_duplicates, broken)
    }

    fn broken_rules(&self, object: &Value) -> BTreeSet<(String, String)> {
        let errors = kube_cel::Validator::new().validate_compiled(&self.rules, object, None).err();
        errors.into_iter().flatten().map(|error| (error.field_path, error.message)).collect()
    }
}

/// The schema as JSON Schema: undescribed fields are not allowed.
fn strict(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut strict = Map::new();
    for (keyword, value) in schema {
        let value = match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                fields.iter().map(|(name, field)| (name.clone(), self::strict(field))).collect()
            }
            ("items", value) => self::strict(value),
            ("description" | "default" | "format", _) => continue,
            (keyword, _) if keyword.starts_with("x-kubernetes-") => continue,
            (_, value) => value.clone(),
        };
        strict.insert(keyword.clone(), value);
    }
    if strict.contains_key("properties") {
        strict.insert("additionalProperties".into(), Value::Bool(false));
    }
    Value::Object(strict)
}

/// Our own verdict in the reference's form: rules are identified by their messages in the CRD.
fn ours(object: &Value, openapi: &Value) -> (bool, BTreeSet<(String, String)>) {
    let mut messages = BTreeSet::new();
    collect(openapi, &mut messages);
    let faults = validation::check_object(&mut object.clone());
    let (rules, structure): (Vec<_>, Vec<_>) = faults.into_iter().partition(|fault| messages.contains(&fault.message));
    (structure.is_empty(), rules.into_iter().map(|fault| (fault.path, fault.message)).collect())
}

fn collect(schema: &Value, messages: &mut BTreeSet<String>) {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    messages.extend(rules.map(|rule| rule["message"].as_str().unwrap().to_owned()));
    let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
    for schema in fields.chain(schema.get("items")) {
        collect(schema, messages);
    }
}

/// The routes in all golden files.
fn golden_routes() -> Vec<Value> {
    let files = ["objects/good", "objects/bad"].iter().flat_map(|folder| golden::files(folder));
    let documents = files.flat_map(|file| {
        let text = std::fs::read_to_string(file).unwrap();
        let documents = serde_yaml::Deserializer::from_str(&text);
        documents.filter_map(|document| serde::Deserialize::deserialize(document).ok()).collect::<Vec<Value>>()
    });
    documents.filter(|object| object["kind"] == "WebSocketRoute").map(without_nulls).collect()
}

/// As kubectl and the API server pass an object to the schema.
fn without_nulls(mut object: Value) -> Value {
    object.as_object_mut().unwrap().remove("status");
    switchyard::source::manifest::whole_numbers(&mut object);
    validation::check_object(&mut object);
    object
}

#[test]
fn golden_objects_get_the_verdicts_of_other_validators() {
    let judges = Judges::new();
    for object in golden_routes() {
        assert_eq!(ours(&object, &judges.openapi), judges.judge(&object), "{object:#}");
    }
}

/// Values that are invalid for some field.
fn odd_value() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "a",
        "A",
        "-",
        "a-",
        "*",
        "*.a.b",
        "1.2.3.4",
        "10s",
        "1h30m",
        "10",
        "0s",
        "123456s",
        "/",
        "/a",
        "/a%2Fb",
        "/a/../b",
        "/%2e%2E;x",
        "/a\\b",
        "/a?b",
        "/%00",
        "a b",
        " a",
        "RegularExpression",
        "None",
        "Never",
        "Always",
        "Keep",
        "Permanent",
        "Cookie",
        "Exact",
        "/;",
        "x=y",
        "chat.example.com",
        "ä",
    ];
    let text = prop::sample::select(texts.to_vec()).prop_map(|text| json!(text));
    let number = prop::sample::select(vec![-1_i64, 0, 1, 65_535, 65_536, 1_000_001]).prop_map(|number| json!(number));
    let others =
        prop::sample::select(vec![json!(true), json!(false), json!([]), json!({}), json!(1.5), json!(["a", "a"])]);
    let long = (1_usize..2000).prop_map(|length| json!("a".repeat(length)));
    prop_oneof![6 => text, 2 => number, 2 => others, 1 => long]
}

/// All locations in a value, as JSON pointers.
fn places(value: &Value, place: &str, found: &mut Vec<String>) {
    found.push(place.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| places(value, &format!("{place}/{name}"), found));
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, value)| places(value, &format!("{place}/{index}"), found));
        }
        _ => {}
    }
}

/// Mutates a location of the spec: another value, one from another location, removed, or repeated in its list.
fn mutate(object: &mut Value, (at, how, from, value): &(prop::sample::Index, u8, prop::sample::Index, Value)) {
    let mut found = Vec::new();
    places(&object["spec"], "/spec", &mut found);
    let place = at.get(&found).clone();
    let other = object.pointer(from.get::<String>(&found)).cloned();
    match how % 4 {
        0 => *object.pointer_mut(&place).unwrap() = value.clone(),
        1 => *object.pointer_mut(&place).unwrap() = other.unwrap(),
        _ => {
            let (parent, name) = place.rsplit_once('/').unwrap();
            match (object.pointer_mut(parent), how % 4) {
                (Some(Value::Object(fields)), 2) => drop(fields.remove(name)),
                (Some(Value::Object(fields)), _) => drop(fields.insert(format!("{name}x"), value.clone())),
                (Some(Value::Array(values)), 2) => drop(values.remove(name.parse().unwrap())),
                (Some(Value::Array(values)), _) => values.push(values[name.parse::<usize>().unwrap()].clone()),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_objects_get_the_verdicts_of_other_validators(
        start: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>(), odd_value()), 1..4),
    ) {
        thread_local! {
            static BED: (Judges, Vec<Value>) = (Judges::new(), golden_routes());
        }
        BED.with(|(judges, routes)| {
            let mut object = start.get(routes).clone();
            for change in &changes {
                if object["spec"].is_object() {
                    mutate(&mut object, change);
                }
            }
            prop_assert_eq!(ours(&object, &judges.openapi), judges.judge(&object), "{:#}", object);
            Ok(())
        })?;
    }
}
