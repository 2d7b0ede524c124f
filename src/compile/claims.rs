//! Claims: hostnames, their TLS settings, matches and cookie names, each granted to the oldest route that claims it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::{
    api::ConditionReason,
    table::{Conditions, HostPattern, ObjectName},
};

use super::{
    Problem,
    draft::{Draft, TlsDraft},
    owners::Owners,
    rule::RuleDraft,
};

/// What has been granted so far. Drafts are settled oldest first.
#[derive(Default)]
pub(super) struct Claims {
    hosts: HashMap<HostPattern, PartsOfHost>,
}

/// What has been granted for one hostname.
#[derive(Default)]
struct PartsOfHost {
    tls: Option<(ObjectName, TlsDraft)>,
    matches: HashMap<Conditions, ObjectName>,
    cookies: HashMap<Arc<str>, (ObjectName, Arc<str>)>,
}

/// What a route was granted for one of its hostnames.
pub(super) struct Granted {
    /// The hostname.
    pub(super) host: HostPattern,
    /// Whether the hostname has the route's TLS settings.
    pub(super) owns_tls: bool,
    /// The matches, each with the position of its rule.
    pub(super) matches: Vec<GrantedMatch>,
}

/// A match that was granted to a route.
pub(super) struct GrantedMatch {
    pub(super) rule: usize,
    pub(super) conditions: Conditions,
    /// Why requests get 503 even if the rule itself is valid.
    pub(super) fault: Option<Arc<str>>,
}

impl Claims {
    /// Grants a route its claims, except those that older routes hold, which become problems. The owner of each
    /// hostname must have been settled before.
    pub(super) fn settle(&mut self, draft: &Draft, owners: Owners<'_>, problems: &mut Vec<Problem>) -> Vec<Granted> {
        let hosts = draft.hostnames.iter().enumerate();
        hosts.filter_map(|(position, host)| self.settle_host(draft, owners, position, host, problems)).collect()
    }

    fn settle_host(
        &mut self,
        draft: &Draft,
        owners: Owners<'_>,
        position: usize,
        host: &HostPattern,
        problems: &mut Vec<Problem>,
    ) -> Option<Granted> {
        if let Err(message) = owners.check(&draft.name.namespace, host) {
            problems.push(Problem::new(host_path(host, position), ConditionReason::Conflicted, message));
            return None;
        }
        let claims = self.hosts.entry(host.clone()).or_default();
        let (owns_tls, fault) = match claims.settle_tls(draft, host) {
            Ok(owns) => (owns, None),
            Err(message) => {
                let fault = Arc::from(message.as_str());
                problems.push(Problem::new("spec.tls", ConditionReason::Conflicted, message));
                (false, Some(fault))
            }
        };
        let rules = draft.rules.iter().enumerate();
        let matches =
            rules.flat_map(|(rule, wanted)| claims.settle_rule(draft, host, rule, wanted, fault.as_ref(), problems));
        Some(Granted { host: host.clone(), owns_tls, matches: matches.collect() })
    }
}

impl PartsOfHost {
    /// Whether the hostname gets its TLS settings from this route.
    ///
    /// # Errors
    /// If it already has different settings from another route.
    fn settle_tls(&mut self, draft: &Draft, host: &HostPattern) -> Result<bool, String> {
        let Some(wanted) = &draft.tls else { return Ok(false) };
        match &self.tls {
            None => {
                self.tls = Some((draft.name.clone(), wanted.clone()));
                Ok(true)
            }
            Some((_, held)) if held == wanted => Ok(false),
            Some((owner, _)) => Err(format!(
                "hostname {host} already has different TLS settings from route {owner}, which came first; \
                 omit tls to inherit them"
            )),
        }
    }

    fn settle_rule(
        &mut self,
        draft: &Draft,
        host: &HostPattern,
        rule: usize,
        wanted: &RuleDraft,
        fault: Option<&Arc<str>>,
        problems: &mut Vec<Problem>,
    ) -> Vec<GrantedMatch> {
        let mut fault = fault.cloned();
        if let Err(message) = self.settle_cookie(draft, host, wanted) {
            fault.get_or_insert(message.as_str().into());
            let path = format!("spec.rules[{rule}].sessionPersistence.cookie.name");
            problems.push(Problem::new(path, ConditionReason::Conflicted, message));
        }
        let mut granted = Vec::new();
        for (position, conditions) in &wanted.matches {
            match self.matches.entry(conditions.clone()) {
                Entry::Vacant(free) => {
                    free.insert(draft.name.clone());
                    granted.push(GrantedMatch { rule, conditions: conditions.clone(), fault: fault.clone() });
                }
                // Of two rules of one route, the first is served: the user chose this order.
                Entry::Occupied(held) if *held.get() == draft.name => {}
                Entry::Occupied(held) => {
                    let path = format!("spec.rules[{rule}].matches[{position}]");
                    let message =
                        format!("{conditions} on hostname {host} belongs to route {}, which came first", held.get());
                    problems.push(Problem::new(path, ConditionReason::Conflicted, message));
                }
            }
        }
        granted
    }

    /// One cookie cannot hold the sessions of two rules: each would overwrite the other's token.
    fn settle_cookie(&mut self, draft: &Draft, host: &HostPattern, wanted: &RuleDraft) -> Result<(), String> {
        let Some(persistence) = wanted.policy.persistence.as_ref().filter(|_| wanted.named_cookie) else {
            return Ok(());
        };
        match self.cookies.entry(persistence.cookie.clone()) {
            Entry::Vacant(free) => {
                free.insert((draft.name.clone(), wanted.name.clone()));
                Ok(())
            }
            Entry::Occupied(held) => {
                let (route, rule) = held.get();
                let name = &persistence.cookie;
                Err(format!(
                    "the cookie {name} on hostname {host} belongs to rule {rule} of route {route}; use another name"
                ))
            }
        }
    }
}

fn host_path(host: &HostPattern, position: usize) -> String {
    match host {
        HostPattern::Any => "spec.hostnames".into(),
        _ => format!("spec.hostnames[{position}]"),
    }
}
