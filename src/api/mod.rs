//! The API: the `WebSocketRoute` resource, its status and its durations.
//!
//! The CRD in `crds/` is generated from these types; a test fails if they differ.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

mod chosen;
mod duration;
mod entries;
mod object;
mod patterns;
mod route;
mod route_match;
mod schema;
mod status;
pub mod validation;

pub use crate::choices::DEFAULT_CLASS_NAME;
pub use chosen::Chosen;
pub use duration::{Duration, DurationError};
pub use object::{Fault, PartialRule, RouteObject, UnreadableSpec};
pub use route::{
    BackendRef, CertificateRef, Clients, Cookie, Keepalive, LoadBalancing, RouteRule, SessionPersistence, Timeouts,
    Tls, WebSocketRoute, WebSocketRouteSpec,
};
pub use route_match::{HeaderMatch, PathMatch, QueryParamMatch, RouteMatch};
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
