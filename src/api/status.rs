//! The status that users read.
#![allow(unreachable_pub, reason = "KubeSchema repeats each type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Status of a WebSocketRoute, written by the controller.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebSocketRouteStatus {
    /// One entry for each aspect of the route: Accepted, PartiallyInvalid, ResolvedRefs, BackendsReady, Programmed.
    /// Each states the generation of the spec that it describes.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The condition types, one for each aspect of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The spec is usable, and at least part of it is served as claimed.
    Accepted,
    /// A rule, or a (hostname, match) pair, is not served. Present only when true.
    PartiallyInvalid,
    /// Everything that the route references exists and may be used.
    ResolvedRefs,
    /// Informational: each referenced Service has an endpoint that takes new sessions.
    BackendsReady,
    /// Every replica of the controller serves this generation of the spec.
    Programmed,
}

impl ConditionType {
    /// The `type` of the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::PartiallyInvalid => "PartiallyInvalid",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::BackendsReady => "BackendsReady",
            Self::Programmed => "Programmed",
        }
    }
}

/// The reasons of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionReason {
    /// The route is served as written.
    Accepted,
    /// The spec, or a part of it, is invalid.
    Invalid,
    /// An older route holds the same claim.
    Conflicted,
    /// A value that this version, or the settings of this controller, do not support.
    UnsupportedValue,
    /// All references resolve.
    ResolvedRefs,
    /// A Service does not exist.
    BackendNotFound,
    /// A Service has no such port.
    UnknownPort,
    /// The Service's port asks for a protocol that is not supported.
    UnsupportedProtocol,
    /// A certificate's Secret is missing, of another type, or unusable.
    InvalidCertificateRef,
    /// Each Service has an endpoint that takes new sessions.
    EndpointsReady,
    /// A Service has no endpoint that takes new sessions.
    NoReadyEndpoints,
    /// Every replica serves this generation of the spec.
    Programmed,
    /// A replica does not serve this generation of the spec yet, or has not reported.
    Pending,
}

impl ConditionReason {
    /// The `reason` of the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Invalid => "Invalid",
            Self::Conflicted => "Conflicted",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::BackendNotFound => "BackendNotFound",
            Self::UnknownPort => "UnknownPort",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::InvalidCertificateRef => "InvalidCertificateRef",
            Self::EndpointsReady => "EndpointsReady",
            Self::NoReadyEndpoints => "NoReadyEndpoints",
            Self::Programmed => "Programmed",
            Self::Pending => "Pending",
        }
    }
}

/// The schema's default status, before any controller has looked at the route.
pub(super) fn pending() -> serde_json::Value {
    serde_json::json!({ "conditions": [{
        "type": "Accepted",
        "status": "Unknown",
        "reason": "Pending",
        "message": "Waiting for a controller of the route's class",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }] })
}
