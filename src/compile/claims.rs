//! Who gets what: hostnames, their TLS, matches and cookie names, each to the oldest route that claims it.

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

/// What has been given away so far. Drafts come oldest first.
#[derive(Default)]
pub(super) struct Claims {
    hosts: HashMap<HostPattern, PartsOfHost>,
}

/// What has been given away of one hostname.
#[derive(Default)]
struct PartsOfHost {
    tls: Option<(ObjectName, TlsDraft)>,
    matches: HashMap<Conditions, ObjectName>,
    cookies: HashMap<Arc<str>, (ObjectName, Arc<str>)>,
}

/// What a route got of one of its hostnames.
pub(super) struct Granted {
    /// The hostname.
    pub(super) host: HostPattern,
    /// Whether the route's TLS settings are those of the hostname.
    pub(super) owns_tls: bool,
    /// The matches, with the position of their rule.
    pub(super) matches: Vec<GrantedMatch>,
}

/// A match that a route got.
pub(super) struct GrantedMatch {
    pub(super) rule: usize,
    pub(super) conditions: Conditions,
    /// Why it is answered with 503 although the rule itself may be sound.
    pub(super) fault: Option<Arc<str>>,
}

impl Claims {
    /// Gives a route what it claims and nobody older holds; what it does not get is added to its problems. Who owns
    /// each hostname has been settled.
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
    /// Whether the hostname's TLS settings are this route's; an error when another's hold that differ.
    fn settle_tls(&mut self, draft: &Draft, host: &HostPattern) -> Result<bool, String> {
        let Some(wanted) = &draft.tls else { return Ok(false) };
        match &self.tls {
            None => {
                self.tls = Some((draft.name.clone(), wanted.clone()));
                Ok(true)
            }
            Some((_, held)) if held == wanted => Ok(false),
            Some((owner, _)) => Err(format!(
                "the TLS settings of hostname {host} are those of route {owner}, which came first and differs; \
                 leave tls out to inherit them"
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
                // Of two rules of one route, the first is served: an order that the user wrote.
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

    /// One cookie cannot hold the sessions of two rules: each would replace the other's.
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
                    "the cookie {name} on hostname {host} belongs to rule {rule} of route {route}; name another"
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
