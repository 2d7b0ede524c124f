//! What is kept of each kind, and which of its changes matter.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::de::DeserializeOwned;

use crate::{
    api::RouteObject,
    compile::{SecretObject, ServiceObject, SliceObject, trim},
};

/// The effect of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// No change: the stored object stays, the very same `Arc`, and so does everything built from it.
    Nothing,
    /// Only fields that do not affect routing, such as a status.
    StatusOnly,
    /// Fields that routing depends on.
    Routing,
}

/// A watched kind.
pub(super) trait Watched:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + k8s_openapi::Resource<Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What to do if the API server does not know the kind.
    const WHEN_UNKNOWN: &'static str = "every cluster should have it";

    /// Drops unused fields.
    fn trim(&mut self) {
        trim(self.meta_mut());
    }

    /// The effect of replacing `before` with this object.
    fn change(&self, before: &Self) -> Change;
}

impl Watched for RouteObject {
    const WHEN_UNKNOWN: &'static str = "install the CustomResourceDefinition: switchyard crd | kubectl apply -f -";

    /// Keeps the managers: the status writer needs to know which of them own a status.
    fn trim(&mut self) {
        let mut managers = self.metadata.managed_fields.take();
        for entry in managers.iter_mut().flatten() {
            entry.fields_v1 = None;
            entry.time = None;
        }
        trim(&mut self.metadata);
        self.metadata.managed_fields = managers;
    }

    fn change(&self, before: &Self) -> Change {
        let Self { metadata, spec, status: _ } = self;
        if !same(metadata, &before.metadata) || *spec != before.spec {
            Change::Routing
        } else if metadata.resource_version == before.metadata.resource_version {
            Change::Nothing
        } else {
            Change::StatusOnly
        }
    }
}

impl Watched for ServiceObject {
    fn change(&self, before: &Self) -> Change {
        let Self { metadata, spec } = self;
        routing_unless(same(metadata, &before.metadata) && *spec == before.spec)
    }
}

impl Watched for SliceObject {
    fn change(&self, before: &Self) -> Change {
        let Self { metadata, address_type, endpoints, ports } = self;
        let same_content =
            *address_type == before.address_type && *endpoints == before.endpoints && *ports == before.ports;
        routing_unless(same_content && same(metadata, &before.metadata))
    }
}

impl Watched for SecretObject {
    fn change(&self, before: &Self) -> Change {
        let Self { metadata, type_, data } = self;
        routing_unless(same(metadata, &before.metadata) && *type_ == before.type_ && *data == before.data)
    }
}

fn routing_unless(same: bool) -> Change {
    if same { Change::Nothing } else { Change::Routing }
}

/// Whether two versions of an object have the same metadata, as far as routing is concerned.
fn same(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    one.uid == other.uid
        && one.generation == other.generation
        && one.creation_timestamp == other.creation_timestamp
        && one.labels == other.labels
}
