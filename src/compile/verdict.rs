//! Verdicts: the result for each route, as users see it.

use std::{borrow::Cow, sync::Arc};

use crate::{
    api::{ConditionReason, ConditionType},
    table::{HostPattern, ObjectName, Rule},
};

use super::text::printable;

/// A problem with a route. A user's mistake is data: it is reported in a condition, by `check` and in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `spec.rules[0].backendRefs[1].port`.
    pub path: String,
    /// The reason of the condition that reports it.
    pub reason: ConditionReason,
    /// What is wrong and how to fix it; names the objects involved.
    pub message: String,
}

impl Problem {
    /// A problem with a message that is safe to print: the text that it quotes comes from the cluster, and control
    /// characters in it could forge a log line or control a terminal.
    #[must_use]
    pub fn new(path: impl Into<String>, reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { path: printable(path.into()), reason, message: printable(message.into()) }
    }

    /// A value that this version does not support.
    pub(super) fn unsupported(path: impl Into<String>, value: &str) -> Self {
        Self::new(path, ConditionReason::UnsupportedValue, unsupported(value))
    }
}

/// The message about a value that this version does not support.
pub(super) fn unsupported(value: &str) -> String {
    format!("the value {value:?} is not supported by this version")
}

/// A condition without its times, which the writer adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictCondition {
    /// Its type.
    pub type_: ConditionType,
    /// Its status.
    pub status: bool,
    /// Its reason.
    pub reason: ConditionReason,
    /// The reason in words.
    pub message: Cow<'static, str>,
}

/// The result for one route of this class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The route.
    pub route: ObjectName,
    /// Its uid, which distinguishes it from an earlier or later route with the same name; `None` for manifests.
    pub uid: Option<Arc<str>>,
    /// The generation of the compiled spec; 0 for manifests.
    pub generation: i64,
    /// Its conditions, each type at most once, sorted by type.
    pub conditions: Vec<VerdictCondition>,
    /// Its problems.
    pub problems: Vec<Problem>,
    /// Warnings about parts that are still served, such as an expired certificate.
    pub warnings: Vec<Problem>,
    /// The hostnames that it names.
    pub hostnames: Arc<[HostPattern]>,
    /// Its rules as served.
    pub rules: Arc<[Arc<Rule>]>,
}

impl Verdict {
    /// Whether any part of the route is served as claimed.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.condition(ConditionType::Accepted).is_some_and(|accepted| accepted.status)
    }

    /// Its condition of a type, if it has one.
    #[must_use]
    pub fn condition(&self, type_: ConditionType) -> Option<&VerdictCondition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }
}
