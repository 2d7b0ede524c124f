//! One object of a document: its kind, its name, and the verdict on the rest of it.

use std::{fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{
    builtin,
    schema::{RouteSchema, Violation},
    typed,
};
use crate::{
    api::{self, DEFAULT_CLASS_NAME, RouteObject, WebSocketRouteStatus},
    compile::{SecretObject, ServiceObject, SliceObject, object_name, trim},
    table::ObjectName,
};

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A route.
    WebSocketRoute,
    /// A Service.
    Service,
    /// A slice of a Service's endpoints.
    EndpointSlice,
    /// A Secret.
    Secret,
}

impl Kind {
    /// The kind as manifests name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocketRoute => api::KIND,
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an object's `kind` means to the reader.
pub(super) enum Meaning {
    Read(Kind),
    /// A list of objects; those of a typed list need not repeat their kind.
    List(Option<&'static str>),
    /// Something that people keep beside their routes.
    PassedOver,
    Wrong(Violation),
}

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

/// Kinds of other controllers that are often in the same files.
const PASSED_OVER: &[&str] = &[
    "Certificate",
    "ClusterIssuer",
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "Endpoints",
    "Event",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "Ingress",
    "IngressClass",
    "Issuer",
    "Job",
    "Kustomization",
    "LimitRange",
    "Namespace",
    "NetworkPolicy",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "PodMonitor",
    "PriorityClass",
    "ReferenceGrant",
    "ReplicaSet",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "ServiceAccount",
    "ServiceMonitor",
    "StatefulSet",
    "StorageClass",
];

/// What a value is, by its `apiVersion` and `kind`.
pub(super) fn meaning(value: &Value) -> Meaning {
    let (Some(version), Some(kind)) = (value["apiVersion"].as_str(), value["kind"].as_str()) else {
        let field = if value["kind"].is_string() { "apiVersion" } else { "kind" };
        return Meaning::Wrong(Violation { field: field.into(), message: "required, but missing".into() });
    };
    let (known, expected) = match kind.strip_suffix("List").unwrap_or(kind) {
        api::KIND => (Kind::WebSocketRoute, "switchyard.dev/v1alpha1"),
        "Service" => (Kind::Service, "v1"),
        "EndpointSlice" => (Kind::EndpointSlice, "discovery.k8s.io/v1"),
        "Secret" => (Kind::Secret, "v1"),
        "" => return Meaning::List(None),
        other if PASSED_OVER.contains(&other) => return Meaning::PassedOver,
        _ => return Meaning::Wrong(unknown_kind(kind)),
    };
    if version != expected {
        let message = format!("{known} is read as {expected}, not as {version}");
        return Meaning::Wrong(Violation { field: "apiVersion".into(), message });
    }
    if kind == known.as_str() { Meaning::Read(known) } else { Meaning::List(Some(known.as_str())) }
}

fn unknown_kind(kind: &str) -> Violation {
    let message =
        format!("{kind} is not read here; WebSocketRoute, Service, EndpointSlice, Secret and ReferenceGrant are");
    Violation { field: "kind".into(), message }
}

/// The name of an object, and what is wrong with its metadata. Without a usable name there is no object.
pub(super) fn metadata(value: &Value, kind: Kind) -> (Option<ObjectName>, Vec<Violation>) {
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
        violations.push(Violation { field: "metadata.name".into(), message: "required, but missing".into() });
        return (None, violations);
    }
    // A Service's name is a label in DNS names; those of the others are only ever paths.
    let is_right = if kind == Kind::Service { is_label(name) } else { is_subdomain(name) };
    if !is_right {
        let message = format!("{name:?} must be a DNS name: lower-case letters, digits and -");
        violations.push(Violation { field: "metadata.name".into(), message });
    }
    if let Some(namespace) = metadata.namespace.as_deref().filter(|namespace| !is_label(namespace)) {
        let message = format!("{namespace:?} must be a DNS label: lower-case letters, digits and -");
        violations.push(Violation { field: "metadata.namespace".into(), message });
    }
    (Some(object_name(&metadata)), violations)
}

fn lenient_name(value: &Value) -> Option<ObjectName> {
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    Some(ObjectName::new(metadata["namespace"].as_str().unwrap_or("default"), name))
}

fn is_label(name: &str) -> bool {
    let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !part.is_empty() && part.bytes().all(is_inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_part)
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
        (Ok(_), Some(violation)) => {
            let message = format!("{}: {}", violation.field, violation.message);
            Err(unreadable(&spec, message, &violations))
        }
        (Err(unreadable), None) => {
            let (field, message) = unreadable.message.split_once(": ").unwrap_or(("spec", &unreadable.message));
            violations.push(Violation { field: field.to_owned(), message: message.to_owned() });
            Err(unreadable)
        }
        (Err(error), Some(_)) => Err(unreadable(&spec, error.message, &violations)),
    };
    let mut metadata = ObjectMeta::default();
    if let Ok(written) = typed::read::<ObjectMeta>(&value["metadata"], "metadata") {
        metadata = written;
    }
    settle(&mut metadata, name);
    (RouteObject { metadata, spec, status: WebSocketRouteStatus::default() }, violations)
}

/// What a spec claims although it is refused: its class, and the hostnames that nothing is wrong with.
fn unreadable(spec: &Value, message: String, violations: &[Violation]) -> api::UnreadableSpec {
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
        message,
        class_name,
        hostnames: hostnames.filter_map(|(_, host)| host.as_str().map(str::to_owned)).collect(),
    }
}
