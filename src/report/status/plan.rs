//! What to write of a route's status, and when. Pure: times are arguments.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use tokio::time::Instant;

use crate::{
    api::{ConditionType, RouteObject},
    compile::VerdictCondition,
};

/// Nothing but small changes is written at most this often for a route: pods come and go, and each write is one for
/// the API server and for everybody who watches routes.
const SMALL_INTERVAL: Duration = Duration::from_secs(10);
/// A write that failed is tried again after this long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest time between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A write of what was written before, sooner after it than this, means that somebody else writes as well.
const CONTEST: Duration = Duration::from_secs(60);
/// What the API allows.
const LONGEST_MESSAGE: usize = 32_768;

const OURS: [ConditionType; 5] = [
    ConditionType::Accepted,
    ConditionType::PartiallyInvalid,
    ConditionType::ResolvedRefs,
    ConditionType::BackendsReady,
    ConditionType::Programmed,
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

/// What a route should say.
#[derive(Clone, Debug)]
pub(super) struct Opinion {
    /// The generation of the spec that was judged; 0 where there is none.
    pub(super) generation: i64,
    /// The conditions.
    pub(super) conditions: Vec<VerdictCondition>,
    /// When it will not differ for the better any more, if that is to be waited for.
    pub(super) hold_until: Option<Instant>,
}

/// What is remembered of the writes to one route.
#[derive(Debug, Default)]
pub(super) struct Memory {
    written: Option<Written>,
    small_at: Option<Instant>,
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

    /// What to do about a route, given the newest opinion of it.
    pub(super) fn plan(&self, route: &RouteObject, opinion: Option<&Opinion>, memory: &Memory, now: Now) -> Plan {
        let Some(wish) = self.wish(route, opinion, memory, now) else { return Plan::Nothing };
        let stored = memory.stored(route);
        let differing = differing(&wish, stored);
        let released = wish.is_empty() && !memory.is_ahead_of(route);
        if differing.is_empty() && !released || memory.was_in_vain(&wish, route) {
            return Plan::Nothing;
        }
        let is_small = !differing.is_empty() && differing.iter().all(|type_| is_small(*type_, &wish, stored));
        let held = opinion.and_then(|opinion| opinion.hold_until).filter(|at| *at > now.instant);
        match memory.not_before(&wish, is_small, now.instant).max(held) {
            Some(at) => Plan::Later(at),
            None => Plan::Write(wish),
        }
    }

    /// The conditions that a route should have of us, none for one that we only have to let go. Nothing where it is
    /// not ours to write, or not yet: the opinion of its newest spec is on its way.
    fn wish(
        &self,
        route: &RouteObject,
        opinion: Option<&Opinion>,
        memory: &Memory,
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

    /// Whether fields of the route's status belong to this writer.
    fn holds(&self, route: &RouteObject) -> bool {
        route.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_ref() == Some(&self.manager))
    }
}

impl Memory {
    /// Notes a write of `wish` that replaced `before`, and its answer.
    pub(super) fn wrote(&mut self, wish: Vec<Condition>, before: &RouteObject, answer: RouteObject, now: Instant) {
        let stored = self.stored(before);
        let mut differing = differing(&wish, stored).into_iter().peekable();
        if differing.peek().is_some() && differing.all(|type_| is_small(type_, &wish, stored)) {
            self.small_at = Some(now);
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
    pub(super) fn stored<'a>(&'a self, route: &'a RouteObject) -> &'a [Condition] {
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
    fn not_before(&self, wish: &[Condition], is_small: bool, now: Instant) -> Option<Instant> {
        let small = self.small_at.filter(|_| is_small).map(|at| at + SMALL_INTERVAL);
        let contested = self.written.as_ref().filter(|_| self.contested > 0 && self.was_written_lately(wish, now));
        let contested = contested.map(|written| written.at + retry_after(self.contested));
        small.into_iter().chain(self.retry_at).chain(contested).max().filter(|at| *at > now)
    }
}

/// How long to wait after so many failures before the one that has just happened.
pub(super) fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LONGEST_RETRY)
}

/// The conditions of an opinion. The time of one whose status is the stored one's is taken over from there.
fn conditions(opinion: &Opinion, stored: &[Condition], now: Timestamp) -> Vec<Condition> {
    let generation = (opinion.generation > 0).then_some(opinion.generation);
    opinion.conditions.iter().map(|condition| written(condition, generation, stored, now)).collect()
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

/// What a condition of a type has become in `after`, where it is another outcome than before.
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

/// Our types of condition that say something else in the two lists, or are in one of them only.
fn differing(wish: &[Condition], stored: &[Condition]) -> Vec<ConditionType> {
    let differs = |type_: &ConditionType| match (find(wish, *type_), find(stored, *type_)) {
        (Some(wish), Some(stored)) => !says_same(wish, stored),
        (None, None) => false,
        _ => true,
    };
    OURS.into_iter().filter(differs).collect()
}

/// Whether what is new about a condition can wait: that backends are ready or not, or which replicas are late.
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
