//! Routes judged as an API server judges them, without one: the structure of the CRD's schema, then its rules.
//!
//! The CRD states each rule in CEL; `rules` has the same rule in Rust. The tests hold the two against each other, with
//! a CEL interpreter and with a real API server.

mod rules;
mod structure;

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::Fault;

/// How an object came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody has written it: fields and values that the schema does not know are mistakes.
    Manifest,
    /// An API server has stored it, perhaps under another version of the schema: what this version does not know is not a
    /// mistake, and what it does know is still checked.
    Stored,
}

/// The schema of this version's objects, in the form of `OpenAPI`.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = json!(super::crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    // What the API server knows of every kind, and checks by rules of its own.
    for field in ["apiVersion", "kind", "metadata"] {
        schema["properties"][field] = json!({});
    }
    schema
});

/// What is wrong with a route in a manifest; the nulls that an API server would drop are gone afterwards.
pub fn check_object(object: &mut Value) -> Vec<Fault> {
    structure::drop_nulls(object, &SCHEMA);
    check(object, &SCHEMA, "", Origin::Manifest)
}

/// What is wrong with the spec of a route that an API server has stored.
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
    // Rules are written for objects of the right shape; the API server skips them for others, too.
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
