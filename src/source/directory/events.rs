//! When a directory is worth another read.

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

/// An editor's save is several events, a few milliseconds apart at most; they belong together.
const QUIET: Duration = Duration::from_millis(10);
/// Nobody waits longer for a save to end, nor for a writer that does not close its file.
const LONGEST: Duration = Duration::from_millis(500);
/// How often a directory is looked for that has gone.
const RETRY: Duration = Duration::from_millis(250);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    Event(Event),
    /// Events may be missing from now on.
    Lost(notify::Error),
    Stop,
}

/// Watches a directory, the path rather than the inode: it may go and come back.
pub(super) struct Watch {
    directory: PathBuf,
    sender: Sender<Message>,
    state: State,
}

enum State {
    Watching {
        /// Ends with the value.
        _watcher: RecommendedWatcher,
        identity: (u64, u64),
    },
    /// The directory has gone.
    Away,
    Polling(Duration),
}

impl Watch {
    /// Begins to watch, or to poll where an interval is given.
    pub(super) fn new(directory: PathBuf, sender: Sender<Message>, interval: Option<Duration>) -> Self {
        let state = interval.map_or(State::Away, State::Polling);
        let mut watch = Self { directory, sender, state };
        watch.renew();
        watch
    }

    /// Waits until the directory is worth another read; false at the end.
    pub(super) fn wait(&mut self, messages: &Receiver<Message>) -> bool {
        let patience = match self.state {
            State::Watching { .. } => Duration::MAX,
            State::Away => RETRY,
            State::Polling(interval) => interval,
        };
        let goes_on = match messages.recv_timeout(patience) {
            Ok(message) => self.settle(message, messages),
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        };
        self.renew();
        goes_on
    }

    /// Waits until the events that belong to `first` have come, and written files are closed; false at the end.
    fn settle(&mut self, first: Message, messages: &Receiver<Message>) -> bool {
        let deadline = Instant::now() + LONGEST;
        let mut being_written = HashSet::new();
        let mut next = Ok(first);
        loop {
            match next {
                // Events were dropped: a new directory may be unwatched.
                Ok(Message::Event(event)) if event.need_rescan() => self.state = State::Away,
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

    /// Watches anew if the directory is another one than before. To be called before it is read, so that nothing
    /// changes unseen in between.
    fn renew(&mut self) {
        let now = identity(&self.directory);
        match (&self.state, now) {
            (State::Polling(_), _) => {}
            (State::Watching { identity, .. }, Some(now)) if *identity == now => {}
            (_, None) => self.state = State::Away,
            (_, Some(identity)) => match self.watcher() {
                Ok(watcher) => self.state = State::Watching { _watcher: watcher, identity },
                // Gone again since it was looked at.
                Err(_) if self::identity(&self.directory).is_none() => self.state = State::Away,
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
        tracing::warn!("cannot watch {directory}, so it is read every {POLL_INTERVAL:?}: {error}");
        self.state = State::Polling(POLL_INTERVAL);
    }
}

/// The directory that a path leads to, links followed.
fn identity(directory: &PathBuf) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Reads are events, too: ours would make us read for ever.
fn is_telling(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Follows which files are in the middle of being written.
fn note(event: Event, being_written: &mut HashSet<PathBuf>) {
    let Event { kind, paths, .. } = event;
    if matches!(kind, EventKind::Modify(ModifyKind::Data(_))) {
        being_written.extend(paths);
    } else {
        being_written.retain(|path| !paths.contains(path));
    }
}
