//! Decides when to read a directory again.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};

use super::POLL_INTERVAL;

/// The events of one save, which are at most a few milliseconds apart, belong together.
const QUIET: Duration = Duration::from_millis(10);
/// The longest wait for a save to end, or for a writer to close its file.
const LONGEST: Duration = Duration::from_millis(500);
/// How often a missing directory is looked for.
const RETRY: Duration = Duration::from_millis(250);

/// Messages to the thread.
#[derive(Debug)]
pub(super) enum Message {
    Event(Event),
    /// Events may be missing from now on.
    Lost(notify::Error),
    Stop,
}

/// Watches a directory by path rather than by inode: it may be removed and recreated.
pub(super) struct Watch {
    directory: PathBuf,
    sender: Sender<Message>,
    state: WatchState,
}

enum WatchState {
    Watching {
        /// Stops when dropped.
        _watcher: RecommendedWatcher,
        identity: (u64, u64),
    },
    /// The directory is missing.
    Away,
    Polling(Duration),
}

impl Watch {
    /// Starts watching, or polling if an interval is given.
    pub(super) fn new(directory: PathBuf, sender: Sender<Message>, interval: Option<Duration>) -> Self {
        let state = interval.map_or(WatchState::Away, WatchState::Polling);
        let mut watch = Self { directory, sender, state };
        watch.renew();
        watch
    }

    /// Waits until the directory should be read again; false at the end.
    pub(super) fn wait(&mut self, messages: &Receiver<Message>) -> bool {
        let patience = match self.state {
            WatchState::Watching { .. } => Duration::MAX,
            WatchState::Away => RETRY,
            WatchState::Polling(interval) => interval,
        };
        let goes_on = match messages.recv_timeout(patience) {
            Ok(message) => self.settle(message, messages),
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        };
        self.renew();
        goes_on
    }

    /// Waits until all events that belong to `first` have arrived and written files are closed; false at the end.
    fn settle(&mut self, first: Message, messages: &Receiver<Message>) -> bool {
        let deadline = Instant::now() + LONGEST;
        let mut being_written = HashSet::new();
        let mut next = Ok(first);
        loop {
            match next {
                // Events were dropped: a new directory may be unwatched.
                Ok(Message::Event(event)) if event.need_rescan() => self.state = WatchState::Away,
                Ok(Message::Event(event)) => note(event, &mut being_written),
                Ok(Message::Lost(error)) => self.poll(&error),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => return true,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            next = messages.recv_timeout(if being_written.is_empty() { QUIET.min(left) } else { left });
        }
    }

    /// Starts a new watch if the directory is a different one. To be called before reading, so that no change in
    /// between is missed.
    fn renew(&mut self) {
        let now = identity(&self.directory);
        match (&self.state, now) {
            (WatchState::Polling(_), _) => {}
            (WatchState::Watching { identity, .. }, Some(now)) if *identity == now => {}
            (_, None) => self.state = WatchState::Away,
            (_, Some(identity)) => match self.watcher() {
                Ok(watcher) => self.state = WatchState::Watching { _watcher: watcher, identity },
                // Removed again in the meantime.
                Err(_) if self::identity(&self.directory).is_none() => self.state = WatchState::Away,
                Err(error) => self.poll(&error),
            },
        }
    }

    fn watcher(&self) -> notify::Result<RecommendedWatcher> {
        let sender = self.sender.clone();
        let handler = move |event: notify::Result<Event>| {
            let message = match event {
                Ok(event) if !is_telling(event.kind) => return,
                Ok(event) => Message::Event(event),
                Err(error) => Message::Lost(error),
            };
            // Without a receiver the thread has ended, and this watcher is about to.
            let _ = sender.send(message);
        };
        let mut watcher = notify::recommended_watcher(handler)?;
        watcher.watch(&self.directory, RecursiveMode::Recursive)?;
        Ok(watcher)
    }

    fn poll(&mut self, error: &notify::Error) {
        let directory = self.directory.display();
        tracing::warn!("cannot watch {directory}; polling every {POLL_INTERVAL:?}: {error}");
        self.state = WatchState::Polling(POLL_INTERVAL);
    }
}

/// The identity of the directory at a path, following links.
fn identity(directory: &PathBuf) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Reads are events too: ours would trigger each other for ever.
fn is_telling(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Tracks which files are being written.
fn note(event: Event, being_written: &mut HashSet<PathBuf>) {
    let Event { kind, paths, .. } = event;
    if matches!(kind, EventKind::Modify(ModifyKind::Data(_))) {
        being_written.extend(paths);
    } else {
        being_written.retain(|path| !paths.contains(path));
    }
}
