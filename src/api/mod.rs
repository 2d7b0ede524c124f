//! The API: the `WebSocketRoute` resource, its status and its durations.
//!
//! The CRD in `crds/` is generated from these types; a test fails if they differ.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

mod duration;
mod hostname;
mod object;
mod open_enum;
mod patterns;
mod route;
mod schema;
mod status;
pub mod validation;

pub use duration::{Duration, DurationError};
pub use object::{Fault, PartialRule, RouteObject, UnreadableSpec};
pub use route::{
    Algorithm, BackendRef, CertificateRef, Cookie, DEFAULT_BACKEND_CONNECT_TIMEOUT, DEFAULT_CLASS_NAME,
    DEFAULT_COOKIE_PATH, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_PING_INTERVAL, DEFAULT_PING_TIMEOUT, DEFAULT_WEIGHT,
    EscapedSlashes, InsecurePolicy, Keepalive, KeepaliveTarget, LifetimeType, LoadBalancing, NonUpgradeRequests,
    PathMatch, PathMatchType, RouteMatch, RouteRule, SameSite, SecureMode, SessionPersistence, SessionPersistenceType,
    Timeouts, Tls, WebSocketRoute, WebSocketRouteSpec,
};
pub use status::{ConditionReason, ConditionType, WebSocketRouteStatus};

/// API group of the resource.
pub const GROUP: &str = "switchyard.dev";
/// API version of the resource.
pub const VERSION: &str = "v1alpha1";
/// Kind of the resource.
pub const KIND: &str = "WebSocketRoute";

/// The CustomResourceDefinition, as printed by `switchyard crd` and installed.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = <WebSocketRoute as kube::CustomResourceExt>::crd();
    let schemas = crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()).for_each(schema::finish);
    crd
}
