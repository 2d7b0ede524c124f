//! Objects from a directory of manifests, which is read again on every change.

mod events;

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    Changes, Source,
    manifest::{FileProblem, ManifestKind, Manifests},
};
use crate::{compile::ClusterView, table::ObjectName};
use events::{Message, Watch};

/// How often an unwatchable directory is polled.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Why a directory cannot be used as a source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not exist, or is not a directory.
    #[error("cannot read the manifests in {}: {error}", path.display())]
    Directory {
        /// The given path.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The system cannot start another thread.
    #[error("cannot start the thread that watches the manifests: {0}")]
    Thread(#[source] io::Error),
}

/// A directory of manifests. Clones share one watch, which ends with the last clone.
#[derive(Clone, Debug)]
pub struct DirectorySource {
    shared: Arc<SharedManifests>,
    _stop: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct SharedManifests {
    current: ArcSwap<Manifests>,
    revision: watch::Sender<u64>,
}

impl DirectorySource {
    /// Reads a directory and watches it from now on. `changes` is touched once at first, then whenever the objects have
    /// changed. Blocks until the first read is done.
    ///
    /// If the system cannot watch it, the directory is polled instead, and a warning is logged.
    ///
    /// # Errors
    /// If the directory does not exist. If it vanishes later, that is a problem until it is back.
    pub fn open(directory: impl Into<PathBuf>, changes: Changes) -> Result<Self, OpenError> {
        Self::start(directory.into(), changes, None)
    }

    /// The same, but polling: for file systems that do not report changes.
    ///
    /// # Errors
    /// As [`DirectorySource::open`].
    pub fn open_polling(
        directory: impl Into<PathBuf>,
        interval: Duration,
        changes: Changes,
    ) -> Result<Self, OpenError> {
        Self::start(directory.into(), changes, Some(interval))
    }

    fn start(directory: PathBuf, changes: Changes, interval: Option<Duration>) -> Result<Self, OpenError> {
        if let Err(error) = std::fs::read_dir(&directory) {
            return Err(OpenError::Directory { path: directory, error });
        }
        let (sender, messages) = mpsc::channel();
        let shared = Arc::new(SharedManifests { current: ArcSwap::default(), revision: watch::Sender::new(0) });
        let watch = Watch::new(directory.clone(), sender.clone(), interval);
        let worker = DirectoryReader { directory, shared: shared.clone(), changes, watch, messages };
        // Watched before it is read: changes in between cause another read.
        worker.read();
        worker.changes.touch();
        let spawned = thread::Builder::new().name("manifests".into()).spawn(move || worker.run());
        spawned.map_err(OpenError::Thread)?;
        Ok(Self { shared, _stop: Arc::new(StopOnDrop(sender)) })
    }

    /// The result of the last read.
    #[must_use]
    pub fn manifests(&self) -> Arc<Manifests> {
        self.shared.current.load_full()
    }

    /// The current problems of the files.
    #[must_use]
    pub fn problems(&self) -> Arc<[FileProblem]> {
        self.shared.current.load().problems().clone()
    }

    /// The file and line of an object's field.
    #[must_use]
    pub fn locate(&self, kind: ManifestKind, name: &ObjectName, field: &str) -> Option<(PathBuf, usize)> {
        self.shared.current.load().locate(kind, name, field)
    }

    /// Counts the reads that changed the objects or the problems.
    #[must_use]
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }
}

impl Source for DirectorySource {
    fn view(&self) -> ClusterView {
        self.shared.current.load().view().clone()
    }

    fn place(&self, route: &ObjectName, field: &str) -> Option<String> {
        let (file, line) = self.locate(ManifestKind::WebSocketRoute, route, field)?;
        Some(format!("{}:{line}", file.display()))
    }
}

#[derive(Debug)]
struct StopOnDrop(mpsc::Sender<Message>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // Without a receiver the thread has already ended.
        let _ = self.0.send(Message::Stop);
    }
}

/// The reading thread.
struct DirectoryReader {
    directory: PathBuf,
    shared: Arc<SharedManifests>,
    changes: Changes,
    watch: Watch,
    messages: mpsc::Receiver<Message>,
}

impl DirectoryReader {
    fn run(mut self) {
        while self.watch.wait(&self.messages) {
            self.read();
        }
    }

    fn read(&self) {
        let previous = self.shared.current.load_full();
        let manifests = Manifests::read(std::slice::from_ref(&self.directory), &previous);
        let have_objects_changed = !manifests.same_objects(&previous);
        let has_changed = have_objects_changed || manifests.problems() != previous.problems();
        log_changes(previous.problems(), manifests.problems());
        self.shared.current.store(Arc::new(manifests));
        if have_objects_changed {
            self.changes.touch();
        }
        if has_changed {
            self.shared.revision.send_modify(|revision| *revision += 1);
        }
    }
}

/// Logs new problems, and files without problems again.
fn log_changes(before: &[FileProblem], now: &[FileProblem]) {
    // A problem that only moved to another line is not new.
    let essence = |problem: &FileProblem| (problem.path.clone(), problem.field.clone(), problem.message.clone());
    let known: HashSet<_> = before.iter().map(essence).collect();
    for problem in now.iter().filter(|problem| !known.contains(&essence(problem))) {
        tracing::warn!("{problem}");
    }
    for path in files(before).difference(&files(now)) {
        tracing::info!("{}: no problems any more", path.display());
    }
}

fn files(problems: &[FileProblem]) -> BTreeSet<&Path> {
    problems.iter().map(|problem| &*problem.path).collect()
}
