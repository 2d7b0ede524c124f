//! The control thread: watching, compiling and dropping old tables stay away from the threads that serve, whose
//! latencies a build would ruin.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tracing::warn;

use super::Objects;
use crate::{
    admin::FileProblems,
    metrics::Metrics,
    report::{Identity, Names, Replicas, Standing, StatusWriter},
    source::{self, Build, Changes, CurrentSettings, DirectorySource, KubernetesSource, Rebuild, Report, Source},
    table::CurrentTable,
};

/// How long a replica that is otherwise ready waits until the others know of it.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(2);
/// How long one that has ended otherwise waits until it has handed everything over.
const RESIGNED_WITHIN: Duration = Duration::from_secs(3);

/// What the rest of the process sees of the control thread.
pub(super) struct Control {
    /// What is wrong with the files that objects come from.
    pub(super) file_problems: FileProblems,
    /// Resolves should the thread ever end.
    pub(super) ended: oneshot::Receiver<()>,
    /// What becomes of this replica among the others. Its sender goes once everything is handed over, and at once
    /// where there are no others.
    standing: watch::Receiver<Standing>,
    stop: watch::Sender<bool>,
}

impl Control {
    /// Waits until the other replicas know of this one: routes are not to be called programmed without it from now
    /// on. Not for long, for it serves all the same.
    pub(super) async fn announced(&mut self) {
        let announced = self.standing.wait_for(|standing| standing.announced);
        if timeout(ANNOUNCED_WITHIN, announced).await.is_err() {
            warn!(
                "ready, although other replicas could not be told yet; routes may be called Programmed without this one"
            );
        }
    }

    /// Hands over what this replica holds among the others; it serves on.
    pub(super) fn resign(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until that is done.
    pub(super) async fn resigned(&mut self) {
        let resigned = async { while self.standing.changed().await.is_ok() {} };
        if timeout(RESIGNED_WITHIN, resigned).await.is_err() {
            warn!("the Leases of this replica are left to end by themselves");
        }
    }
}

/// Why the process stops although nobody told it to.
pub(super) fn ended(_: Result<(), oneshot::error::RecvError>) -> anyhow::Error {
    anyhow!("the control thread ended unexpectedly; its last words are in the log")
}

/// What the control thread works with.
struct Work {
    settings: CurrentSettings,
    table: Arc<CurrentTable>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<Report>,
    changes: Changes,
    standing: watch::Sender<Standing>,
    stop: watch::Receiver<bool>,
}

/// Starts the control thread, and waits until it knows where its objects are to come from.
pub(super) async fn start(
    objects: Objects,
    settings: CurrentSettings,
    changes: Changes,
    table: &Arc<CurrentTable>,
    metrics: &Arc<Metrics>,
    reports: watch::Sender<Report>,
) -> anyhow::Result<Control> {
    let (told, standing) = watch::channel(Standing::default());
    let (stop, stopping) = watch::channel(false);
    let work = Work {
        settings,
        table: table.clone(),
        metrics: metrics.clone(),
        reports,
        changes,
        standing: told,
        stop: stopping,
    };
    let (started, starting) = oneshot::channel();
    let (running, ended) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        // Dropped when the thread ends, by whatever cause.
        let _running = running;
        runtime.block_on(work.run(objects, started));
    })?;
    let file_problems = starting.await.map_err(|_| anyhow!("the control thread could not start"))??;
    Ok(Control { file_problems, ended, standing, stop })
}

type Started = oneshot::Sender<anyhow::Result<FileProblems>>;

impl Work {
    async fn run(self, objects: Objects, started: Started) {
        match objects {
            Objects::Cluster { namespaces } => self.watch_cluster(&namespaces, started).await,
            Objects::Directory(path) => self.watch_directory(path, started).await,
        }
    }

    async fn watch_cluster(self, namespaces: &[String], started: Started) {
        let client = match source::connect().await {
            Ok(client) => client,
            Err(error) => return drop(started.send(Err(error.into()))),
        };
        let source = KubernetesSource::start(&client, namespaces, &self.changes);
        let identity = Identity::new(|name| std::env::var(name).ok(), client.default_namespace());
        let class = (self.settings)().class;
        let names = Names::new(&class, namespaces);
        let writer = StatusWriter::new(client.clone(), &class, &identity.name, source.routes());
        tokio::spawn(writer.run(self.reports.subscribe(), self.standing.subscribe()));
        tokio::spawn(count_turns(self.metrics.clone(), self.standing.subscribe()));
        let Self { standing, stop, .. } = &self;
        let replicas = Replicas::new(client, identity, names, standing.clone());
        tokio::spawn(replicas.run(self.reports.subscribe(), stop.clone()));
        drop(started.send(Ok(Arc::new(Vec::new))));
        source.synced().await;
        self.rebuild(source).await;
    }

    async fn watch_directory(self, path: std::path::PathBuf, started: Started) {
        let opened = DirectorySource::open(&path, self.changes.clone());
        match opened.with_context(|| format!("--manifests {}", path.display())) {
            Ok(source) => {
                let problems = source.clone();
                let problems = move || problems.problems().iter().map(ToString::to_string).collect();
                drop(started.send(Ok(Arc::new(problems))));
                self.rebuild(source).await;
            }
            Err(error) => drop(started.send(Err(error))),
        }
    }

    async fn rebuild(self, source: impl Source) {
        let Self { settings, table, metrics, reports, changes, standing, stop: _ } = self;
        // It is left to the task that takes part, if there is one: nobody waits for more.
        drop(standing);
        let reported = reports.subscribe();
        let rebuild = Rebuild::new(source, changes, settings, table, reports);
        rebuild.run(|build| count(&metrics, &reported, build)).await;
    }
}

fn count(metrics: &Metrics, reports: &watch::Receiver<Report>, build: Build) {
    let Build { published, generation, routes, duration, since_change } = build;
    metrics.table_built(duration);
    if !published {
        return;
    }
    metrics.table_published(generation, routes);
    if let Some(since_change) = since_change {
        metrics.config_to_table(since_change);
    }
    let report = reports.borrow();
    let known: HashSet<_> = report.verdicts.iter().map(|verdict| &verdict.route).collect();
    metrics.retain_routes(|route| known.contains(route));
}

async fn count_turns(metrics: Arc<Metrics>, mut standing: watch::Receiver<Standing>) {
    while standing.changed().await.is_ok() {
        metrics.lease_holder(standing.borrow_and_update().role.is_holder());
    }
    metrics.lease_holder(false);
}
