//! Objects from a cluster: a watch for each kind goes into a store, and the stores make up a view.
//!
//! `kind` says what is kept of each kind and which changes matter; `store` holds the objects; `watch` keeps a store
//! up to date through whatever happens to the API server; `trouble` tells people what does.

mod kind;
mod store;
pub(super) mod trouble;
mod watch;

use std::{collections::HashMap, sync::Arc};

use kube::{Api, Client, Config, runtime::watcher};
use tokio::{sync::watch as signal, task::JoinSet};

use self::{kind::Watched, store::Store, watch::Teller};
use super::{Changes, Source};
use crate::{
    api::RouteObject,
    compile::{ClusterView, SecretObject, ServiceObject, SliceObject, TLS_SECRET_TYPE},
    table::ObjectName,
};

/// After this many seconds the API server ends a watch, and the next one goes on where it ended. A connection that
/// died without a word is noticed a little later: routing on what has long changed costs more than four requests.
const WATCH_SECONDS: u32 = 60;

/// No way to reach a cluster was found, or what was found is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor an account of a pod.
    #[error("no cluster to connect to: set KUBECONFIG to a usable kubeconfig, or run in a pod with a service account")]
    NotConfigured(#[from] kube::config::InferConfigError),
    /// A client cannot be made of the configuration.
    #[error("the configuration of the cluster's client is not usable")]
    Unusable(#[from] kube::Error),
}

/// A client for the cluster that the kubeconfig names, else for the one that this pod runs in. Nothing is sent yet.
///
/// # Errors
/// When neither is there, or what is there cannot be used.
pub async fn connect() -> Result<Client, ConnectError> {
    let config = Config::infer().await?;
    Ok(Client::try_from(config)?)
}

/// Watches the cluster.
///
/// The watches end when it is dropped.
#[derive(Debug)]
pub struct KubernetesSource {
    routes: Store<RouteObject>,
    services: Store<ServiceObject>,
    slices: Store<SliceObject>,
    secrets: Store<SecretObject>,
    routes_seen: signal::Receiver<()>,
    synced: signal::Receiver<usize>,
    watches: JoinSet<()>,
}

/// The routes as the cluster has them, with their status; shared with whoever writes it.
#[derive(Clone, Debug)]
pub struct Routes {
    store: Store<RouteObject>,
    seen: signal::Receiver<()>,
}

impl KubernetesSource {
    /// Starts to watch; `changes` is touched whenever something changes that routing depends on.
    #[must_use]
    pub fn start(client: &Client, changes: &Changes) -> Self {
        let (synced_sender, synced) = signal::channel(0);
        let (routes_sender, routes_seen) = signal::channel(());
        let teller = Teller::new(changes.clone(), synced_sender);
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        // Other Secrets, such as the accounts' tokens, are none of our business and would only cost memory.
        let tls_only = config.clone().fields(&format!("type={TLS_SECRET_TYPE}"));
        let mut watches = JoinSet::new();
        Self {
            routes: watch(client, config.clone(), teller.clone().with_seen(routes_sender), &mut watches),
            services: watch(client, config.clone(), teller.clone(), &mut watches),
            slices: watch(client, config, teller.clone(), &mut watches),
            secrets: watch(client, tls_only, teller, &mut watches),
            routes_seen,
            synced,
            watches,
        }
    }

    /// Waits until every watch has finished its first list. A view from before lacks objects that exist.
    pub async fn synced(&self) {
        let all = self.watches.len();
        let mut synced = self.synced.clone();
        // The senders live in the watches, which end with `self` only.
        let _ = synced.wait_for(|synced| *synced == all).await;
    }

    /// The routes, for the status writer.
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes { store: self.routes.clone(), seen: self.routes_seen.clone() }
    }
}

impl Source for KubernetesSource {
    fn view(&self) -> ClusterView {
        ClusterView {
            routes: self.routes.objects(),
            services: self.services.by_name(),
            slices: by_service(self.slices.objects()),
            secrets: self.secrets.by_name(),
        }
    }
}

impl Routes {
    /// All of them, in no order.
    #[must_use]
    pub fn objects(&self) -> Vec<Arc<RouteObject>> {
        self.store.objects()
    }

    /// One of them.
    #[must_use]
    pub fn object(&self, name: &ObjectName) -> Option<Arc<RouteObject>> {
        self.store.object(name)
    }

    /// Waits until any of them, or its status, has changed since this was last waited for.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The watch has ended with the source, so nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Starts the watch of one kind.
fn watch<K: Watched>(client: &Client, config: watcher::Config, teller: Teller, watches: &mut JoinSet<()>) -> Store<K> {
    let (store, writer) = store::store();
    watches.spawn(watch::run(Api::<K>::all(client.clone()), config, writer, teller));
    store
}

/// Groups slices by their Service. Those of one Service are sorted, so that two views of the same slices are equal.
fn by_service(slices: Vec<Arc<SliceObject>>) -> HashMap<ObjectName, Vec<Arc<SliceObject>>> {
    let mut grouped: HashMap<_, Vec<_>> = HashMap::new();
    for slice in slices {
        if let Some(service) = slice.service() {
            grouped.entry(service).or_default().push(slice);
        }
    }
    for slices in grouped.values_mut() {
        slices.sort_unstable_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    }
    grouped
}
