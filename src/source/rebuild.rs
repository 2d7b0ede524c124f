//! The loop that turns objects into tables: wait, view, compile, publish, report.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{Changes, Debounce, Digests, Progress, Report, Source};
use crate::{
    compile::{self, CompileSettings, Compiled, Memory, Problem, Verdict},
    table::{CurrentTable, ObjectName, RouteTable},
};

/// How often replaced tables that were still in use are checked again.
const RETIRED_CHECK: Duration = Duration::from_secs(1);

/// Data about a build.
#[derive(Clone, Debug)]
pub struct BuildStats {
    /// The table that its own has replaced; `None` if it is equal and was not published.
    pub replaced: Option<Arc<RouteTable>>,
    /// The generation of the table that is served after it.
    pub generation: u64,
    /// The routes in it.
    pub routes: usize,
    /// The duration of compiling.
    pub duration: Duration,
    /// From the first change in it to the end; `None` if no change caused the build.
    pub since_change: Option<Duration>,
}

/// The current settings of the administrator.
pub type CurrentSettings = Box<dyn Fn() -> CompileSettings + Send>;

/// The rebuild loop. It is the only writer of tables, and drops the old ones itself, so that no serving thread has to.
pub struct Rebuild<S> {
    source: S,
    changes: Changes,
    settings: CurrentSettings,
    current: Arc<CurrentTable>,
    reports: watch::Sender<Report>,
    memory: Memory,
    debounce: Debounce,
    generation: u64,
    retired: Vec<Arc<RouteTable>>,
    setting_problems: Vec<String>,
    next_look: Option<SystemTime>,
}

impl<S: Source> Rebuild<S> {
    /// A loop over `source`, which touches `changes`, as do changes of the settings; it publishes to `current` and
    /// sends the result of each build to `reports`.
    pub fn new(
        source: S,
        changes: Changes,
        settings: CurrentSettings,
        current: Arc<CurrentTable>,
        reports: watch::Sender<Report>,
    ) -> Self {
        Self {
            source,
            changes,
            settings,
            current,
            reports,
            memory: Memory::default(),
            debounce: Debounce::default(),
            generation: 0,
            retired: Vec::new(),
            setting_problems: Vec::new(),
            next_look: None,
        }
    }

    /// Builds at once and then after each change, for ever; passes each build to `observe`. The source must have seen
    /// all objects before this is called, so that no table is built from an incomplete view.
    pub async fn run(mut self, mut observe: impl FnMut(BuildStats)) {
        loop {
            observe(self.build());
            self.wait().await;
        }
    }

    /// Waits until a build is due.
    async fn wait(&mut self) {
        loop {
            let until_look = self.next_look.map(|look| look.duration_since(SystemTime::now()).unwrap_or_default());
            let until_check = (!self.retired.is_empty()).then_some(RETIRED_CHECK);
            let limit = until_look.into_iter().chain(until_check).min().unwrap_or(Duration::MAX);
            if timeout(limit, self.changes.wait()).await.is_ok() {
                return sleep(self.debounce.wait(Instant::now())).await;
            }
            self.drop_retired();
            if self.next_look.is_some_and(|look| look <= SystemTime::now()) {
                return;
            }
        }
    }

    fn build(&mut self) -> BuildStats {
        let pending = self.changes.take();
        let started = Instant::now();
        let (view, progress) = self.source.look();
        let compiled = compile::compile(&view, &(self.settings)(), &mut self.memory, SystemTime::now());
        let Compiled { table, verdicts, setting_problems, next_look } = compiled;
        self.next_look = next_look;
        let routes = table.routes();
        let replaced = self.publish(table);
        let duration = started.elapsed();
        self.report(setting_problems, verdicts, progress);
        self.debounce.built(Instant::now(), duration);
        let since_change = pending.map(|pending| pending.first.elapsed());
        BuildStats { replaced, generation: self.generation, routes, duration, since_change }
    }

    /// Publishes a table if it differs from the current one. The first one is always published: readiness waits for it.
    fn publish(&mut self, table: RouteTable) -> Option<Arc<RouteTable>> {
        if self.generation > 0 && **self.current.load() == table {
            return None;
        }
        self.generation += 1;
        self.drop_retired();
        let replaced = self.current.publish(Arc::new(table));
        self.retired.push(replaced.clone());
        Some(replaced)
    }

    /// Drops the old tables that are no longer in use.
    fn drop_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }

    fn report(&mut self, setting_problems: Vec<String>, verdicts: Vec<Verdict>, progress: Progress) {
        if setting_problems != self.setting_problems {
            for problem in &setting_problems {
                warn!(problem, "a setting cannot be applied");
            }
            self.setting_problems = setting_problems;
        }
        log_changes(&self.source, &self.reports.borrow().verdicts, &verdicts);
        let digests = Digests::of(&verdicts, &progress.seen);
        let report = Report { generation: self.generation, verdicts: verdicts.into(), progress, digests };
        self.reports.send_replace(report);
    }
}

/// Logs changes in problems and warnings.
fn log_changes(source: &impl Source, before: &[Verdict], now: &[Verdict]) {
    let before: HashMap<&ObjectName, &Verdict> = before.iter().map(|verdict| (&verdict.route, verdict)).collect();
    for verdict in now {
        let (problems, warnings) = match before.get(&verdict.route) {
            Some(before) => (&before.problems[..], &before.warnings[..]),
            None => (&[][..], &[][..]),
        };
        let log = |problem: &Problem| {
            let Problem { path, reason, message } = problem;
            let at = source.place(&verdict.route, path);
            warn!(route = %verdict.route, field = path, at, reason = reason.as_str(), "{message}");
        };
        verdict.problems.iter().filter(|problem| !problems.contains(problem)).for_each(log);
        verdict.warnings.iter().filter(|problem| !warnings.contains(problem)).for_each(log);
        if verdict.problems.is_empty() && !problems.is_empty() {
            info!(route = %verdict.route, "all problems of the route are resolved");
        }
    }
}
