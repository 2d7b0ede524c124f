//! One watch: from the API server into a store, for ever.

use std::sync::Arc;

use futures::StreamExt;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch as signal,
    time::{Instant, sleep},
};
use tracing::info;

use super::{
    kind::{Change, Watched},
    store::Writer,
    trouble::{Trouble, needs_list, refuses_streams},
};
use crate::source::Changes;

/// Tells others of what a watch sees.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    changes: Changes,
    synced: Arc<signal::Sender<usize>>,
    seen: Option<Arc<signal::Sender<()>>>,
}

impl Teller {
    /// Touches `changes` when routing changes, and counts in `synced` the watches that have finished a list.
    pub(super) fn new(changes: Changes, synced: signal::Sender<usize>) -> Self {
        Self { changes, synced: Arc::new(synced), seen: None }
    }

    /// Tells `seen` of every change, those that routing does not depend on included.
    pub(super) fn with_seen(self, seen: signal::Sender<()>) -> Self {
        Self { seen: Some(Arc::new(seen)), ..self }
    }

    fn tell(&self, change: Change) {
        if change == Change::Routing {
            self.changes.touch();
        }
        if let (Some(seen), true) = (&self.seen, change > Change::Nothing) {
            seen.send_replace(());
        }
    }
}

/// Watches for ever. Whatever goes wrong, the store keeps what it has, and the watch is tried again.
pub(super) async fn run<K: Watched>(api: Api<K>, config: watcher::Config, mut writer: Writer<K>, teller: Teller) {
    let mut lists = Lists::Streamed;
    let mut events = watcher(api.clone(), lists.config(&config)).boxed();
    let mut trouble = Trouble::new(K::KIND, K::WHEN_UNKNOWN);
    let (mut synced, mut listing) = (false, false);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) if listing && lists == Lists::Streamed => {
                // The stream has ended without the word that the list is complete: it was not understood.
                lists = Lists::fall_back(K::KIND, "it does not tell where they end");
                events = watcher(api.clone(), lists.config(&config)).boxed();
            }
            Ok(event) => {
                // The beginning of a list is not heard of the API server: it is what comes before asking.
                listing = matches!(event, Event::Init | Event::InitApply(_));
                if !matches!(event, Event::Init) {
                    trouble.is_over();
                }
                let done = matches!(event, Event::InitDone);
                teller.tell(writer.apply(event.modify(K::trim)));
                if done && !std::mem::replace(&mut synced, true) {
                    teller.synced.send_modify(|count| *count += 1);
                }
            }
            Err(error) if lists == Lists::Streamed && refuses_streams(&error) => {
                lists = Lists::fall_back(K::KIND, &error.to_string());
                events = watcher(api.clone(), lists.config(&config)).boxed();
            }
            Err(error) => {
                // What comes next is another try, whose list may well begin anew.
                listing = false;
                if needs_list(&error) {
                    events = watcher(api.clone(), lists.config(&config)).boxed();
                }
                sleep(trouble.begins(&error, Instant::now())).await;
            }
        }
    }
}

/// How the objects that exist are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// As the first events of a watch, one by one: neither side has to hold all of them at once.
    Streamed,
    /// In pages, which every API server knows.
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
