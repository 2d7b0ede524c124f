//! What users are told of their routes.

use std::{borrow::Cow, sync::Arc};

use crate::{
    api::{ConditionReason, ConditionType},
    table::{HostPattern, ObjectName, Rule},
};

use super::text::printable;

/// What is wrong with a route. A user's mistake is data: it ends in a condition, in a line of `check`, in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `spec.rules[0].backendRefs[1].port`.
    pub path: String,
    /// The reason of the condition that it ends in.
    pub reason: ConditionReason,
    /// What is wrong and how to mend it; names the objects concerned.
    pub message: String,
}

impl Problem {
    /// A problem with a message that is safe to print: what it quotes comes from the cluster, and a control character in
    /// that would forge a line of a log, or an order to a terminal.
    #[must_use]
    pub fn new(path: impl Into<String>, reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { path: printable(path.into()), reason, message: printable(message.into()) }
    }
}

/// A condition without its times, which the writer adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictCondition {
    /// Which aspect.
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: ConditionReason,
    /// The same for people.
    pub message: Cow<'static, str>,
}

/// What became of one route of our class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The route.
    pub route: ObjectName,
    /// What tells it from another route of the same name, before it or after it; nothing where there is none
    /// (manifests).
    pub uid: Option<Arc<str>>,
    /// The generation of the spec that was judged; 0 where there is none (manifests).
    pub generation: i64,
    /// Its conditions, each type at most once, sorted by type.
    pub conditions: Vec<VerdictCondition>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// What is served all the same but deserves a look, such as a certificate that has expired.
    pub warnings: Vec<Problem>,
    /// The hostnames that it names.
    pub hostnames: Arc<[HostPattern]>,
    /// Its rules as they are served.
    pub rules: Arc<[Arc<Rule>]>,
}

impl Verdict {
    /// Whether something of the route is served as claimed.
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
