//! The rules of one hostname, and how the rule for a request is found.

use std::{collections::HashMap, sync::Arc};

use super::{Conditions, HeaderLines, Match, PathMap, PathPattern, RequestView, Rule, matching::ValueSource};

/// The rules of one hostname with their matches.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostRules {
    paths: PathMap<Group>,
    expressions: Group,
    claimed: usize,
}

/// A match with the rule that serves it.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    match_: Match,
    rule: Arc<Rule>,
}

/// Claims that are looked up together: those of one path, or all with regular expressions.
#[derive(Debug, Default, PartialEq, Eq)]
struct Group {
    /// Claims that require an exact value, by the source of the value and the value. With a thousand tenants on one
    /// path, a tenant's header leads to its claims without examining the others.
    keyed: Vec<Keyed>,
    /// The other claims, in order of precedence.
    others: Vec<Claim>,
}

#[derive(Debug, PartialEq, Eq)]
struct Keyed {
    source: ValueSource,
    /// The claims for each value, in order of precedence.
    values: HashMap<Box<[u8]>, Vec<Claim>>,
}

impl HostRules {
    /// The rule of the first match, in order of precedence, that the request satisfies.
    pub(super) fn find(&self, request: &RequestView<'_, impl HeaderLines>) -> Option<&Arc<Rule>> {
        let exact = self.paths.exact(request.path).and_then(|group| group.find(request));
        let claim = exact
            .or_else(|| self.expressions.find(request))
            .or_else(|| self.paths.prefixes(request.path).find_map(|group| group.find(request)));
        claim.map(|claim| &claim.rule)
    }

    /// All matches with their rules, in order of precedence.
    pub(super) fn list(&self) -> Vec<(&Match, &Arc<Rule>)> {
        let groups = self.paths.values().chain([&self.expressions]);
        let mut all: Vec<_> = groups.flat_map(Group::claims).map(|claim| (&claim.match_, &claim.rule)).collect();
        all.sort_by(|(one, _), (other, _)| other.cmp(one));
        all
    }

    /// Adds a match after those of the same rank.
    pub(super) fn add(&mut self, conditions: Conditions, rule: Arc<Rule>) {
        let group = match conditions.path() {
            PathPattern::Exact(path) => self.paths.entry_of_exact(path),
            PathPattern::Prefix(path) => self.paths.entry_of_prefix(path),
            PathPattern::Expression(_) => &mut self.expressions,
        };
        group.add(Claim { match_: Match { conditions, earlier: self.claimed }, rule });
        self.claimed += 1;
    }
}

impl Group {
    fn find(&self, request: &RequestView<'_, impl HeaderLines>) -> Option<&Claim> {
        let keyed = self.keyed.iter().filter_map(|keyed| keyed.values.get(&*keyed.source.value(request)?));
        let is_met = |claim: &&Claim| claim.match_.conditions().are_met_by(request);
        let first = keyed.chain([&self.others]).filter_map(|claims| claims.iter().find(is_met));
        first.max_by(|one, other| one.match_.cmp(&other.match_))
    }

    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.keyed.iter().flat_map(|keyed| keyed.values.values()).chain([&self.others]).flatten()
    }

    fn add(&mut self, claim: Claim) {
        let claims = match claim.match_.conditions().key() {
            Some((source, value)) => self.keyed(source).values.entry(value.as_bytes().into()).or_default(),
            None => &mut self.others,
        };
        let place = claims.partition_point(|there| there.match_ > claim.match_);
        claims.insert(place, claim);
    }

    fn keyed(&mut self, source: &ValueSource) -> &mut Keyed {
        let place = self.keyed.iter().position(|keyed| keyed.source == *source).unwrap_or_else(|| {
            self.keyed.push(Keyed { source: source.clone(), values: HashMap::new() });
            self.keyed.len() - 1
        });
        &mut self.keyed[place]
    }
}

#[cfg(test)]
mod tests;
