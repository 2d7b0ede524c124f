//! Writes the conditions in the status of routes.
//!
//! Verdicts come from the rebuild loop and the stored status from the routes' watch; only differences are written, so
//! our own writes cannot loop. The API server never delays the rebuild loop.

mod events;
mod plan;
mod programmed;
mod write;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::Client;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tracing::{debug, info, warn};

pub use self::programmed::programmed_here;
use self::{
    events::Events,
    plan::{Now, Opinion, RETRIES, StatusPlanner, WriteHistory, WritePlan},
    programmed::Needs,
    write::{Write, WriteOutcome, is_about_one_route},
};
use super::{ReplicaStanding, Role, until};
use crate::{
    api::RouteObject,
    compile::{Verdict, object_name},
    source::{Report, StoredRoutes, backoff::Backoff, complaint::Complaint, failure::ApiFailure},
    table::ObjectName,
};

/// The number of concurrent writes.
const WRITES_AT_ONCE: usize = 8;
/// The minimum time between two scans of all routes: our own writes come back as events, hundreds at a time after
/// startup. Writes continue in the meantime.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The next scan waits this many times the duration of the last one: with very many routes, scans use at most a fifth
/// of a processor.
const REST_PER_LOOK: u32 = 4;
/// The longest such wait: a scan may seem long because the whole machine was stalled.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// A write without a response after this time has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last write of a replica that could not renew its Lease may take; the Lease is valid for longer.
const LAST_WRITE: Duration = Duration::from_secs(3);

/// Writes the status of a class's routes, if this replica is the elected one.
pub struct StatusWriter {
    client: Client,
    writer: Arc<StatusPlanner>,
    routes: StoredRoutes,
    events: Events,
    verdicts: Arc<[Verdict]>,
    needs: Needs,
    standing: ReplicaStanding,
    memories: HashMap<ObjectName, WriteHistory>,
    /// The history of all other routes.
    unwritten: WriteHistory,
    /// The writes that the last scan found.
    queue: VecDeque<Write>,
    /// Whether the verdicts or the replicas have changed since that scan.
    is_outdated: bool,
    /// The routes that are being written, and whether a scan has passed over them.
    busy: HashMap<ObjectName, bool>,
    writes: JoinSet<WriteOutcome>,
    /// Failures of any writes that were the API server's fault.
    backoff: Backoff,
    complaint: Complaint,
}

impl StatusWriter {
    /// A writer for the routes of a class; the field manager is `switchyard/<class>`. Events name the replica.
    #[must_use]
    pub fn new(client: Client, class: &str, replica: &str, routes: StoredRoutes) -> Self {
        Self {
            events: Events::start(client.clone(), class, replica),
            client,
            writer: Arc::new(StatusPlanner::new(class)),
            routes,
            verdicts: Arc::default(),
            needs: Needs::default(),
            standing: ReplicaStanding::default(),
            memories: HashMap::new(),
            unwritten: WriteHistory::default(),
            queue: VecDeque::new(),
            is_outdated: false,
            busy: HashMap::new(),
            writes: JoinSet::new(),
            backoff: Backoff::default(),
            complaint: Complaint::default(),
        }
    }

    /// Writes until the sender of the reports is dropped.
    pub async fn run(mut self, mut reports: watch::Receiver<Report>, mut standings: watch::Receiver<ReplicaStanding>) {
        // Before the first build there are no verdicts, so there is nothing to write.
        while reports.changed().await.is_ok() {
            if reports.borrow_and_update().generation > 0 {
                break;
            }
        }
        self.receive(&reports.borrow_and_update());
        self.join(&standings.borrow_and_update());
        loop {
            let began = Instant::now();
            let next = self.look();
            let soon = Instant::now() + rest_after(began.elapsed());
            if self.work(&mut reports, &mut standings, next, soon).await.is_none() {
                return;
            }
        }
    }

    /// Takes the result of the last build.
    fn receive(&mut self, report: &Report) {
        if !Arc::ptr_eq(&self.verdicts, &report.verdicts) {
            self.needs.note(report, Instant::now());
            self.verdicts = report.verdicts.clone();
            self.is_outdated = true;
        }
    }

    /// Takes what this replica may do, and the other replicas.
    fn join(&mut self, standing: &ReplicaStanding) {
        self.standing = standing.clone();
        self.is_outdated = true;
    }

    /// Plans the writes of all routes, except for those that are being written; returns when to scan again if nothing
    /// happens until then. Followers plan none.
    fn look(&mut self) -> Option<Instant> {
        self.queue.clear();
        self.is_outdated = false;
        if self.standing.role == Role::Follower {
            return None;
        }
        let now = now();
        let mut next = None;
        let mut names = HashSet::new();
        for route in self.routes.objects() {
            let name = object_name(&route.metadata);
            names.insert(name.clone());
            if let Some(is_passed_over) = self.busy.get_mut(&name) {
                *is_passed_over = true;
                continue;
            }
            match self.plan(&name, &route, now) {
                WritePlan::Write(wish) => self.queue.push_back(Write { name, before: route, wish }),
                WritePlan::Later(at) => next = next.into_iter().chain([at]).min(),
                WritePlan::Nothing => {}
            }
        }
        self.memories.retain(|name, _| names.contains(name));
        next
    }

    fn plan(&self, name: &ObjectName, route: &RouteObject, now: Now) -> WritePlan {
        let position = self.verdicts.binary_search_by(|verdict| verdict.route.cmp(name));
        let verdict = position.ok().map(|position| &self.verdicts[position]);
        let memory = self.memory(name);
        let opinion = verdict.map(|verdict| self.opinion(verdict, memory.stored(route)));
        self.writer.plan(route, opinion.as_ref(), memory, now)
    }

    fn memory(&self, name: &ObjectName) -> &WriteHistory {
        self.memories.get(name).unwrap_or(&self.unwritten)
    }

    fn opinion(&self, verdict: &Verdict, stored: &[Condition]) -> Opinion {
        let (programmed, hold_until) = self.needs.condition(verdict, stored, &self.standing);
        let conditions = verdict.conditions.iter().cloned().chain([programmed]).collect();
        Opinion { generation: verdict.generation, conditions, hold_until }
    }

    /// Writes the queue until it is time to scan all routes again: at `next`, or after any news, which the writes take
    /// into account at once; but never before `soon`. `None` if there will be no more news.
    async fn work(
        &mut self,
        reports: &mut watch::Receiver<Report>,
        standings: &mut watch::Receiver<ReplicaStanding>,
        next: Option<Instant>,
        soon: Instant,
    ) -> Option<()> {
        let mut next = next.map(|next| next.max(soon));
        while next.is_none_or(|next| Instant::now() < next) {
            let rest_until = self.backoff.until().filter(|rest| *rest > Instant::now());
            if rest_until.is_none() {
                self.start_writes();
            }
            let is_news = tokio::select! {
                changed = reports.changed() => {
                    changed.ok()?;
                    self.receive(&reports.borrow_and_update());
                    true
                }
                Ok(()) = standings.changed() => {
                    self.join(&standings.borrow_and_update());
                    true
                }
                () = self.routes.changed() => true,
                Some(outcome) = self.writes.join_next() => {
                    !self.note(outcome.expect("a write does not panic and is never cancelled"))
                }
                () = until(rest_until) => false,
                () = until(next) => false,
            };
            if is_news {
                next = next.into_iter().chain([soon]).min();
            }
        }
        Some(())
    }

    /// Starts as many writes as allowed.
    fn start_writes(&mut self) {
        while self.standing.role.may_write(Instant::now())
            && self.writes.len() < WRITES_AT_ONCE
            && let Some(write) = self.queue.pop_front()
        {
            let Some(write) = self.updated(write) else { continue };
            self.busy.insert(write.name.clone(), false);
            let stored = self.memory(&write.name).stored(&write.before).to_vec();
            let (client, writer, give_up_at) = (self.client.clone(), self.writer.clone(), self.give_up_at());
            self.writes.spawn(write.carry_out(client, writer, stored, give_up_at));
        }
    }

    /// A write from the queue, planned again if the reason for it may be outdated.
    fn updated(&self, write: Write) -> Option<Write> {
        let route = self.routes.object(&write.name)?;
        if !self.is_outdated && Arc::ptr_eq(&route, &write.before) {
            return Some(write);
        }
        match self.plan(&write.name, &route, now()) {
            WritePlan::Write(wish) => Some(Write { wish, before: route, ..write }),
            WritePlan::Later(_) | WritePlan::Nothing => None,
        }
    }

    /// When a write that starts now has failed without a response: before another replica may write.
    fn give_up_at(&self) -> Instant {
        let limit = Instant::now() + WRITE_TIMEOUT;
        match self.standing.role {
            Role::Holder { until } => limit.min(until + LAST_WRITE),
            Role::Follower | Role::Barred { .. } => limit,
        }
    }

    /// Records the result of a write; returns whether the queue still holds everything that must be written.
    fn note(&mut self, outcome: WriteOutcome) -> bool {
        let WriteOutcome { write, stored, answer } = outcome;
        let is_passed_over = self.busy.remove(&write.name).unwrap_or_default();
        match answer {
            Ok(answer) => {
                self.wrote(write, &stored, answer);
                !is_passed_over
            }
            // It was deleted in the meantime, and its status with it.
            Err(failure) if is_about_one_route(&failure) && self.routes.object(&write.name).is_none() => true,
            Err(failure) => {
                self.failed(write.name, &failure);
                false
            }
        }
    }

    fn wrote(&mut self, write: Write, stored: &[Condition], answer: RouteObject) {
        let Write { name, before, wish } = write;
        debug!(route = %name, conditions = wish.len(), "wrote the status");
        // After we released a route, another class may have written already: then no condition is gone.
        self.events.publish(&answer, stored, &answer.status.conditions);
        self.memories.entry(name).or_default().wrote(wish, &before, answer, Instant::now());
        self.backoff.succeeded();
        if self.complaint.settle() {
            info!("status writes resumed");
        }
    }

    fn failed(&mut self, name: ObjectName, failure: &ApiFailure) {
        let cause = &failure.cause;
        let route = name.to_string();
        let is_first = self.memories.entry(name).or_default().failed(Instant::now());
        if is_about_one_route(failure) {
            if is_first {
                warn!(route, cause, "cannot write the status of a route; retrying");
            }
            return;
        }
        self.backoff.failed(RETRIES, Instant::now());
        if self.complaint.raise(&failure.key()) {
            warn!(cause, "cannot write the status of routes; retrying; routing is not affected");
        } else {
            debug!(route, cause, "status writes still failing");
        }
    }
}

/// The time between a scan of this duration and the next one.
fn rest_after(look: Duration) -> Duration {
    look.saturating_mul(REST_PER_LOOK).clamp(LOOK_INTERVAL, LONGEST_REST)
}

fn now() -> Now {
    Now { instant: Instant::now(), time: Timestamp::now() }
}

#[cfg(test)]
mod tests;
