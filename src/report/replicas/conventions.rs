//! What all replicas agree on: the periods, labels and annotations of Leases.

use std::time::Duration;

/// How long a Lease is valid without a renewal.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(4);

/// The label that marks the Lease of a replica.
pub(super) const COMPONENT: (&str, &str) = ("switchyard.dev/component", "replica");
/// The annotation with the versions up to which a replica has followed the routes.
pub(super) const APPLIED: &str = "switchyard.dev/applied";
/// The annotation with the digests of the routes it serves.
pub(super) const DIGESTS: &str = "switchyard.dev/digests";
