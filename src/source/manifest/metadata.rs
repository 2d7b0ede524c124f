//! Names of objects, and the API server's checks of their metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{kind::ManifestKind, typed, violation::Violation};
use crate::{
    compile::{is_dns_label, is_dns_subdomain, object_name},
    table::ObjectName,
};

/// The name of an object, and the problems of its metadata. Without a usable name there is no object.
pub(super) fn read(value: &Value, kind: ManifestKind) -> (Option<ObjectName>, Vec<Violation>) {
    let metadata = match value.get("metadata").filter(|metadata| !metadata.is_null()) {
        Some(metadata) => typed::read(metadata, "metadata"),
        None => Ok(ObjectMeta::default()),
    };
    let metadata: ObjectMeta = match metadata {
        Ok(metadata) => metadata,
        Err(violations) => return (lenient_name(value), violations),
    };
    let mut violations = Vec::new();
    let name = metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        violations.push(Violation { field: "metadata.name".into(), message: "is required".into() });
        return (None, violations);
    }
    // The name of a Service is a DNS label; those of other kinds are only used in paths.
    let is_right = if kind == ManifestKind::Service { is_dns_label(name) } else { is_dns_subdomain(name) };
    if !is_right {
        let message = format!("must be a DNS name of lower-case letters, digits and -, got {name:?}");
        violations.push(Violation { field: "metadata.name".into(), message });
    }
    if let Some(namespace) = metadata.namespace.as_deref().filter(|namespace| !is_dns_label(namespace)) {
        let message = format!("must be a DNS label of lower-case letters, digits and -, got {namespace:?}");
        violations.push(Violation { field: "metadata.namespace".into(), message });
    }
    (Some(object_name(&metadata)), violations)
}

fn lenient_name(value: &Value) -> Option<ObjectName> {
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    Some(ObjectName::new(metadata["namespace"].as_str().unwrap_or("default"), name))
}
