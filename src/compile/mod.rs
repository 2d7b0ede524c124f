//! Cluster objects in, table and verdicts out. Pure: no IO, no clock, no randomness.
//!
//! The stages, one file each: `view` is the input; `draft` reads one route in isolation, with `rule`, `matches` and
//! `policy` for its rules; `backend` and `certificate` resolve its references; `owners` settles which namespace a
//! hostname belongs to; `claims` grants claims, to the oldest route first; `verdict` is the result for users. A user's
//! mistake is data throughout: it disables the part that it affects and nothing else.

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
    certificate::CertificateMemory,
    claims::{Claims, Granted},
    draft::Draft,
    judge::RouteFindings,
    owners::Owners,
    routes::Routes,
    rule::RuleDraft,
};

pub use crate::table::{is_dns_label, is_dns_subdomain};
pub use address::Surroundings;
pub use text::without_byte_order_mark;
pub use verdict::{Problem, Verdict, VerdictCondition};
pub use view::{
    ClusterView, SERVICE_NAME_LABEL, SecretData, SecretObject, ServiceObject, ServicePort, ServiceSpec,
    SliceConditions, SliceEndpoint, SliceObject, SlicePort, TLS_SECRET_TYPE, TargetRef, object_name, trim,
};

/// The administrator's settings.
#[derive(Clone, Debug)]
pub struct CompileSettings {
    /// The class whose routes are served; others are ignored.
    pub class: String,
    /// Which namespaces may name a hostname.
    pub tenancy: Tenancy,
    /// The Secret with the certificate that is sent if no route's certificate applies.
    pub default_certificate: Option<ObjectName>,
    /// Where the proxy runs, which determines the addresses that endpoints may have.
    pub surroundings: Surroundings,
}

/// What one build keeps for the next: reusable objects, and the endpoints' counts.
#[derive(Debug, Default)]
pub struct Memory {
    routes: Routes,
    backends: Backends,
    certificates: CertificateMemory,
    states: StateRegistry<ObjectName, RouteState>,
}

impl Memory {
    fn state(&mut self, route: &ObjectName) -> Arc<RouteState> {
        self.states.get(route, || RouteState::new(route.clone()))
    }
}

/// The result of compiling a view.
#[derive(Debug)]
pub struct Compiled {
    /// The table that requests use.
    pub table: RouteTable,
    /// The verdicts, sorted by the name of the route.
    pub verdicts: Vec<Verdict>,
    /// Problems with the administrator's settings.
    pub setting_problems: Vec<String>,
    /// When the result will change even if no object does: the next expiry of a certificate.
    pub next_look: Option<SystemTime>,
}

/// Compiles all routes of a class.
pub fn compile(view: &ClusterView, settings: &CompileSettings, memory: &mut Memory, now: SystemTime) -> Compiled {
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

/// A build in progress.
struct Build<'a> {
    view: &'a ClusterView,
    settings: &'a CompileSettings,
    memory: &'a mut Memory,
    now: SystemTime,
    claims: Claims,
    compiled: Compiled,
}

impl Build<'_> {
    fn add(&mut self, draft: &Draft) {
        let mut findings = RouteFindings::new(draft.problems.clone());
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

    /// Adds the granted claims of a hostname to the table; returns whether any of them is served.
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

    fn rule(&mut self, draft: &Draft, position: usize, rule: &RuleDraft, findings: &mut RouteFindings) -> Rule {
        let mut backends = Vec::with_capacity(rule.backend_refs.len());
        for (reference, wanted) in rule.backend_refs.iter().enumerate() {
            let path = || format!("spec.rules[{position}].backendRefs[{reference}]");
            let Self { view, settings, memory, .. } = self;
            let resolved = memory.backends.resolve(view, settings.surroundings, &draft.name.namespace, wanted, path);
            let target = resolved.map_err(|problem| findings.unresolved(problem));
            let target = target.map(|Resolved { backend, refused }| {
                findings.record_backend(&backend);
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
