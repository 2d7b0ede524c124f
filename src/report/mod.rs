//! Reports to the cluster: conditions, Events, and the Leases through which replicas find each other. A sink: the
//! sources of objects do not depend on it.

mod replicas;
mod status;

pub use replicas::{Identity, Names, ReplicaStanding, Replicas, Role};
pub use status::{StatusWriter, programmed_here};

use tokio::time::{Instant, sleep_until};

/// Waits until `at`; without a time, for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
