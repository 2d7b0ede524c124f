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

use super::{
    kind::{Change, Watched},
    store::Writer,
    trouble::{Trouble, needs_list},
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
    let mut events = watcher(api.clone(), config.clone()).boxed();
    let mut trouble = Trouble::new(K::KIND, K::WHEN_UNKNOWN);
    let mut synced = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // The beginning of a list is not heard of the API server: it is what comes before asking.
                if !matches!(event, Event::Init) {
                    trouble.is_over();
                }
                let done = matches!(event, Event::InitDone);
                teller.tell(writer.apply(event.modify(K::trim)));
                if done && !std::mem::replace(&mut synced, true) {
                    teller.synced.send_modify(|count| *count += 1);
                }
            }
            Err(error) => {
                if needs_list(&error) {
                    events = watcher(api.clone(), config.clone()).boxed();
                }
                sleep(trouble.begins(&error, Instant::now())).await;
            }
        }
    }
}
