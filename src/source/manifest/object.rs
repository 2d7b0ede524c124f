//! One object of a document: its name, and the verdict on the rest.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{builtin, kind::ManifestKind, typed, violation::Violation};
use crate::{
    api::{Fault, RouteObject, UnreadableSpec, WebSocketRouteStatus, validation},
    compile::{SecretObject, ServiceObject, SliceObject, trim},
    table::ObjectName,
};

/// An object that is part of the view.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Route(Arc<RouteObject>),
    Service(Arc<ServiceObject>),
    Slice(Arc<SliceObject>),
    Secret(Arc<SecretObject>),
}

impl Object {
    /// Whether both are the same object in memory.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(other)) => Arc::ptr_eq(one, other),
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::Slice(one), Self::Slice(other)) => Arc::ptr_eq(one, other),
            (Self::Secret(one), Self::Secret(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether both have the same content.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(other)) => {
                let RouteObject { metadata, spec, status } = &**one;
                *metadata == other.metadata && *spec == other.spec && *status == other.status
            }
            (Self::Service(one), Self::Service(other)) => one == other,
            (Self::Slice(one), Self::Slice(other)) => one == other,
            (Self::Secret(one), Self::Secret(other)) => one == other,
            _ => false,
        }
    }
}

/// An object with valid metadata, and the problems of the rest. An invalid route is still returned, so that it keeps
/// its claims.
pub(super) fn object(
    kind: ManifestKind,
    name: &ObjectName,
    mut value: Value,
    earlier: Vec<Violation>,
) -> (Option<Object>, Vec<Violation>) {
    let read = match kind {
        ManifestKind::WebSocketRoute => {
            let (route, violations) = route(name, &mut value, earlier);
            return (Some(Object::Route(Arc::new(route))), violations);
        }
        ManifestKind::Service => builtin::service(&value).map(|mut service| {
            settle(&mut service.metadata, name);
            Object::Service(Arc::new(service))
        }),
        ManifestKind::EndpointSlice => builtin::slice(&value).map(|mut slice| {
            settle(&mut slice.metadata, name);
            Object::Slice(Arc::new(slice))
        }),
        ManifestKind::Secret => builtin::secret(&value).map(|mut secret| {
            settle(&mut secret.metadata, name);
            Object::Secret(Arc::new(secret))
        }),
    };
    match read {
        Ok(object) if earlier.is_empty() => (Some(object), earlier),
        Ok(_) => (None, earlier),
        // Reading the whole object reports the problems of its metadata again.
        Err(found) => (None, merged(earlier, found)),
    }
}

fn merged(mut violations: Vec<Violation>, more: Vec<Violation>) -> Vec<Violation> {
    for violation in more {
        if !violations.contains(&violation) {
            violations.push(violation);
        }
    }
    violations
}

/// Completes the metadata as an API server would.
fn settle(metadata: &mut ObjectMeta, name: &ObjectName) {
    trim(metadata);
    metadata.name = Some(name.name.to_string());
    metadata.namespace = Some(name.namespace.to_string());
}

fn route(name: &ObjectName, value: &mut Value, earlier: Vec<Violation>) -> (RouteObject, Vec<Violation>) {
    // The status is a subresource: an API server ignores the status in a manifest.
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let mut violations = merged(earlier, validation::check_object(value).into_iter().map(Violation::from).collect());
    let spec = validation::with_defaults(&value["spec"]);
    let spec = match (RouteObject::read_spec(&spec), violations.first()) {
        (Ok(spec), None) => Ok(spec),
        (Err(unreadable), None) => {
            violations.extend(unreadable.faults.iter().cloned().map(Violation::from));
            Err(unreadable)
        }
        (_, Some(_)) => Err(UnreadableSpec::read(&spec, violations.iter().map(Fault::from).collect())),
    };
    let mut metadata = ObjectMeta::default();
    if let Ok(written) = typed::read::<ObjectMeta>(&value["metadata"], "metadata") {
        metadata = written;
    }
    settle(&mut metadata, name);
    (RouteObject { metadata, spec, status: WebSocketRouteStatus::default() }, violations)
}
