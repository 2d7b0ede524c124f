//! One route's spec, read as far as possible without other objects.

use std::{sync::Arc, time::SystemTime};

use crate::{
    api::{Chosen, ConditionReason, Fault, PartialRule, RouteObject, Tls, UnreadableSpec, WebSocketRouteSpec},
    choices::InsecurePolicy,
    table::{HostOwner, HostPattern, ObjectName},
};

use super::{Problem, object_name, rule::RuleDraft};

/// A route as its author intended it, with all problems found.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) uid: Option<Arc<str>>,
    pub(super) created: Option<SystemTime>,
    pub(super) generation: i64,
    /// Whether the rules could be read; if not, only the hostnames and TLS are known.
    pub(super) readable: bool,
    pub(super) hostnames: Arc<[HostPattern]>,
    pub(super) tls: Option<TlsDraft>,
    pub(super) rules: Vec<RuleDraft>,
    pub(super) problems: Vec<Problem>,
}

/// The TLS settings that a route asks for. Two routes agree if these are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsDraft {
    pub(super) secrets: Vec<ObjectName>,
    pub(super) insecure_policy: InsecurePolicy,
}

impl Draft {
    pub(super) fn of(object: &RouteObject) -> Self {
        let mut draft = Self {
            name: object_name(&object.metadata),
            uid: object.metadata.uid.as_deref().map(Arc::from),
            created: object.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0)),
            generation: object.metadata.generation.unwrap_or_default(),
            readable: true,
            hostnames: Arc::default(),
            tls: None,
            rules: Vec::new(),
            problems: Vec::new(),
        };
        match &object.spec {
            Ok(spec) => draft.read(spec),
            Err(unreadable) => draft.read_remains(unreadable),
        }
        draft
    }

    /// The route as an owner of hostnames. Owners are ordered from the oldest route to the youngest.
    pub(super) fn owner(&self) -> HostOwner {
        HostOwner { since: self.created, route: self.name.clone() }
    }

    fn read(&mut self, spec: &WebSocketRouteSpec) {
        let WebSocketRouteSpec { class_name: _, hostnames, tls, rules } = spec;
        self.hostnames = match hostnames.as_slice() {
            [] => Arc::new([HostPattern::Any]),
            hostnames => self.read_hostnames(hostnames),
        };
        self.tls = tls.as_ref().map(|tls| self.read_tls(tls));
        for (position, rule) in rules.iter().enumerate() {
            let rule = RuleDraft::read(&self.name, &mut self.problems, position, rule);
            self.rules.push(rule);
        }
    }

    /// Reads the readable parts of a spec: valid rules are served, the others keep their claims.
    fn read_remains(&mut self, spec: &UnreadableSpec) {
        let UnreadableSpec { faults, class_name: _, hostnames, tls, rules } = spec;
        for Fault { path, message } in faults {
            self.problem(path.clone(), ConditionReason::Invalid, message.clone());
        }
        let named_any = !hostnames.is_empty() || faults.iter().any(|fault| fault.path.starts_with("spec.hostnames"));
        self.hostnames = match (named_any, rules) {
            (false, Some(_)) => Arc::new([HostPattern::Any]),
            _ => self.read_hostnames(hostnames),
        };
        self.tls = tls.as_ref().map(|tls| self.read_tls(tls));
        self.readable = rules.is_some();
        for (position, rule) in rules.iter().flatten().enumerate() {
            let rule = match rule {
                PartialRule::Readable(rule) => RuleDraft::read(&self.name, &mut self.problems, position, rule),
                PartialRule::Faulty { name, message, matches } => {
                    RuleDraft::faulty(position, name.as_deref(), message, matches.as_deref())
                }
            };
            self.rules.push(rule);
        }
    }

    fn read_hostnames(&mut self, hostnames: &[String]) -> Arc<[HostPattern]> {
        let mut patterns = Vec::with_capacity(hostnames.len());
        for (position, hostname) in hostnames.iter().enumerate() {
            if let Some(pattern) = HostPattern::checked(hostname) {
                patterns.push(pattern);
            } else {
                let message = format!(
                    "must be a lower-case host name without a port, such as chat.example.com or *.example.com, \
                     got {hostname:?}"
                );
                self.problem(format!("spec.hostnames[{position}]"), ConditionReason::Invalid, message);
            }
        }
        patterns.into()
    }

    fn read_tls(&mut self, tls: &Tls) -> TlsDraft {
        let Tls { certificate_refs, insecure_policy } = tls;
        let insecure_policy = Chosen::or_default(insecure_policy.as_ref()).unwrap_or_else(|value| {
            self.problems.push(Problem::unsupported("spec.tls.insecurePolicy", value));
            // The intention is unknown, so plaintext is refused.
            InsecurePolicy::Deny
        });
        let secret = |name: &str| ObjectName::new(self.name.namespace.clone(), name);
        let secrets = certificate_refs.iter().map(|reference| secret(&reference.name)).collect();
        TlsDraft { secrets, insecure_policy }
    }

    fn problem(&mut self, path: String, reason: ConditionReason, message: String) {
        self.problems.push(Problem::new(path, reason, message));
    }
}
