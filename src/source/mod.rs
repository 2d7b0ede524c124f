//! Where objects come from, and the loop that turns them into tables.

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
pub(crate) use kubernetes::trouble;
pub use kubernetes::{ConnectError, KubernetesSource, Routes, connect};
pub use progress::{Digests, Progress, Versions};
pub use rebuild::{Build, CurrentSettings, Rebuild};
pub use signal::{Changes, Pending};

use crate::{
    compile::{ClusterView, Verdict},
    table::ObjectName,
};

/// A place that objects come from: a cluster, or a directory.
pub trait Source: Send + 'static {
    /// The objects of this moment.
    fn view(&self) -> ClusterView;

    /// The same, with how far the routes in it were followed. Both are of the same moment.
    fn look(&self) -> (ClusterView, Progress) {
        (self.view(), Progress::default())
    }

    /// Where a field of a route is written, as `file:line`, if it is written in a file.
    fn place(&self, _route: &ObjectName, _field: &str) -> Option<String> {
        None
    }
}

/// What the rebuild loop tells of each build, whether or not it changed the table.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The generation of the table that is served: 0 before the first one, then one more for each that differs.
    pub generation: u64,
    /// What became of each route, sorted by name.
    pub verdicts: Arc<[Verdict]>,
    /// How far the routes were followed for it.
    pub progress: Progress,
    /// The verdicts in short.
    pub digests: Digests,
}
