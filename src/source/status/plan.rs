//! What to write of a route's status, and when. Pure: times are arguments.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use tokio::time::Instant;

use crate::{
    api::{ConditionType, RouteObject},
    compile::{Verdict, VerdictCondition},
};

/// A change of `BackendsReady` alone is written at most this often for a route: pods come and go, and each write is
/// one for the API server and for everybody who watches routes.
const READINESS_INTERVAL: Duration = Duration::from_secs(10);
/// A write that failed is tried again after this long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest time between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A write of what was written before, sooner after it than this, means that somebody else writes as well.
const CONTEST: Duration = Duration::from_secs(60);
/// What the API allows.
const LONGEST_MESSAGE: usize = 32_768;

const OURS: [ConditionType; 4] = [
    ConditionType::Accepted,
    ConditionType::PartiallyInvalid,
    ConditionType::ResolvedRefs,
    ConditionType::BackendsReady,
];

/// Who writes.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    /// The class whose routes are written.
    pub(super) class: String,
    /// The field manager.
    pub(super) manager: String,
}

/// The moment of a look, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// For intervals.
    pub(super) instant: Instant,
    /// For people.
    pub(super) time: Timestamp,
}

/// What is remembered of the writes to one route.
#[derive(Debug, Default)]
pub(super) struct Memory {
    written: Option<Written>,
    readiness_at: Option<Instant>,
    failures: u32,
    retry_at: Option<Instant>,
    /// How often in a row the same was written, because somebody had written something else: a replica of another
    /// version, say. Each time the next write waits longer, so that two who differ do not write without end.
    contested: u32,
}

/// The last write, and what the API server made of it.
#[derive(Debug)]
struct Written {
    wish: Vec<Condition>,
    before: Option<String>,
    after: Option<String>,
    answer: Vec<Condition>,
    at: Instant,
}

/// What to do about a route.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plan {
    /// Its status is as it should be, or not our business.
    Nothing,
    /// Write this; nothing in it removes what we hold.
    Write(Vec<Condition>),
    /// Look again then.
    Later(Instant),
}

impl Writer {
    /// A writer for a class.
    pub(super) fn new(class: &str) -> Self {
        Self { class: class.to_owned(), manager: format!("switchyard/{class}") }
    }

    /// What to do about a route, given the newest verdict on it.
    pub(super) fn plan(&self, route: &RouteObject, verdict: Option<&Verdict>, memory: &Memory, now: Now) -> Plan {
        let Some(wish) = self.wish(route, verdict, memory, now) else { return Plan::Nothing };
        let differing = differing(&wish, memory.stored(route));
        let released = wish.is_empty() && !memory.is_ahead_of(route);
        if differing.is_empty() && !released || memory.was_in_vain(&wish, route) {
            return Plan::Nothing;
        }
        match memory.not_before(&wish, &differing, now.instant) {
            Some(at) => Plan::Later(at),
            None => Plan::Write(wish),
        }
    }

    /// The conditions that a route should have of us, none for one that we only have to let go. Nothing where it is
    /// not ours to write, or not yet: the verdict on its newest spec is on its way.
    fn wish(
        &self,
        route: &RouteObject,
        verdict: Option<&Verdict>,
        memory: &Memory,
        now: Now,
    ) -> Option<Vec<Condition>> {
        let class = route.class_name()?;
        if class != self.class {
            return self.holds(route).then(Vec::new);
        }
        let verdict = verdict?;
        (verdict.generation == route.metadata.generation.unwrap_or_default())
            .then(|| conditions(verdict, memory.stored(route), now.time))
    }

    /// Whether fields of the route's status belong to this writer.
    fn holds(&self, route: &RouteObject) -> bool {
        route.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_ref() == Some(&self.manager))
    }
}

impl Memory {
    /// Notes a write of `wish` that replaced `before`, and its answer.
    pub(super) fn wrote(&mut self, wish: Vec<Condition>, before: &RouteObject, answer: RouteObject, now: Instant) {
        if differing(&wish, self.stored(before)) == [ConditionType::BackendsReady] {
            self.readiness_at = Some(now);
        }
        self.contested = if self.was_written_lately(&wish, now) { self.contested + 1 } else { 0 };
        self.written = Some(Written {
            wish,
            before: before.metadata.resource_version.clone(),
            after: answer.metadata.resource_version,
            answer: answer.status.conditions,
            at: now,
        });
        self.failures = 0;
        self.retry_at = None;
    }

    /// Notes that a write failed; tells whether it is the first one to do so.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.retry_at = Some(now + retry_after(self.failures));
        self.failures += 1;
        self.failures == 1
    }

    /// The conditions that the API server holds, as far as we know: its answer may be ahead of the watch.
    fn stored<'a>(&'a self, route: &'a RouteObject) -> &'a [Condition] {
        match &self.written {
            Some(written) if self.is_ahead_of(route) => &written.answer,
            _ => &route.status.conditions,
        }
    }

    /// Whether the watch has not yet told of our last write.
    fn is_ahead_of(&self, route: &RouteObject) -> bool {
        self.written.as_ref().is_some_and(|written| written.before == route.metadata.resource_version)
    }

    /// Whether the route is what the API server made of the very same wish: somebody else holds what differs.
    fn was_in_vain(&self, wish: &[Condition], route: &RouteObject) -> bool {
        self.written.as_ref().is_some_and(|written| {
            let unchanged = written.after == route.metadata.resource_version || self.is_ahead_of(route);
            say_same(wish, &written.wish) && unchanged
        })
    }

    fn was_written_lately(&self, wish: &[Condition], now: Instant) -> bool {
        self.written.as_ref().is_some_and(|written| say_same(wish, &written.wish) && now < written.at + CONTEST)
    }

    /// The time before which nothing is written, if that is not over.
    fn not_before(&self, wish: &[Condition], differing: &[ConditionType], now: Instant) -> Option<Instant> {
        let readiness = self.readiness_at.filter(|_| differing == [ConditionType::BackendsReady]);
        let readiness = readiness.map(|at| at + READINESS_INTERVAL);
        let contested = self.written.as_ref().filter(|_| self.contested > 0 && self.was_written_lately(wish, now));
        let contested = contested.map(|written| written.at + retry_after(self.contested));
        readiness.into_iter().chain(self.retry_at).chain(contested).max().filter(|at| *at > now)
    }
}

/// How long to wait after so many failures before the one that has just happened.
pub(super) fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LONGEST_RETRY)
}

/// The conditions of a verdict. The time of one whose status is the stored one's is taken over from there.
fn conditions(verdict: &Verdict, stored: &[Condition], now: Timestamp) -> Vec<Condition> {
    let generation = (verdict.generation > 0).then_some(verdict.generation);
    verdict.conditions.iter().map(|condition| written(condition, generation, stored, now)).collect()
}

fn written(condition: &VerdictCondition, generation: Option<i64>, stored: &[Condition], now: Timestamp) -> Condition {
    let VerdictCondition { type_, status, reason, message } = condition;
    let status = if *status { "True" } else { "False" };
    let before = find(stored, *type_).filter(|before| before.status == status);
    // The API has no fractions of a second: with them, what we wish would never equal what is stored.
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

/// Our types of condition that say something else in the two lists, or are in one of them only.
fn differing(wish: &[Condition], stored: &[Condition]) -> Vec<ConditionType> {
    let differs = |type_: &ConditionType| match (find(wish, *type_), find(stored, *type_)) {
        (Some(wish), Some(stored)) => !says_same(wish, stored),
        (None, None) => false,
        _ => true,
    };
    OURS.into_iter().filter(differs).collect()
}

fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

fn say_same(one: &[Condition], other: &[Condition]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| says_same(one, other))
}

/// Whether two conditions say the same, whenever they did so first.
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
