//! What the reader does with an object, by its `apiVersion` and `kind`.

use std::fmt;

use serde_json::Value;

use super::violation::Violation;
use crate::api;

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ManifestKind {
    /// A route.
    WebSocketRoute,
    /// A Service.
    Service,
    /// A slice of a Service's endpoints.
    EndpointSlice,
    /// A Secret.
    Secret,
}

impl ManifestKind {
    /// The kind as written in manifests.
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

impl fmt::Display for ManifestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the reader does with an object.
pub(super) enum Meaning {
    Read(ManifestKind),
    /// A list of objects; those of a typed list need not repeat their kind.
    List(Option<&'static str>),
    /// An object of another kind, as found next to routes.
    PassedOver,
    Wrong(Violation),
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

/// What to do with a value, by its `apiVersion` and `kind`.
pub(super) fn meaning(value: &Value) -> Meaning {
    let (Some(version), Some(kind)) = (value["apiVersion"].as_str(), value["kind"].as_str()) else {
        let field = if value["kind"].is_string() { "apiVersion" } else { "kind" };
        return Meaning::Wrong(Violation { field: field.into(), message: "is required".into() });
    };
    let (known, expected) = match kind.strip_suffix("List").unwrap_or(kind) {
        api::KIND => (ManifestKind::WebSocketRoute, "switchyard.dev/v1alpha1"),
        "Service" => (ManifestKind::Service, "v1"),
        "EndpointSlice" => (ManifestKind::EndpointSlice, "discovery.k8s.io/v1"),
        "Secret" => (ManifestKind::Secret, "v1"),
        "" => return Meaning::List(None),
        other if PASSED_OVER.contains(&other) => return Meaning::PassedOver,
        _ => return Meaning::Wrong(unknown_kind(kind)),
    };
    if version != expected {
        let message = format!("must be {expected} for a {known}, got {version}");
        return Meaning::Wrong(Violation { field: "apiVersion".into(), message });
    }
    if kind == known.as_str() { Meaning::Read(known) } else { Meaning::List(Some(known.as_str())) }
}

fn unknown_kind(kind: &str) -> Violation {
    let message = format!("must be WebSocketRoute, Service, EndpointSlice or Secret, got {kind}");
    Violation { field: "kind".into(), message }
}
