//! One watch: from the API server into a store, for ever.

use std::sync::Arc;

use futures::StreamExt;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch as signal,
    time::{Instant, sleep_until},
};
use tracing::info;

use super::{
    failure::ApiFailure,
    kind::{Change, Watched},
    store::StoreWriter,
    trouble::{Trouble, needs_list, refuses_streams},
};
use crate::source::Changes;

/// Notifies others of what a watch sees.
#[derive(Clone, Debug)]
pub(super) struct Notifier {
    changes: Changes,
    synced: Arc<signal::Sender<usize>>,
    seen: Option<Arc<signal::Sender<()>>>,
}

impl Notifier {
    /// Touches `changes` when routing changes, and counts in `synced` the watches that have finished a list.
    pub(super) fn new(changes: Changes, synced: signal::Sender<usize>) -> Self {
        Self { changes, synced: Arc::new(synced), seen: None }
    }

    /// Also notifies `seen` of every change, including those that do not affect routing.
    pub(super) fn with_seen(self, seen: signal::Sender<()>) -> Self {
        Self { seen: Some(Arc::new(seen)), ..self }
    }

    fn notify(&self, change: Change) {
        if change == Change::Routing {
            self.changes.touch();
        }
        if let (Some(seen), true) = (&self.seen, change > Change::Nothing) {
            seen.send_replace(());
        }
    }
}

/// Watches for ever. After any failure, the store keeps its content, and the watch is retried.
pub(super) async fn run<K: Watched>(
    api: Api<K>,
    config: watcher::Config,
    mut writer: StoreWriter<K>,
    notifier: Notifier,
) {
    let mut lists = Lists::Streamed;
    let mut events = watcher(api.clone(), lists.config(&config)).boxed();
    let mut trouble = Trouble::new(K::KIND, K::WHEN_UNKNOWN);
    let (mut synced, mut listing) = (false, false);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) if listing && lists == Lists::Streamed => {
                // The stream ended without marking the list as complete: the API server did not understand the request.
                lists = Lists::fall_back(K::KIND, "it does not mark their end");
                events = watcher(api.clone(), lists.config(&config)).boxed();
            }
            Ok(event) => {
                // This event comes before the request, not from the API server.
                listing = matches!(event, Event::Init | Event::InitApply(_));
                if !matches!(event, Event::Init) {
                    trouble.recovered();
                }
                let done = matches!(event, Event::InitDone);
                notifier.notify(writer.apply(event.modify(K::trim)));
                if done && !std::mem::replace(&mut synced, true) {
                    notifier.synced.send_modify(|count| *count += 1);
                }
            }
            Err(error) if lists == Lists::Streamed && refuses_streams(&error) => {
                lists = Lists::fall_back(K::KIND, &error.to_string());
                events = watcher(api.clone(), lists.config(&config)).boxed();
            }
            Err(error) => {
                // The next event is from a retry, which may start a new list.
                listing = false;
                if needs_list(&error) {
                    events = watcher(api.clone(), lists.config(&config)).boxed();
                }
                sleep_until(trouble.failed(ApiFailure::from(&error), Instant::now())).await;
            }
        }
    }
}

/// How existing objects are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// As the first events of a watch, one by one: neither side has to hold all of them at once.
    Streamed,
    /// In pages, which every API server supports.
    Paged,
}

impl Lists {
    fn config(self, config: &watcher::Config) -> watcher::Config {
        match self {
            Self::Streamed => config.clone().streaming_lists(),
            Self::Paged => config.clone(),
        }
    }

    fn fall_back(kind: &str, cause: &str) -> Self {
        info!(kind, cause, "the API server does not stream lists; asking for pages");
        Self::Paged
    }
}
