//! Sources of objects, and the loop that turns them into tables.

pub(crate) mod backoff;
pub(crate) mod complaint;
mod debounce;
mod directory;
mod kubernetes;
pub mod manifest;
pub(crate) mod progress;
mod rebuild;
mod signal;

use std::sync::Arc;

pub use debounce::Debounce;
pub use directory::{DirectorySource, OpenError, POLL_INTERVAL};
pub use kubernetes::{ConnectError, KubernetesSource, StoredRoutes, connect};
pub(crate) use kubernetes::{failure, trouble};
pub use progress::{Digests, Progress, Versions};
pub use rebuild::{BuildStats, CurrentSettings, Rebuild};
pub use signal::{Changes, Pending};

use crate::{
    compile::{ClusterView, Verdict},
    table::ObjectName,
};

/// A source of objects: a cluster or a directory.
pub trait Source: Send + 'static {
    /// The current objects.
    fn view(&self) -> ClusterView;

    /// The current objects, and how far their routes were followed. Both are from the same moment.
    fn look(&self) -> (ClusterView, Progress) {
        (self.view(), Progress::default())
    }

    /// The location of a route's field as `file:line`, if it comes from a file.
    fn place(&self, _route: &ObjectName, _field: &str) -> Option<String> {
        None
    }
}

/// The result of each build, whether or not it changed the table.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The generation of the table that is served: 0 before the first one, then one more for each that differs.
    pub generation: u64,
    /// The verdict on each route, sorted by name.
    pub verdicts: Arc<[Verdict]>,
    /// How far the routes were followed for this build.
    pub progress: Progress,
    /// Digests of the verdicts.
    pub digests: Digests,
}
