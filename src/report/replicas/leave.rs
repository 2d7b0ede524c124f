//! Removes Leases: those of this replica when it stops, and those of replicas that are gone.

use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Replicas, election::Election, within};
use crate::source::failure::ApiFailure;

impl Replicas {
    /// Removes the Leases of replicas that vanished.
    pub(super) async fn clean(&mut self, now: Instant) {
        while let Some((name, version)) = self.roll.forgotten(now) {
            let name = name.to_owned();
            match self.delete(&name, Some(version.to_owned())).await {
                Ok(()) => info!(lease = name, "removed the Lease of a replica that is gone"),
                Err(failure) => debug!(lease = name, cause = failure.cause, "cannot remove the Lease of a replica"),
            }
            // If it still exists, the watch reports it again.
            self.roll.remove(&name);
        }
    }

    /// Hands everything over, so that the others need not wait for Leases to expire.
    pub(super) async fn resign(mut self) {
        let leader = self.roll.leader().filter(|leader| leader.holder == self.leases.identity.name);
        let leader = leader.map(|leader| leader.version.clone());
        self.election = Election::new(&self.leases.identity.name);
        self.publish();
        let leave = async {
            if self.announcement.has_announced() {
                left(&self.own_name, self.delete(&self.own_name, None).await);
            }
        };
        let hand_over = async {
            if let Some(version) = leader {
                left(&self.leases.names.leader, self.delete(&self.leases.names.leader, Some(version)).await);
            }
        };
        tokio::join!(leave, hand_over);
    }

    async fn delete(&self, name: &str, resource_version: Option<String>) -> Result<(), ApiFailure> {
        let preconditions =
            resource_version.map(|version| Preconditions { resource_version: Some(version), uid: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match within(self.api.delete(name, &params)).await {
            Err(failure) if failure.code == 404 => Ok(()),
            answer => answer.map(drop),
        }
    }
}

fn left(lease: &str, answer: Result<(), ApiFailure>) {
    match answer {
        Ok(()) => debug!(lease, "released a Lease"),
        Err(ApiFailure { cause, .. }) => warn!(lease, cause, "cannot release a Lease; others wait until it expires"),
    }
}
