//! Objects from a directory of manifests, which is read again whenever something in it changes.

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
    manifest::{FileProblem, Kind, Manifests},
};
use crate::{compile::ClusterView, table::ObjectName};
use events::{Message, Watch};

/// How often a directory is read that cannot be watched.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Why a directory cannot serve as a source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, or is no directory.
    #[error("cannot read the manifests in {}: {error}", path.display())]
    Directory {
        /// The path that was given.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The system has no thread for it.
    #[error("cannot start the thread that watches the manifests: {0}")]
    Thread(#[source] io::Error),
}

/// A directory of manifests. Clones share one watch, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct DirectorySource {
    shared: Arc<Shared>,
    _stop: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Manifests>,
    revision: watch::Sender<u64>,
}

impl DirectorySource {
    /// Reads a directory and watches it from now on. `changes` is touched once at first, then whenever the objects
    /// have changed. This blocks until the first read is done.
    ///
    /// Where the system cannot watch, the directory is polled instead, and a warning says so.
    ///
    /// # Errors
    /// When there is no such directory. One that vanishes later is a problem of its own until it is back.
    pub fn open(directory: impl Into<PathBuf>, changes: Changes) -> Result<Self, OpenError> {
        Self::start(directory.into(), changes, None)
    }

    /// The same, but the directory is polled: for file systems that do not tell of changes.
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
        let shared = Arc::new(Shared { current: ArcSwap::default(), revision: watch::Sender::new(0) });
        let watch = Watch::new(directory.clone(), sender.clone(), interval);
        let worker = Worker { directory, shared: shared.clone(), changes, watch, messages };
        // Watched before it is read: what changes in between is read again.
        worker.read();
        worker.changes.touch();
        let spawned = thread::Builder::new().name("manifests".into()).spawn(move || worker.run());
        spawned.map_err(OpenError::Thread)?;
        Ok(Self { shared, _stop: Arc::new(StopOnDrop(sender)) })
    }

    /// What was read last.
    #[must_use]
    pub fn manifests(&self) -> Arc<Manifests> {
        self.shared.current.load_full()
    }

    /// What is wrong with the files now.
    #[must_use]
    pub fn problems(&self) -> Arc<[FileProblem]> {
        self.shared.current.load().problems().clone()
    }

    /// The file and the line of a field of an object.
    #[must_use]
    pub fn locate(&self, kind: Kind, name: &ObjectName, field: &str) -> Option<(PathBuf, usize)> {
        self.shared.current.load().locate(kind, name, field)
    }

    /// Counts the reads after which the objects or the problems were others than before.
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
        let (file, line) = self.locate(Kind::WebSocketRoute, route, field)?;
        Some(format!("{}:{line}", file.display()))
    }
}

#[derive(Debug)]
struct StopOnDrop(mpsc::Sender<Message>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // Without a receiver the thread has ended already.
        let _ = self.0.send(Message::Stop);
    }
}

/// The thread that reads.
struct Worker {
    directory: PathBuf,
    shared: Arc<Shared>,
    changes: Changes,
    watch: Watch,
    messages: mpsc::Receiver<Message>,
}

impl Worker {
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
        tell(previous.problems(), manifests.problems());
        self.shared.current.store(Arc::new(manifests));
        if have_objects_changed {
            self.changes.touch();
        }
        if has_changed {
            self.shared.revision.send_modify(|revision| *revision += 1);
        }
    }
}

/// Logs what is newly wrong, and the files that nothing is wrong with any more.
fn tell(before: &[FileProblem], now: &[FileProblem]) {
    // A problem that only moved to another line is none that people have not seen.
    let essence = |problem: &FileProblem| (problem.path.clone(), problem.field.clone(), problem.message.clone());
    let known: HashSet<_> = before.iter().map(essence).collect();
    for problem in now.iter().filter(|problem| !known.contains(&essence(problem))) {
        tracing::warn!("{problem}");
    }
    for path in files(before).difference(&files(now)) {
        tracing::info!("{}: nothing is wrong any more", path.display());
    }
}

fn files(problems: &[FileProblem]) -> BTreeSet<&Path> {
    problems.iter().map(|problem| &*problem.path).collect()
}
