//! Validates routes as an API server would, without one: the structure of the CRD's schema, then its rules.
//!
//! The CRD states each rule in CEL; `rules` has the same rule in Rust. The tests compare the two, with a CEL
//! interpreter and with a real API server.

mod rules;
mod structure;

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::Fault;

/// Where an object comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written by a user: unknown fields and values are mistakes.
    Manifest,
    /// Stored by an API server, perhaps under another version of the schema: fields unknown to this version are not
    /// mistakes; known ones are still checked.
    Stored,
}

/// The `OpenAPI` schema of this version's objects.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = json!(super::crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    // Common to every kind, and checked by the API server itself.
    for field in ["apiVersion", "kind", "metadata"] {
        schema["properties"][field] = json!({});
    }
    schema
});

/// The problems of a route in a manifest. Also drops the nulls that an API server would drop.
pub fn check_object(object: &mut Value) -> Vec<Fault> {
    structure::drop_nulls(object, &SCHEMA);
    check(object, &SCHEMA, "", Origin::Manifest)
}

/// The problems of the spec of a route that an API server has stored.
pub(super) fn check_stored(spec: &Value) -> Vec<Fault> {
    check(spec, &SCHEMA["properties"]["spec"], "spec", Origin::Stored)
}

/// Fills in the schema's defaults below `spec`, as the API server stores them.
#[must_use]
pub fn with_defaults(spec: &Value) -> Value {
    let mut spec = spec.clone();
    structure::fill_defaults(&mut spec, &SCHEMA["properties"]["spec"]);
    spec
}

fn check(value: &Value, schema: &Value, path: &str, origin: Origin) -> Vec<Fault> {
    let mut findings = structure::Findings::of(origin);
    findings.walk(value, schema, path);
    // Rules assume the right structure; the API server also skips them otherwise.
    if !findings.is_shapeless || origin == Origin::Stored {
        rules::walk(value, schema, path, &mut findings.faults);
    }
    findings.faults.sort_by(|one, other| one.path.cmp(&other.path));
    findings.faults
}

/// The path of a field of an object, as every message writes it.
pub(crate) fn child(parent: &str, key: &str) -> String {
    if key.is_empty() || key.contains(['.', '[', ']', '/']) {
        format!("{parent}[{key}]")
    } else if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

/// The path of an entry of a list.
pub(crate) fn entry(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}
