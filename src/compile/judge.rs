//! Turns the findings about a route into its verdict.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api::{ConditionReason, ConditionType},
    table::{Backend, ObjectName, Rule},
};

use super::{Problem, Verdict, VerdictCondition, draft::Draft};

/// How many problems a message lists; the rest are counted.
const NAMED_PROBLEMS: usize = 8;

/// What was found about one route.
pub(super) struct RouteFindings {
    /// Problems that prevent the route, or part of it, from being accepted.
    pub(super) accepted: Vec<Problem>,
    /// Whether any (hostname, match) pair is served as claimed.
    pub(super) served: bool,
    references: Vec<Problem>,
    warnings: Vec<Problem>,
    resolved: usize,
    unready: BTreeSet<ObjectName>,
}

impl RouteFindings {
    pub(super) fn new(accepted: Vec<Problem>) -> Self {
        Self {
            accepted,
            served: false,
            references: Vec::new(),
            warnings: Vec::new(),
            resolved: 0,
            unready: BTreeSet::new(),
        }
    }

    /// Records a reference that does not resolve; returns the cause, for the requests that it would have served.
    pub(super) fn unresolved(&mut self, problem: Problem) -> Arc<str> {
        let message = Arc::from(problem.message.as_str());
        self.references.push(problem);
        message
    }

    /// Records a backend and whether it takes new sessions.
    pub(super) fn record_backend(&mut self, backend: &Backend) {
        self.resolved += 1;
        if !backend.is_ready() {
            self.unready.insert(backend.service.clone());
        }
    }

    pub(super) fn warn(&mut self, path: String, message: String) {
        self.warnings.push(Problem::new(path, ConditionReason::InvalidCertificateRef, message));
    }

    pub(super) fn verdict(self, draft: &Draft, rules: Arc<[Arc<Rule>]>) -> Verdict {
        let mut conditions = vec![self.accepted()];
        conditions.extend(self.partially_invalid());
        // If the spec is unreadable, its references are unknown.
        if draft.readable {
            conditions.push(self.resolved_refs());
            conditions.push(self.backends_ready());
        }
        let mut problems = self.accepted;
        problems.extend(self.references);
        Verdict {
            route: draft.name.clone(),
            uid: draft.uid.clone(),
            generation: draft.generation,
            conditions,
            problems,
            warnings: self.warnings,
            hostnames: draft.hostnames.clone(),
            rules,
        }
    }

    fn accepted(&self) -> VerdictCondition {
        let fault = self.accepted.first().filter(|_| !self.served);
        VerdictCondition {
            type_: ConditionType::Accepted,
            status: fault.is_none(),
            reason: fault.map_or(ConditionReason::Accepted, |problem| problem.reason),
            message: if fault.is_some() { list(&self.accepted).into() } else { "The route is served".into() },
        }
    }

    fn partially_invalid(&self) -> Option<VerdictCondition> {
        let first = self.accepted.first().filter(|_| self.served)?;
        Some(VerdictCondition {
            type_: ConditionType::PartiallyInvalid,
            status: true,
            reason: first.reason,
            message: list(&self.accepted).into(),
        })
    }

    fn resolved_refs(&self) -> VerdictCondition {
        let first = self.references.first();
        VerdictCondition {
            type_: ConditionType::ResolvedRefs,
            status: first.is_none(),
            reason: first.map_or(ConditionReason::ResolvedRefs, |problem| problem.reason),
            message: match first {
                Some(_) => list(&self.references).into(),
                None => "All Services and Secrets that the route names can be used".into(),
            },
        }
    }

    fn backends_ready(&self) -> VerdictCondition {
        let ready = self.resolved > 0 && self.unready.is_empty();
        let unready: Vec<_> = self.unready.iter().map(ToString::to_string).collect();
        VerdictCondition {
            type_: ConditionType::BackendsReady,
            status: ready,
            reason: if ready { ConditionReason::EndpointsReady } else { ConditionReason::NoReadyEndpoints },
            message: match (ready, unready.as_slice()) {
                (true, _) => "Each Service has an endpoint that takes new sessions".into(),
                (false, []) => "No backend reference resolves to a Service".into(),
                (false, unready) => format!("No endpoint takes new sessions: Service {}", unready.join(", ")).into(),
            },
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let named: Vec<_> = problems
        .iter()
        .take(NAMED_PROBLEMS)
        .map(|Problem { path, message, .. }| format!("{path}: {message}"))
        .collect();
    let more = problems.len().saturating_sub(NAMED_PROBLEMS);
    let rest = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("{}{rest}", named.join("; "))
}
