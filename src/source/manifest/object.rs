//! One object of a document: its name, and the verdict on the rest of it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{
    builtin,
    kind::Kind,
    schema::{RouteSchema, Violation},
    typed,
};
use crate::{
    api::{self, DEFAULT_CLASS_NAME, RouteObject, WebSocketRouteStatus},
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
    /// Whether both are one object in memory.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(one), Self::Route(other)) => Arc::ptr_eq(one, other),
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::Slice(one), Self::Slice(other)) => Arc::ptr_eq(one, other),
            (Self::Secret(one), Self::Secret(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether both say the same.
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

/// An object whose metadata is as it should be, or what is wrong with the rest of it. A route is there in both cases,
/// so that it keeps its claims.
pub(super) fn object(
    kind: Kind,
    name: &ObjectName,
    mut value: Value,
    earlier: Vec<Violation>,
    schema: &RouteSchema,
) -> (Option<Object>, Vec<Violation>) {
    let read = match kind {
        Kind::WebSocketRoute => {
            let (route, violations) = route(name, &mut value, earlier, schema);
            return (Some(Object::Route(Arc::new(route))), violations);
        }
        Kind::Service => builtin::service(&value).map(|mut service| {
            settle(&mut service.metadata, name);
            Object::Service(Arc::new(service))
        }),
        Kind::EndpointSlice => builtin::slice(&value).map(|mut slice| {
            settle(&mut slice.metadata, name);
            Object::Slice(Arc::new(slice))
        }),
        Kind::Secret => builtin::secret(&value).map(|mut secret| {
            settle(&mut secret.metadata, name);
            Object::Secret(Arc::new(secret))
        }),
    };
    match read {
        Ok(object) if earlier.is_empty() => (Some(object), earlier),
        Ok(_) => (None, earlier),
        // Reading the whole object finds what is wrong with its metadata once more.
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

/// What a store would hold of an object's metadata.
fn settle(metadata: &mut ObjectMeta, name: &ObjectName) {
    trim(metadata);
    metadata.name = Some(name.name.to_string());
    metadata.namespace = Some(name.namespace.to_string());
}

fn route(
    name: &ObjectName,
    value: &mut Value,
    earlier: Vec<Violation>,
    schema: &RouteSchema,
) -> (RouteObject, Vec<Violation>) {
    // The status is a subresource: an API server ignores what a manifest says of it.
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let mut violations = merged(earlier, schema.check(value));
    let spec = schema.with_defaults(&value["spec"]);
    let spec = match (RouteObject::read_spec(&spec), violations.first()) {
        (Ok(spec), None) => Ok(spec),
        (Err(unreadable), None) => {
            let (field, message) = (unreadable.path.clone(), unreadable.message.clone());
            violations.push(Violation { field, message });
            Err(unreadable)
        }
        (_, Some(first)) => Err(unreadable(&spec, first, &violations)),
    };
    let mut metadata = ObjectMeta::default();
    if let Ok(written) = typed::read::<ObjectMeta>(&value["metadata"], "metadata") {
        metadata = written;
    }
    settle(&mut metadata, name);
    (RouteObject { metadata, spec, status: WebSocketRouteStatus::default() }, violations)
}

/// What a spec claims although it is refused: its class, and the hostnames that nothing is wrong with.
fn unreadable(spec: &Value, first: &Violation, violations: &[Violation]) -> api::UnreadableSpec {
    let hostnames = spec["hostnames"].as_array().into_iter().flatten().enumerate();
    let is_right = |index: usize| {
        let field = format!("spec.hostnames[{index}]");
        violations.iter().all(|violation| violation.field != field)
    };
    let hostnames = hostnames.filter(|(index, _)| is_right(*index));
    let class_name = match spec.get("className") {
        Some(name) => name.as_str().map(str::to_owned),
        None => Some(DEFAULT_CLASS_NAME.to_owned()),
    };
    api::UnreadableSpec {
        path: first.field.clone(),
        message: first.message.clone(),
        class_name,
        hostnames: hostnames.filter_map(|(_, host)| host.as_str().map(str::to_owned)).collect(),
    }
}
