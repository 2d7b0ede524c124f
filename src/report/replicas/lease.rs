//! The content of Leases.

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use serde::Serialize;

use super::{
    Identity, Names,
    announcement::Announced,
    conventions::{APPLIED, COMPONENT, DIGESTS, LEASE},
    roll::{Leader, Seen},
};

/// The Leases that this replica writes.
#[derive(Debug)]
pub(super) struct OwnLeases {
    /// The replica.
    pub(super) identity: Identity,
    /// The names and labels of its class.
    pub(super) names: Names,
}

impl OwnLeases {
    /// The Lease for statuses with our name, to replace `before`.
    pub(super) fn leader(&self, before: Option<&Seen<Leader>>) -> Lease {
        let mut lease = self.lease(&self.names.leader, "leader");
        lease.metadata.resource_version = before.map(|before| before.version.clone());
        let ours = before.filter(|before| before.holder == self.identity.name);
        let transitions = before.map_or(0, |before| before.of.transitions.saturating_add(i32::from(ours.is_none())));
        let spec = lease.spec.get_or_insert_default();
        spec.lease_transitions = Some(transitions);
        spec.acquire_time = ours.and_then(|ours| ours.of.acquired.clone()).or(Some(MicroTime(Timestamp::now())));
        lease
    }

    /// Our own Lease, which reports `content`.
    pub(super) fn replica(&self, content: &Announced) -> Lease {
        let mut lease = self.lease(&self.names.replica(&self.identity.name), COMPONENT.1);
        let told = [(APPLIED, json(&content.progress.seen)), (DIGESTS, json(&content.digests))];
        lease.metadata.annotations = Some(told.map(|(name, value)| (name.to_owned(), value)).into());
        lease
    }

    fn lease(&self, name: &str, component: &str) -> Lease {
        let labels = self.names.labels().into_iter().chain([(COMPONENT.0, component)]);
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
                owner_references: self.identity.pod.clone().map(|pod| vec![pod]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.name.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn json(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("numbers by name have a JSON form")
}
