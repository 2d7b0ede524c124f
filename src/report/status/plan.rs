//! Plans status writes: what to write, and when. Pure: times are passed in.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use tokio::time::Instant;

use crate::{
    api::{ConditionType, RouteObject},
    compile::VerdictCondition,
    source::backoff::{Backoff, Delays},
};

/// Minor changes are written at most this often per route: pods come and go, and each write costs the API server and
/// everyone who watches routes.
const SMALL_INTERVAL: Duration = Duration::from_secs(10);
/// The delays before retries of failed writes.
pub(super) const RETRIES: Delays = Delays::doubling(Duration::from_millis(250), LONGEST_RETRY);
/// The delays between writes of the same content.
const CONTESTED: Delays = Delays::doubling(Duration::from_millis(500), LONGEST_RETRY);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Repeating a write sooner than this after it means that another writer is active.
const CONTEST: Duration = Duration::from_secs(60);
/// The API's limit.
const LONGEST_MESSAGE: usize = 32_768;

const OURS: [ConditionType; 5] = [
    ConditionType::Accepted,
    ConditionType::PartiallyInvalid,
    ConditionType::ResolvedRefs,
    ConditionType::BackendsReady,
    ConditionType::Programmed,
];

/// Plans status writes for a class.
#[derive(Clone, Debug)]
pub(super) struct StatusPlanner {
    /// The class whose routes are written.
    pub(super) class: String,
    /// The field manager.
    pub(super) manager: String,
}

/// The current moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For intervals.
    pub(super) instant: Instant,
    /// For timestamps.
    pub(super) time: Timestamp,
}

/// The desired status of a route.
#[derive(Clone, Debug)]
pub(super) struct Opinion {
    /// The generation of the spec that was judged; 0 if there is none.
    pub(super) generation: i64,
    /// The conditions.
    pub(super) conditions: Vec<VerdictCondition>,
    /// Until when a better one may still come, if it is worth waiting for.
    pub(super) hold_until: Option<Instant>,
}

/// The history of the writes to one route.
#[derive(Debug, Default)]
pub(super) struct WriteHistory {
    written: Option<LastWrite>,
    small_at: Option<Instant>,
    retries: Backoff,
    /// Counts how often in a row the same was written because another writer had changed it, such as a replica of
    /// another version. Each time the next write waits longer, so that two writers who disagree do not write endlessly.
    contested: Backoff,
}

/// The last write, and the API server's response.
#[derive(Debug)]
struct LastWrite {
    wish: Vec<Condition>,
    before: Option<String>,
    after: Option<String>,
    answer: Vec<Condition>,
    at: Instant,
}

/// What to do about a route.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WritePlan {
    /// Its status is up to date, or not ours to write.
    Nothing,
    /// Write this; it removes nothing that we own.
    Write(Vec<Condition>),
    /// Check again at this time.
    Later(Instant),
}

impl StatusPlanner {
    /// A planner for a class.
    pub(super) fn new(class: &str) -> Self {
        Self { class: class.to_owned(), manager: format!("switchyard/{class}") }
    }

    /// What to do about a route, given the newest opinion of it.
    pub(super) fn plan(
        &self,
        route: &RouteObject,
        opinion: Option<&Opinion>,
        memory: &WriteHistory,
        now: Now,
    ) -> WritePlan {
        let Some(wish) = self.wish(route, opinion, memory, now) else { return WritePlan::Nothing };
        let stored = memory.stored(route);
        let differing = differing(&wish, stored);
        let released = wish.is_empty() && !memory.is_ahead_of(route);
        if differing.is_empty() && !released || memory.was_in_vain(&wish, route) {
            return WritePlan::Nothing;
        }
        let is_small = !differing.is_empty() && differing.iter().all(|type_| is_small(*type_, &wish, stored));
        let held = opinion.and_then(|opinion| opinion.hold_until).filter(|at| *at > now.instant);
        match memory.not_before(&wish, is_small, now.instant).max(held) {
            Some(at) => WritePlan::Later(at),
            None => WritePlan::Write(wish),
        }
    }

    /// The conditions that we should write, none for a route that we only have to release. `None` if it is not ours to
    /// write, or not yet: the verdict on its newest spec is still to come.
    fn wish(
        &self,
        route: &RouteObject,
        opinion: Option<&Opinion>,
        memory: &WriteHistory,
        now: Now,
    ) -> Option<Vec<Condition>> {
        let class = route.class_name()?;
        if class != self.class {
            return self.holds(route).then(Vec::new);
        }
        let opinion = opinion?;
        (opinion.generation == route.metadata.generation.unwrap_or_default())
            .then(|| conditions(opinion, memory.stored(route), now.time))
    }

    /// Whether this writer owns fields of the route's status.
    fn holds(&self, route: &RouteObject) -> bool {
        route.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_ref() == Some(&self.manager))
    }
}

impl WriteHistory {
    /// Records a write of `wish` that replaced `before`, and its response.
    pub(super) fn wrote(&mut self, wish: Vec<Condition>, before: &RouteObject, answer: RouteObject, now: Instant) {
        let stored = self.stored(before);
        let mut differing = differing(&wish, stored).into_iter().peekable();
        if differing.peek().is_some() && differing.all(|type_| is_small(type_, &wish, stored)) {
            self.small_at = Some(now);
        }
        if self.was_written_lately(&wish, now) {
            self.contested.failed(CONTESTED, now);
        } else {
            self.contested = Backoff::default();
        }
        self.written = Some(LastWrite {
            wish,
            before: before.metadata.resource_version.clone(),
            after: answer.metadata.resource_version,
            answer: answer.status.conditions,
            at: now,
        });
        self.retries.succeeded();
    }

    /// Records a failed write; returns whether it is the first failure in a row.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.retries.failed(RETRIES, now);
        self.retries.failures() == 1
    }

    /// The conditions that the API server has, as far as we know: its last response may be newer than the watch.
    pub(super) fn stored<'a>(&'a self, route: &'a RouteObject) -> &'a [Condition] {
        match &self.written {
            Some(written) if self.is_ahead_of(route) => &written.answer,
            _ => &route.status.conditions,
        }
    }

    /// Whether the watch has not reported our last write yet.
    fn is_ahead_of(&self, route: &RouteObject) -> bool {
        self.written.as_ref().is_some_and(|written| written.before == route.metadata.resource_version)
    }

    /// Whether the route is the API server's result of the very same write: another manager owns the difference.
    fn was_in_vain(&self, wish: &[Condition], route: &RouteObject) -> bool {
        self.written.as_ref().is_some_and(|written| {
            let unchanged = written.after == route.metadata.resource_version || self.is_ahead_of(route);
            say_same(wish, &written.wish) && unchanged
        })
    }

    fn was_written_lately(&self, wish: &[Condition], now: Instant) -> bool {
        self.written.as_ref().is_some_and(|written| say_same(wish, &written.wish) && now < written.at + CONTEST)
    }

    /// The time before which nothing may be written, if it is in the future.
    fn not_before(&self, wish: &[Condition], is_small: bool, now: Instant) -> Option<Instant> {
        let small = self.small_at.filter(|_| is_small).map(|at| at + SMALL_INTERVAL);
        let contested = self.contested.until().filter(|_| self.was_written_lately(wish, now));
        small.max(contested).max(self.retries.until()).filter(|at| *at > now)
    }
}

/// The conditions of an opinion. If the status is unchanged, the stored transition time is kept.
fn conditions(opinion: &Opinion, stored: &[Condition], now: Timestamp) -> Vec<Condition> {
    let generation = (opinion.generation > 0).then_some(opinion.generation);
    opinion.conditions.iter().map(|condition| written(condition, generation, stored, now)).collect()
}

fn written(condition: &VerdictCondition, generation: Option<i64>, stored: &[Condition], now: Timestamp) -> Condition {
    let VerdictCondition { type_, status, reason, message } = condition;
    let status = if *status { "True" } else { "False" };
    let before = find(stored, *type_).filter(|before| before.status == status);
    // The API has no fractions of a second: with them, the desired conditions would never equal the stored ones.
    let now = || Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    Condition {
        type_: type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: shortened(message),
        observed_generation: generation,
        last_transition_time: before.map_or_else(now, |before| before.last_transition_time.clone()),
    }
}

fn shortened(message: &str) -> String {
    let end = (0..=LONGEST_MESSAGE.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message[..end.unwrap_or_default()].to_owned()
}

/// The conditions in `after` whose status or reason has changed.
pub(super) fn turns<'a>(
    before: &'a [Condition],
    after: &'a [Condition],
) -> impl Iterator<Item = (ConditionType, Option<&'a Condition>)> {
    OURS.into_iter().filter_map(|type_| {
        let (before, after) = (find(before, type_), find(after, type_));
        let outcome = |found: Option<&'a Condition>| found.map(|found| (&found.status, &found.reason));
        (outcome(before) != outcome(after)).then_some((type_, after))
    })
}

/// Our condition types that differ between the two lists, or are in only one of them.
fn differing(wish: &[Condition], stored: &[Condition]) -> Vec<ConditionType> {
    let differs = |type_: &ConditionType| match (find(wish, *type_), find(stored, *type_)) {
        (Some(wish), Some(stored)) => !says_same(wish, stored),
        (None, None) => false,
        _ => true,
    };
    OURS.into_iter().filter(differs).collect()
}

/// Whether the change of a condition can wait: readiness of backends, or which replicas are late.
fn is_small(type_: ConditionType, wish: &[Condition], stored: &[Condition]) -> bool {
    match type_ {
        ConditionType::BackendsReady => true,
        ConditionType::Programmed => find(wish, type_).zip(find(stored, type_)).is_some_and(|(wish, stored)| {
            let outcome = |of: &Condition| (of.status.clone(), of.reason.clone(), of.observed_generation);
            outcome(wish) == outcome(stored)
        }),
        _ => false,
    }
}

pub(super) fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

fn say_same(one: &[Condition], other: &[Condition]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| says_same(one, other))
}

/// Whether two conditions are equal, except for their transition times.
fn says_same(one: &Condition, other: &Condition) -> bool {
    let Condition { type_, status, reason, message, observed_generation, last_transition_time: _ } = one;
    *type_ == other.type_
        && *status == other.status
        && *reason == other.reason
        && *message == other.message
        && *observed_generation == other.observed_generation
}

#[cfg(test)]
mod tests;
