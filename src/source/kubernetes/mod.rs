//! Objects from a cluster: a watch for each kind fills a store, and the stores make up a view.
//!
//! `kind` defines what is kept of each kind and which changes matter; `store` holds the objects; `watch` keeps a store
//! up to date through API server failures; `failure` puts those into words, and `trouble` logs them.

pub(crate) mod failure;
mod kind;
mod store;
pub(crate) mod trouble;
mod watch;

use std::{collections::HashMap, sync::Arc};

use kube::{Api, Client, Config, runtime::watcher};
use tokio::{sync::watch as signal, task::JoinSet};

use self::{
    kind::Watched,
    store::{Reached, Store},
    watch::Notifier,
};
use super::{Changes, Progress, Source, progress::WHOLE_CLUSTER};
use crate::{
    api::RouteObject,
    compile::{ClusterView, SecretObject, ServiceObject, SliceObject, TLS_SECRET_TYPE},
    table::ObjectName,
};

/// After this many seconds the API server ends a watch, and the next one continues where it ended. This detects a dead
/// connection a little later: routing by stale data costs more than four requests.
const WATCH_SECONDS: u32 = 60;

/// No cluster configuration was found, or it is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no cluster found: set KUBECONFIG to a valid kubeconfig, or run in a pod with a service account")]
    NotConfigured(#[from] kube::config::InferConfigError),
    /// The configuration does not yield a client.
    #[error("the configuration of the Kubernetes client is not usable")]
    Unusable(#[from] kube::Error),
}

/// A client for the kubeconfig's cluster, or else for the one this pod runs in. Sends nothing yet.
///
/// # Errors
/// If neither exists, or it cannot be used.
pub async fn connect() -> Result<Client, ConnectError> {
    let config = Config::infer().await?;
    Ok(Client::try_from(config)?)
}

/// Watches the cluster, or some of its namespaces.
///
/// The watches end when it is dropped.
#[derive(Debug)]
pub struct KubernetesSource {
    routes: Stores<RouteObject>,
    services: Stores<ServiceObject>,
    slices: Stores<SliceObject>,
    secrets: Stores<SecretObject>,
    routes_seen: signal::Receiver<()>,
    synced: signal::Receiver<usize>,
    watches: JoinSet<()>,
}

/// The routes of the cluster with their status, shared with the status writer.
#[derive(Clone, Debug)]
pub struct StoredRoutes {
    stores: Stores<RouteObject>,
    seen: signal::Receiver<()>,
}

/// The objects of one kind, with one store per watch.
#[derive(Clone, Debug)]
struct Stores<K>(Arc<[(WatchScope, Store<K>)]>);

/// The scope of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WatchScope {
    Cluster,
    Namespace(String),
}

impl KubernetesSource {
    /// Starts watching these namespaces, or the whole cluster if there are none; `changes` is touched on every change
    /// that affects routing.
    #[must_use]
    pub fn start(client: &Client, namespaces: &[String], changes: &Changes) -> Self {
        let (synced_sender, synced) = signal::channel(0);
        let (routes_sender, routes_seen) = signal::channel(());
        let notifier = Notifier::new(changes.clone(), synced_sender);
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        // Other Secrets, such as service account tokens, are not needed and would only cost memory.
        let tls_only = config.clone().fields(&format!("type={TLS_SECRET_TYPE}"));
        let scopes = WatchScope::of(namespaces);
        let mut watches = JoinSet::new();
        let routes_notifier = notifier.clone().with_seen(routes_sender);
        Self {
            routes: watch(client, &scopes, &config, &routes_notifier, &mut watches),
            services: watch(client, &scopes, &config, &notifier, &mut watches),
            slices: watch(client, &scopes, &config, &notifier, &mut watches),
            secrets: watch(client, &scopes, &tls_only, &notifier, &mut watches),
            routes_seen,
            synced,
            watches,
        }
    }

    /// Waits until every watch has finished its first list. Earlier views are incomplete.
    pub async fn synced(&self) {
        let all = self.watches.len();
        let mut synced = self.synced.clone();
        // The senders live in the watches, which only end with `self`.
        let _ = synced.wait_for(|synced| *synced == all).await;
    }

    /// The routes, for the status writer.
    #[must_use]
    pub fn routes(&self) -> StoredRoutes {
        StoredRoutes { stores: self.routes.clone(), seen: self.routes_seen.clone() }
    }
}

impl Source for KubernetesSource {
    fn view(&self) -> ClusterView {
        self.look().0
    }

    fn look(&self) -> (ClusterView, Progress) {
        let (routes, progress) = self.routes.objects_and_progress();
        let view = ClusterView {
            routes,
            services: self.services.by_name(),
            slices: by_service(self.slices.objects()),
            secrets: self.secrets.by_name(),
        };
        (view, progress)
    }
}

impl StoredRoutes {
    /// Routes without a watch, and what adds one.
    #[cfg(test)]
    pub(crate) fn in_memory() -> (Self, impl FnMut(RouteObject)) {
        let (store, mut writer) = store::store();
        let stores = Stores([(WatchScope::Cluster, store)].into());
        let set = move |route| {
            writer.apply(watcher::Event::Apply(route));
        };
        (Self { stores, seen: signal::channel(()).1 }, set)
    }

    /// All routes, in no particular order.
    #[must_use]
    pub fn objects(&self) -> Vec<Arc<RouteObject>> {
        self.stores.objects()
    }

    /// One route.
    #[must_use]
    pub fn object(&self, name: &ObjectName) -> Option<Arc<RouteObject>> {
        self.stores.object(name)
    }

    /// Waits until any route, or its status, has changed since the last call.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The watch ended with the source, so there are no more changes.
            std::future::pending::<()>().await;
        }
    }
}

impl<K> Stores<K> {
    fn objects(&self) -> Vec<Arc<K>> {
        self.0.iter().flat_map(|(_, store)| store.objects()).collect()
    }

    fn by_name(&self) -> HashMap<ObjectName, Arc<K>> {
        let mut stores = self.0.iter().map(|(_, store)| store.by_name());
        let mut all = stores.next().unwrap_or_default();
        stores.for_each(|more| all.extend(more));
        all
    }

    fn object(&self, name: &ObjectName) -> Option<Arc<K>> {
        self.0.iter().find_map(|(_, store)| store.object(name))
    }

    fn objects_and_progress(&self) -> (Vec<Arc<K>>, Progress) {
        let (mut all, mut progress) = (Vec::new(), Progress::default());
        for (scope, store) in self.0.iter() {
            let (objects, Reached { seen, changed }) = store.objects_and_reached();
            all.extend(objects);
            progress.seen.set(scope.key(), seen);
            progress.changed.set(scope.key(), changed);
        }
        (all, progress)
    }
}

impl WatchScope {
    fn of(namespaces: &[String]) -> Vec<Self> {
        match namespaces {
            [] => vec![Self::Cluster],
            namespaces => namespaces.iter().cloned().map(Self::Namespace).collect(),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Cluster => WHOLE_CLUSTER,
            Self::Namespace(namespace) => namespace,
        }
    }

    fn api<K: Watched>(&self, client: &Client) -> Api<K> {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// Starts the watches of one kind.
fn watch<K: Watched>(
    client: &Client,
    scopes: &[WatchScope],
    config: &watcher::Config,
    notifier: &Notifier,
    watches: &mut JoinSet<()>,
) -> Stores<K> {
    let start = |scope: &WatchScope| {
        let (store, writer) = store::store();
        watches.spawn(watch::run(scope.api::<K>(client), config.clone(), writer, notifier.clone()));
        (scope.clone(), store)
    };
    Stores(scopes.iter().map(start).collect())
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
