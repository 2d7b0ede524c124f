//! One rule of a route, read as far as possible without other objects.

use std::sync::Arc;

use crate::{
    api::{BackendRef, Chosen, ConditionReason, RouteMatch, RouteRule, SessionPersistence},
    choices::Choice,
    table::{Conditions, ObjectName, Policy, is_dns_label},
};

use super::{
    Problem,
    matches::{self, UnreadableMatch},
    text::printable,
};

/// A rule as its author intended it.
#[derive(Debug)]
pub(super) struct RuleDraft {
    pub(super) name: Arc<str>,
    /// Why it cannot be served. Its readable matches keep their claims.
    pub(super) fault: Option<Arc<str>>,
    /// Its claims, each with the position of its match.
    pub(super) matches: Vec<(usize, Conditions)>,
    pub(super) backend_refs: Vec<BackendRef>,
    /// Whether the user chose the cookie's name.
    pub(super) named_cookie: bool,
    pub(super) policy: Policy,
}

impl RuleDraft {
    /// Reads a rule; problems are added to its route.
    pub(super) fn read(route: &ObjectName, problems: &mut Vec<Problem>, position: usize, rule: &RouteRule) -> Self {
        let mut reader = RuleReader { route, problems, path: format!("spec.rules[{position}]"), fault: None };
        let scope = rule.name.clone().unwrap_or_else(|| format!("#{position}"));
        let cookie_name = |wanted: &SessionPersistence| wanted.cookie.as_ref()?.name.clone();
        Self {
            name: rule_name(position, rule.name.as_deref()),
            matches: reader.read_matches(&rule.matches),
            backend_refs: rule.backend_refs.clone(),
            named_cookie: rule.session_persistence.as_ref().and_then(cookie_name).is_some(),
            policy: reader.read_policy(rule, &scope),
            fault: reader.fault,
        }
    }

    /// A rule that only keeps its claims, and whose problem has already been recorded.
    pub(super) fn faulty(position: usize, name: Option<&str>, message: &str, matches: Option<&[RouteMatch]>) -> Self {
        Self {
            name: rule_name(position, name.filter(|name| is_dns_label(name))),
            fault: Some(printable(message.to_owned()).into()),
            matches: matches.map(matches::claimed).unwrap_or_default(),
            backend_refs: Vec::new(),
            named_cookie: false,
            policy: Policy::default(),
        }
    }
}

/// The name of a rule, or else its position.
fn rule_name(position: usize, name: Option<&str>) -> Arc<str> {
    name.map_or_else(|| position.to_string().into(), Arc::from)
}

/// Reads one rule and keeps the first fault that disables it.
pub(super) struct RuleReader<'a> {
    pub(super) route: &'a ObjectName,
    problems: &'a mut Vec<Problem>,
    /// The rule's field, such as `spec.rules[0]`.
    pub(super) path: String,
    fault: Option<Arc<str>>,
}

impl RuleReader<'_> {
    /// The choice in a field of the rule, or the default. A value that this version does not support is a fault.
    pub(super) fn choice<T: Choice>(&mut self, field: &str, written: Option<&Chosen<T>>) -> T {
        Chosen::or_default(written).unwrap_or_else(|value| {
            let problem = Problem::unsupported(format!("{}.{field}", self.path), value);
            self.fault.get_or_insert_with(|| problem.message.as_str().into());
            self.problems.push(problem);
            T::default()
        })
    }

    /// Records a problem with a field of the rule.
    pub(super) fn fault(&mut self, field: &str, reason: ConditionReason, message: String) {
        self.fault.get_or_insert(message.as_str().into());
        self.problems.push(Problem::new(format!("{}.{field}", self.path), reason, message));
    }

    /// The claims of the rule, each with the position of its match. A match that cannot be read is a fault.
    fn read_matches(&mut self, matches: &[RouteMatch]) -> Vec<(usize, Conditions)> {
        let mut claims = Vec::with_capacity(matches.len());
        for (position, read) in matches::read_all(matches) {
            match read {
                Ok(conditions) => claims.push((position, conditions)),
                Err(UnreadableMatch { field, reason, message }) => {
                    self.fault(&format!("matches[{position}].{field}"), reason, message);
                }
            }
        }
        claims
    }
}
