//! The standing of a replica among the others.

use std::sync::Arc;

use tokio::time::Instant;

use crate::source::{Digests, Versions};

/// What this replica may do, and the other replicas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaStanding {
    /// Its role.
    pub role: Role,
    /// The other replicas.
    pub others: Arc<[Replica]>,
    /// Whether the others know this one, or cannot.
    pub announced: bool,
}

/// The role of a replica in writing statuses.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Role {
    /// Another replica writes, or none at the moment.
    #[default]
    Follower,
    /// This replica writes, until the given time unless the Lease is renewed.
    Holder {
        /// When it must stop.
        until: Instant,
    },
    /// No replica can be elected, and the others are unknown.
    Barred {
        /// The cause.
        cause: Arc<str>,
    },
}

/// Another replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Its name.
    pub name: String,
    /// How far it has followed the routes.
    pub applied: Versions,
    /// Digests of the routes it serves.
    pub digests: Digests,
}

impl Replica {
    /// Whether it has followed the routes of each watch up to these versions, or serves the same as a replica with
    /// these digests, which has.
    #[must_use]
    pub fn serves(&self, needs: &Versions, digests: &Digests) -> bool {
        self.applied.cover(needs, |watch| self.digests.agree_on(watch, digests))
    }
}

impl Role {
    /// Whether a write may start now.
    #[must_use]
    pub fn may_write(&self, now: Instant) -> bool {
        match self {
            Self::Follower => false,
            Self::Holder { until } => now < *until,
            Self::Barred { .. } => true,
        }
    }

    /// Whether it is the elected writer.
    #[must_use]
    pub fn is_holder(&self) -> bool {
        matches!(self, Self::Holder { .. })
    }
}
