//! The control thread: watching, compiling and dropping old tables are kept off the serving threads, whose latency a
//! build would ruin.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tracing::warn;

use super::ObjectSource;
use crate::{
    admin::FileProblems,
    metrics::Metrics,
    proxy::Tunnels,
    report::{Identity, Names, ReplicaStanding, Replicas, StatusWriter},
    source::{self, BuildStats, Changes, CurrentSettings, DirectorySource, KubernetesSource, Rebuild, Report, Source},
    table::{CurrentTable, TableChange},
};

/// How long a ready replica waits until the others know it.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(2);
/// How long a stopped one waits until it has handed everything over.
const RESIGNED_WITHIN: Duration = Duration::from_secs(3);

/// The rest of the process's view of the control thread.
pub(super) struct ControlThread {
    /// The problems of the files that objects come from.
    pub(super) file_problems: FileProblems,
    /// Resolves if the thread ever ends.
    pub(super) ended: oneshot::Receiver<()>,
    /// The standing of this replica among the others. Its sender is dropped once everything is handed over, or at once
    /// if there are no others.
    standing: watch::Receiver<ReplicaStanding>,
    stop: watch::Sender<bool>,
}

impl ControlThread {
    /// Waits until the other replicas know this one, so that no route is reported as programmed without it. Not for
    /// long, because it serves in any case.
    pub(super) async fn announced(&mut self) {
        let announced = self.standing.wait_for(|standing| standing.announced);
        if timeout(ANNOUNCED_WITHIN, announced).await.is_err() {
            warn!(
                "ready, but not announced to the other replicas yet; routes may be reported Programmed without this one"
            );
        }
    }

    /// Hands over this replica's roles; it continues to serve.
    pub(super) fn resign(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end of the hand-over.
    pub(super) async fn resigned(&mut self) {
        let resigned = async { while self.standing.changed().await.is_ok() {} };
        if timeout(RESIGNED_WITHIN, resigned).await.is_err() {
            warn!("could not release the Leases of this replica; they will expire");
        }
    }
}

/// The error for a process that stops without a signal.
pub(super) fn ended(_: Result<(), oneshot::error::RecvError>) -> anyhow::Error {
    anyhow!("the control thread ended unexpectedly; see the log for the cause")
}

/// What the control thread shares with the threads that serve.
pub(super) struct Served {
    pub(super) table: Arc<CurrentTable>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tunnels: Arc<Tunnels>,
}

/// The resources of the control thread.
struct Work {
    settings: CurrentSettings,
    served: Served,
    reports: watch::Sender<Report>,
    changes: Changes,
    standing: watch::Sender<ReplicaStanding>,
    stop: watch::Receiver<bool>,
}

/// Starts the control thread, and waits until its source of objects is known.
pub(super) async fn start(
    objects: ObjectSource,
    settings: CurrentSettings,
    changes: Changes,
    served: Served,
    reports: watch::Sender<Report>,
) -> anyhow::Result<ControlThread> {
    let (told, standing) = watch::channel(ReplicaStanding::default());
    let (stop, stopping) = watch::channel(false);
    let work = Work { settings, served, reports, changes, standing: told, stop: stopping };
    let (started, starting) = oneshot::channel();
    let (running, ended) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        // Dropped when the thread ends, for any reason.
        let _running = running;
        runtime.block_on(work.run(objects, started));
    })?;
    let file_problems = starting.await.map_err(|_| anyhow!("the control thread could not start"))??;
    Ok(ControlThread { file_problems, ended, standing, stop })
}

type StartedSender = oneshot::Sender<anyhow::Result<FileProblems>>;

impl Work {
    async fn run(self, objects: ObjectSource, started: StartedSender) {
        match objects {
            ObjectSource::Cluster { namespaces } => self.watch_cluster(&namespaces, started).await,
            ObjectSource::Directory(path) => self.watch_directory(path, started).await,
        }
    }

    async fn watch_cluster(self, namespaces: &[String], started: StartedSender) {
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
        tokio::spawn(count_turns(self.served.metrics.clone(), self.standing.subscribe()));
        let Self { standing, stop, .. } = &self;
        let replicas = Replicas::new(client, identity, names, standing.clone());
        tokio::spawn(replicas.run(self.reports.subscribe(), stop.clone()));
        drop(started.send(Ok(Arc::new(Vec::new))));
        source.synced().await;
        self.rebuild(source).await;
    }

    async fn watch_directory(self, path: std::path::PathBuf, started: StartedSender) {
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
        let Self { settings, served: Served { table, metrics, tunnels }, reports, changes, standing, stop: _ } = self;
        // The replica task has its own sender, if there is one; otherwise nobody needs to wait.
        drop(standing);
        let rebuild = Rebuild::new(source, changes, settings, table.clone(), reports);
        let observe = |build: BuildStats| {
            count(&metrics, &build);
            if let Some(before) = &build.replaced {
                tunnels.table_changed(|| TableChange::between(before, &table.load()));
            }
        };
        rebuild.run(observe).await;
    }
}

fn count(metrics: &Metrics, build: &BuildStats) {
    metrics.table_built(build.duration);
    if build.replaced.is_none() {
        return;
    }
    metrics.table_published(build.generation, build.routes);
    if let Some(since_change) = build.since_change {
        metrics.config_to_table(since_change);
    }
}

async fn count_turns(metrics: Arc<Metrics>, mut standing: watch::Receiver<ReplicaStanding>) {
    while standing.changed().await.is_ok() {
        metrics.lease_holder(standing.borrow_and_update().role.is_holder());
    }
    metrics.lease_holder(false);
}
