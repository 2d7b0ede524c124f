//! The CRD's schema as a judge: the verdict of an API server without one.

use jsonschema::{
    JsonType, ValidationError as SchemaError,
    error::{TypeKind, ValidationErrorKind},
    paths::LocationSegment,
};
use kube_cel::{CompiledSchema, ErrorKind, Validator};
use serde_json::{Map, Value, json};

use super::position::{child, entry};
use crate::api;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) message: String,
}

/// Judges routes as an API server does that has the CRD: structure first, CEL rules next.
pub(super) struct RouteSchema {
    openapi: Value,
    structure: jsonschema::Validator,
    rules: CompiledSchema,
    cel: Validator,
}

impl RouteSchema {
    /// Compiles the schema of this version's CRD.
    pub(super) fn new() -> Self {
        let mut openapi = json!(api::crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        // What the API server knows of every kind, and checks by rules of its own.
        for (field, schema) in [("apiVersion", json!({})), ("kind", json!({})), ("metadata", json!({}))] {
            openapi["properties"][field] = schema;
        }
        let structure = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft7)
            .build(&strict(&openapi))
            .expect("the tests compile this schema, and it is the same in every run");
        let rules = kube_cel::compile_schema(&openapi);
        Self { openapi, structure, rules, cel: Validator::new() }
    }

    /// What is wrong with a route; the nulls that an API server would drop are gone afterwards.
    pub(super) fn check(&self, object: &mut Value) -> Vec<Violation> {
        drop_nulls(object, &self.openapi);
        let mut violations = Vec::new();
        let mut blocked = false;
        let errors: Vec<_> = self.structure.iter_errors(object).collect();
        for error in &errors {
            blocked |= is_blocking(error.kind());
            violations.extend(explain(error, &errors));
        }
        duplicates(object, &self.openapi, "", &mut violations);
        // Rules are written for objects of the right shape; the API server skips them for others, too.
        if !blocked {
            violations.extend(self.broken_rules(object));
        }
        violations
    }

    /// Fills in the schema's defaults below `spec`, as the API server stores them.
    pub(super) fn with_defaults(&self, spec: &Value) -> Value {
        kube_cel::apply_defaults(&self.openapi["properties"]["spec"], spec)
    }

    fn broken_rules(&self, object: &Value) -> Vec<Violation> {
        let Err(errors) = self.cel.validate_compiled(&self.rules, object, None) else { return Vec::new() };
        let violations = errors.into_iter().map(|error| Violation {
            field: error.field_path,
            message: match error.kind {
                ErrorKind::ValidationFailure => error.message,
                _ => format!("the rule {} cannot be evaluated: {}", error.rule, error.message),
            },
        });
        violations.collect()
    }
}

/// The CRD's schema as JSON Schema: what is not described is not allowed.
fn strict(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut strict = Map::new();
    for (keyword, value) in schema {
        let value = match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                fields.iter().map(|(name, field)| (name.clone(), self::strict(field))).collect()
            }
            ("items" | "additionalProperties", value) => self::strict(value),
            ("description" | "default" | "format" | "nullable", _) => continue,
            (keyword, _) if keyword.starts_with("x-kubernetes-") => continue,
            (_, value) => value.clone(),
        };
        strict.insert(keyword.clone(), value);
    }
    let is_open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if strict.contains_key("properties") && !strict.contains_key("additionalProperties") && !is_open {
        strict.insert("additionalProperties".into(), Value::Bool(false));
    }
    Value::Object(strict)
}

/// Drops the nulls of fields that are not nullable, as an API server does before it validates.
fn drop_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            let known = &schema["properties"];
            fields.retain(|name, value| !value.is_null() || known[name].is_null() || known[name]["nullable"] == true);
            for (name, value) in fields {
                drop_nulls(value, &known[name]);
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(|value| drop_nulls(value, &schema["items"])),
        _ => {}
    }
}

/// The entries of set lists that are there already.
fn duplicates(value: &Value, schema: &Value, path: &str, violations: &mut Vec<Violation>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                duplicates(value, &schema["properties"][name], &child(path, name), violations);
            }
        }
        Value::Array(entries) => {
            let is_set = schema["x-kubernetes-list-type"] == "set";
            for (index, value) in entries.iter().enumerate() {
                if is_set && entries[..index].contains(value) {
                    violations.push(Violation { field: entry(path, index), message: format!("duplicate of {value}") });
                }
                duplicates(value, &schema["items"], &entry(path, index), violations);
            }
        }
        _ => {}
    }
}

/// The faults of structure on account of which an API server does not evaluate rules.
fn is_blocking(kind: &ValidationErrorKind) -> bool {
    use ValidationErrorKind::{Enum, MaxItems, MaxLength, Required, Type};
    matches!(kind, Type { .. } | Required { .. } | Enum { .. } | MaxLength { .. } | MaxItems { .. })
}

fn explain(error: &SchemaError<'_>, all: &[SchemaError<'_>]) -> Vec<Violation> {
    use ValidationErrorKind as Kind;
    let field = field_of(error);
    let has_wrong_type = |other: &SchemaError<'_>| {
        matches!(other.kind(), Kind::Type { .. }) && other.instance_path() == error.instance_path()
    };
    let message = match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            let unknown =
                unexpected.iter().map(|name| Violation { field: child(&field, name), message: "unknown field".into() });
            return unknown.collect();
        }
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            return vec![Violation { field: child(&field, name), message: "required, but missing".into() }];
        }
        Kind::Type { kind } => format!("must be {}, not {}", expected(kind), kind_of(error.instance())),
        // A value of another type cannot be one of the options either; once is enough.
        _ if all.iter().any(has_wrong_type) => return Vec::new(),
        Kind::Enum { options } => format!("must be one of {}, not {}", listed(options), error.instance()),
        Kind::Minimum { limit } => format!("must be at least {}, not {}", whole(limit), error.instance()),
        Kind::Maximum { limit } => format!("must be at most {}, not {}", whole(limit), error.instance()),
        Kind::MinLength { limit: 1 } => "must not be empty".into(),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MinItems { limit } => format!("must have at least {}", entries(*limit)),
        Kind::MaxItems { limit } => format!("must have at most {}", entries(*limit)),
        _ => error.to_string(),
    };
    vec![Violation { field, message }]
}

fn field_of(error: &SchemaError<'_>) -> String {
    error.instance_path().iter().fold(String::new(), |path, segment| match segment {
        LocationSegment::Property(name) => child(&path, &name),
        LocationSegment::Index(index) => entry(&path, index),
    })
}

fn expected(kind: &TypeKind) -> &'static str {
    match kind {
        TypeKind::Single(JsonType::String) => "a string",
        TypeKind::Single(JsonType::Integer) => "a whole number",
        TypeKind::Single(JsonType::Number) => "a number",
        TypeKind::Single(JsonType::Boolean) => "true or false",
        TypeKind::Single(JsonType::Array) => "a list",
        TypeKind::Single(JsonType::Object) => "an object",
        TypeKind::Single(JsonType::Null) | TypeKind::Multiple(_) => "of another type",
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

fn listed(options: &Value) -> String {
    let options = options.as_array().into_iter().flatten().filter_map(Value::as_str);
    options.collect::<Vec<_>>().join(", ")
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".into() } else { format!("{count} entries") }
}

/// A bound without the point that the CRD's JSON gives it.
fn whole(limit: &Value) -> String {
    limit.as_f64().map_or_else(|| limit.to_string(), |limit| format!("{limit}"))
}
