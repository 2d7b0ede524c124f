//! The compiler's input: one consistent view of the objects that routing depends on.
//!
//! The objects contain only the fields that routing needs, so that the memory of a store does not depend on what other
//! programs write into them. They deserialise from the API server's JSON like the full types.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{
    ByteString, Metadata, NamespaceResourceScope, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};

use crate::{api::RouteObject, table::ObjectName};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The type of Secret that TLS certificates are read from.
pub const TLS_SECRET_TYPE: &str = "kubernetes.io/tls";

/// All objects at one moment.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// The routes, readable or not, of every class.
    pub routes: Vec<Arc<RouteObject>>,
    /// The Services.
    pub services: HashMap<ObjectName, Arc<ServiceObject>>,
    /// The EndpointSlices, by the Service in their label.
    pub slices: HashMap<ObjectName, Vec<Arc<SliceObject>>>,
    /// The Secrets.
    pub secrets: HashMap<ObjectName, Arc<SecretObject>>,
}

/// The fields of a Service that routing needs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ServiceObject {
    /// The object's metadata.
    pub metadata: ObjectMeta,
    /// Its spec.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// The spec of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, which slices use for their own port; absent or empty if the Service has one port.
    pub name: Option<String>,
    /// The port number, which routes use.
    pub port: i32,
    /// `TCP` (default), `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// The protocol spoken over it.
    pub app_protocol: Option<String>,
}

/// The fields of an EndpointSlice that routing needs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceObject {
    /// The object's metadata.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`; the last is not used.
    #[serde(default)]
    pub address_type: String,
    /// The endpoints.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports of every endpoint.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ports: Vec<SlicePort>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Its addresses, all of which lead to the same endpoint.
    pub addresses: Vec<Box<str>>,
    /// Its state.
    pub conditions: SliceConditions,
    /// The pod behind it.
    pub target_ref: Option<TargetRef>,
}

/// The state of an endpoint. If absent, `ready` is true, `serving` is the same as `ready`, and `terminating` is false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SliceConditions {
    /// Whether it takes new connections.
    pub ready: Option<bool>,
    /// Whether it serves, terminating or not.
    pub serving: Option<bool>,
    /// Whether it is terminating.
    pub terminating: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its name.
    pub name: Option<Box<str>>,
    /// Its uid.
    pub uid: Option<Box<str>>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SlicePort {
    /// The name of the corresponding port of the Service.
    pub name: Option<String>,
    /// The port that endpoints listen on.
    pub port: Option<i32>,
    /// `TCP` (default), `UDP` or `SCTP`.
    pub protocol: Option<String>,
}

/// The fields of a Secret that TLS needs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SecretObject {
    /// The object's metadata.
    pub metadata: ObjectMeta,
    /// Its type.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The values of `tls.crt` and `tls.key`.
    #[serde(default)]
    pub data: SecretData,
}

/// The entries of a Secret that are read; others are dropped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct SecretData {
    /// The certificate chain, as PEM.
    #[serde(rename = "tls.crt")]
    pub certificate: Option<ByteString>,
    /// The key, as PEM.
    #[serde(rename = "tls.key")]
    pub key: Option<ByteString>,
}

impl SliceObject {
    /// The Service that the slice belongs to.
    #[must_use]
    pub fn service(&self) -> Option<ObjectName> {
        let service = self.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
        Some(ObjectName::new(self.metadata.namespace.as_deref().unwrap_or_default(), service.as_str()))
    }
}

/// The name of an API object.
#[must_use]
pub fn object_name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
}

/// Drops the metadata that routing does not need: managed fields, annotations, owners, other labels.
pub fn trim(metadata: &mut ObjectMeta) {
    let labels = metadata.labels.take().and_then(|mut labels| labels.remove_entry(SERVICE_NAME_LABEL));
    *metadata = ObjectMeta {
        name: metadata.name.take(),
        namespace: metadata.namespace.take(),
        uid: metadata.uid.take(),
        resource_version: metadata.resource_version.take(),
        generation: metadata.generation.take(),
        creation_timestamp: metadata.creation_timestamp.take(),
        labels: labels.map(|label| BTreeMap::from([label])),
        ..ObjectMeta::default()
    };
}

/// Reads `null`, which the API server writes for the empty lists of a slice, as an empty list.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Implements the traits of an API kind for a trimmed type.
macro_rules! watched {
    ($type:ty, $api_version:literal, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            const API_VERSION: &'static str = $api_version;
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = NamespaceResourceScope;
        }

        impl Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

watched!(ServiceObject, "v1", "", "v1", "Service", "services");
watched!(SecretObject, "v1", "", "v1", "Secret", "secrets");
watched!(SliceObject, "discovery.k8s.io/v1", "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
