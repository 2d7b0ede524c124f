//! The control thread: watching, compiling and dropping old tables stay away from the threads that serve, whose
//! latencies a build would ruin.

use std::{collections::HashSet, sync::Arc};

use anyhow::{Context, anyhow};
use tokio::sync::{oneshot, watch};

use super::Objects;
use crate::{
    compile::Settings,
    observe::{FileProblems, Metrics},
    source::{self, Build, Changes, DirectorySource, KubernetesSource, Rebuild, Report, Source, StatusWriter},
    table::CurrentTable,
};

/// What the rest of the process sees of the control thread.
pub(super) struct Control {
    /// What is wrong with the files that objects come from.
    pub(super) file_problems: FileProblems,
    /// Resolves should the thread ever end.
    pub(super) ended: oneshot::Receiver<()>,
}

/// Why the process stops although nobody told it to.
pub(super) fn ended(_: Result<(), oneshot::error::RecvError>) -> anyhow::Error {
    anyhow!("the control thread ended unexpectedly; its last words are in the log")
}

/// What the control thread works with.
struct Work {
    settings: Settings,
    table: Arc<CurrentTable>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<Report>,
    changes: Changes,
}

/// Starts the control thread, and waits until it knows where its objects are to come from.
pub(super) async fn start(
    objects: Objects,
    settings: Settings,
    table: &Arc<CurrentTable>,
    metrics: &Arc<Metrics>,
    reports: watch::Sender<Report>,
) -> anyhow::Result<Control> {
    let work = Work { settings, table: table.clone(), metrics: metrics.clone(), reports, changes: Changes::default() };
    let (started, starting) = oneshot::channel();
    let (running, ended) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        // Dropped when the thread ends, by whatever cause.
        let _running = running;
        runtime.block_on(work.run(objects, started));
    })?;
    let file_problems = starting.await.map_err(|_| anyhow!("the control thread could not start"))??;
    Ok(Control { file_problems, ended })
}

type Started = oneshot::Sender<anyhow::Result<FileProblems>>;

impl Work {
    async fn run(self, objects: Objects, started: Started) {
        match objects {
            Objects::Cluster => self.watch_cluster(started).await,
            Objects::Directory(path) => self.watch_directory(path, started).await,
        }
    }

    async fn watch_cluster(self, started: Started) {
        let client = match source::connect().await {
            Ok(client) => client,
            Err(error) => return drop(started.send(Err(error.into()))),
        };
        let source = KubernetesSource::start(&client, &self.changes);
        let writer = StatusWriter::new(client, &self.settings.class, source.routes());
        tokio::spawn(writer.run(self.reports.subscribe()));
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
        let Self { settings, table, metrics, reports, changes } = self;
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
