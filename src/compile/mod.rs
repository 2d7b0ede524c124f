//! Cluster objects in, table and verdicts out. Pure: no IO, no clock, no randomness.
//!
//! The stages, each a file: `view` is what comes in; `draft` understands one route by itself, with `rule`, `matches`
//! and `policy` for its rules; `backend` and
//! `certificate` resolve what it names; `owners` settles which namespace a hostname belongs to; `claims` settles who
//! gets what, the oldest route first; `verdict` is what users are told. A user's mistake is data all the way: it takes the part that it concerns and nothing else.

mod address;
mod backend;
mod certificate;
mod claims;
mod draft;
mod judge;
mod matches;
mod owners;
mod policy;
mod routes;
mod rule;
mod text;
mod tls;
mod verdict;
mod view;

use std::{sync::Arc, time::SystemTime};

use crate::table::{ObjectName, RouteState, RouteTable, Rule, StateRegistry, Tenancy, WeightedBackend};

use self::{
    backend::{Backends, Resolved},
    certificate::Certificates,
    claims::{Claims, Granted},
    draft::Draft,
    judge::Findings,
    owners::Owners,
    routes::Routes,
    rule::RuleDraft,
};

pub use crate::table::{is_dns_label, is_dns_subdomain};
pub use address::Surroundings;
pub use text::without_mark;
pub use verdict::{Problem, Verdict, VerdictCondition};
pub use view::{
    ClusterView, SERVICE_NAME_LABEL, SecretData, SecretObject, ServiceObject, ServicePort, ServiceSpec,
    SliceConditions, SliceEndpoint, SliceObject, SlicePort, TLS_SECRET_TYPE, TargetRef, object_name, trim,
};

/// What an administrator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Routes of this class are served, others are not looked at.
    pub class: String,
    /// Which namespaces may name a hostname.
    pub tenancy: Tenancy,
    /// The Secret whose certificate is sent where no route's is asked for.
    pub default_certificate: Option<ObjectName>,
    /// Where the proxy runs, which decides what addresses endpoints may have.
    pub surroundings: Surroundings,
}

/// What one build leaves for the next: what can be used again, and the endpoints' counts.
#[derive(Debug, Default)]
pub struct Memory {
    routes: Routes,
    backends: Backends,
    certificates: Certificates,
    states: StateRegistry<ObjectName, RouteState>,
}

impl Memory {
    fn state(&mut self, route: &ObjectName) -> Arc<RouteState> {
        self.states.get(route, || RouteState::new(route.clone()))
    }
}

/// What a view amounts to.
#[derive(Debug)]
pub struct Compiled {
    /// What requests see.
    pub table: RouteTable,
    /// What users are told, sorted by the name of the route.
    pub verdicts: Vec<Verdict>,
    /// What is wrong with the administrator's settings.
    pub setting_problems: Vec<String>,
    /// When the result will differ although no object changes: the next certificate expires.
    pub next_look: Option<SystemTime>,
}

/// Compiles all routes of a class.
pub fn compile(view: &ClusterView, settings: &Settings, memory: &mut Memory, now: SystemTime) -> Compiled {
    let ours = view.routes.iter().filter(|route| route.class_name() == Some(&settings.class));
    let mut drafts: Vec<_> = ours.map(|route| memory.routes.draft(route)).collect();
    drafts.sort_by_cached_key(|draft| draft.owner());
    let mut compiled = Compiled::empty(settings.tenancy.clone());
    owners::settle(&mut compiled.table, &drafts);
    let mut build = Build { view, settings, memory, now, claims: Claims::default(), compiled };
    for draft in drafts {
        build.add(&draft);
    }
    build.finish()
}

impl Compiled {
    fn empty(tenancy: Tenancy) -> Self {
        Self { table: RouteTable::new(tenancy), verdicts: Vec::new(), setting_problems: Vec::new(), next_look: None }
    }
}

/// A build on its way.
struct Build<'a> {
    view: &'a ClusterView,
    settings: &'a Settings,
    memory: &'a mut Memory,
    now: SystemTime,
    claims: Claims,
    compiled: Compiled,
}

impl Build<'_> {
    fn add(&mut self, draft: &Draft) {
        let mut findings = Findings::new(draft.problems.clone());
        let granted = self.claims.settle(draft, Owners(&self.compiled.table), &mut findings.accepted);
        let rules =
            draft.rules.iter().enumerate().map(|(position, rule)| self.rule(draft, position, rule, &mut findings));
        let rules = rules.collect();
        let rules = self.memory.routes.reuse(draft, rules);
        self.set_tls(draft, &granted, &mut findings);
        for host in &granted {
            if !draft.readable {
                self.compiled.table.claim_unreadable(&host.host, self.memory.state(&draft.name));
            }
            findings.served |= self.claim(host, &rules);
        }
        self.compiled.verdicts.push(findings.verdict(draft, rules));
    }

    /// Enters what a route got of a hostname into the table, and tells whether any of it is served.
    fn claim(&mut self, granted: &Granted, rules: &[Arc<Rule>]) -> bool {
        let mut served = false;
        for granted_match in &granted.matches {
            let rule = &rules[granted_match.rule];
            let rule = match &granted_match.fault {
                Some(fault) if rule.fault.is_none() => {
                    Arc::new(Rule { fault: Some(fault.clone()), ..Rule::clone(rule) })
                }
                _ => rule.clone(),
            };
            served |= rule.fault.is_none();
            self.compiled.table.claim(&granted.host, granted_match.conditions.clone(), rule);
        }
        served
    }

    fn rule(&mut self, draft: &Draft, position: usize, rule: &RuleDraft, findings: &mut Findings) -> Rule {
        let mut backends = Vec::with_capacity(rule.backend_refs.len());
        for (reference, wanted) in rule.backend_refs.iter().enumerate() {
            let path = || format!("spec.rules[{position}].backendRefs[{reference}]");
            let Self { view, settings, memory, .. } = self;
            let resolved = memory.backends.resolve(view, settings.surroundings, &draft.name.namespace, wanted, path);
            let target = resolved.map_err(|problem| findings.unresolved(problem));
            let target = target.map(|Resolved { backend, refused }| {
                findings.look_at(&backend);
                if let Some(problem) = refused {
                    findings.unresolved(problem);
                }
                backend
            });
            backends.push(WeightedBackend { weight: u32::try_from(wanted.weight).unwrap_or_default(), target });
        }
        Rule {
            route: self.memory.state(&draft.name),
            name: rule.name.clone(),
            fault: rule.fault.clone(),
            backends: backends.into(),
            policy: rule.policy.clone(),
        }
    }

    fn finish(mut self) -> Compiled {
        self.set_default_identity();
        self.compiled.table.set_routes(self.compiled.verdicts.len());
        self.compiled.verdicts.sort_by(|one, other| one.route.cmp(&other.route));
        self.memory.routes.end_build();
        self.memory.states.prune();
        self.memory.backends.end_build();
        self.memory.certificates.end_build();
        self.compiled
    }
}
