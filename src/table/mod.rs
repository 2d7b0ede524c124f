//! The proxy's routing table: hosts, paths, backends and certificates, immutable.
//!
//! It is built by `compile`, swapped as a whole by [`CurrentTable`], and depends on neither Kubernetes nor sockets.

mod backend;
mod change;
mod counts;
mod current;
mod expression;
mod host;
mod host_rules;
mod matching;
mod name;
mod normal_path;
mod path;
mod policy;
mod request_view;
mod rule;
mod session;
mod state;
mod tenancy;
mod tls;

use std::sync::Arc;

use self::{host_rules::HostRules, tenancy::Tenant};

pub use crate::choices::{Algorithm, EscapedSlashes, InsecurePolicy, NonUpgrade, Secure};
pub use backend::{Backend, Candidates, Endpoint, EndpointId, EndpointState, InUse, Phase};
pub use change::TableChange;
pub use counts::Counts;
pub use current::CurrentTable;
pub use expression::{Expression, InvalidExpression, MAX_MATCHED_BYTES};
pub use host::{Host, HostMap, HostPattern, MalformedHost};
pub use matching::{Conditions, Match, TextPattern, ValueCondition, ValueSource};
pub use name::{ObjectName, is_dns_label, is_dns_subdomain};
pub use normal_path::{AmbiguousPath, NormalPath};
pub use path::{PathMap, PathPattern, PathRank};
pub use policy::{ClientNetworks, Keepalive, Persistence, Pings, Policy, Timeouts};
pub use request_view::{HeaderLines, RequestView};
pub use rule::{NoEndpoint, Rule, WeightedBackend};
pub use session::{KeyFileError, Session, SessionKeys};
pub use state::{RouteState, StateRegistry, TunnelCount};
pub use tenancy::{HostOwner, HostnameOwners, ReservedFor, Tenancy};
pub use tls::{Certificate, HostTls, TlsIdentity};

/// Everything that determines where a request goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    tenancy: Tenancy,
    hosts: HostMap<HostEntry>,
    default_identity: Option<Arc<TlsIdentity>>,
    routes: usize,
}

/// The claims on one hostname.
#[derive(Debug, Default, PartialEq, Eq)]
struct HostEntry {
    /// The oldest route that names it. Its namespace owns the hostname, unless namespaces share hostnames.
    owner: Option<HostOwner>,
    rules: HostRules,
    /// A route that claims the hostname, but whose spec is unreadable: requests that nothing else matches get 503, not
    /// 404.
    unreadable: Option<Arc<RouteState>>,
    tls: Option<Arc<HostTls>>,
}

/// The contents of a table for one hostname, for display.
#[derive(Clone, Debug)]
pub struct HostClaims<'a> {
    /// The hostname.
    pub host: HostPattern,
    /// The claimed matches in order of precedence, each with the rule that serves it.
    pub matches: Vec<(&'a Match, &'a Arc<Rule>)>,
    /// The route that names the hostname but is unreadable.
    pub unreadable: Option<&'a Arc<RouteState>>,
    /// The hostname's TLS settings.
    pub tls: Option<&'a Arc<HostTls>>,
}

/// The result of looking up a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The rule that serves it.
    Rule(&'a Arc<Rule>),
    /// Only a route whose spec is unreadable.
    Unreadable(&'a Arc<RouteState>),
    /// Nothing.
    Nothing,
}

impl RouteTable {
    /// An empty table.
    #[must_use]
    pub fn new(tenancy: Tenancy) -> Self {
        Self { tenancy, ..Self::default() }
    }

    /// Whether its hostnames belong to namespaces.
    #[must_use]
    pub fn tenancy(&self) -> &Tenancy {
        &self.tenancy
    }

    /// The rule for a request.
    ///
    /// The most specific hostname comes first; if a request meets none of its matches, those of a less specific
    /// hostname in the same namespace may serve it (HTTPRoute's precedence, which ranks the rules that match).
    #[must_use]
    pub fn find<'a>(&'a self, host: &'a Host<'_>, request: &RequestView<'_, impl HeaderLines>) -> Found<'a> {
        let tenant = self.tenant(host);
        let rule = self.serving(host, tenant).find_map(|entry| entry.rules.find(request));
        let unreadable = || self.serving(host, tenant).find_map(|entry| entry.unreadable.as_ref());
        match rule {
            Some(rule) => Found::Rule(rule),
            None => unreadable().map_or(Found::Nothing, Found::Unreadable),
        }
    }

    /// The TLS settings of a host: those of the most specific hostname that serves it. `None` means that the host is
    /// served in plaintext only.
    #[must_use]
    pub fn tls<'a>(&'a self, host: &'a Host<'_>) -> Option<&'a Arc<HostTls>> {
        self.selected(host).and_then(|entry| entry.tls.as_ref())
    }

    /// Whether two hosts select the same hostname, and hence the same TLS settings: only then does a request belong on
    /// its connection.
    #[must_use]
    pub fn select_the_same(&self, one: &Host<'_>, other: &Host<'_>) -> bool {
        match (self.selected(one), self.selected(other)) {
            (Some(one), Some(other)) => std::ptr::eq(one, other),
            _ => false,
        }
    }

    /// The owner of a hostname, including every name under a wildcard: the oldest route that names it, exactly or by a
    /// wildcard that covers it, among the namespaces that may. `None` if there is none.
    #[must_use]
    pub fn owner(&self, pattern: &HostPattern) -> Option<&HostOwner> {
        match pattern {
            HostPattern::Any => self.hosts.any().and_then(|entry| entry.owner.as_ref()),
            _ => self.tenancy.owner(pattern, self.hosts.covering(pattern).map(|entry| entry.owner.as_ref())),
        }
    }

    fn selected<'a>(&'a self, host: &'a Host<'_>) -> Option<&'a HostEntry> {
        self.serving(host, self.tenant(host)).next()
    }

    /// Whose hostnames may serve a host. A route without hostnames does not name any, so it owns none.
    fn tenant<'a>(&'a self, host: &'a Host<'_>) -> Tenant<'a> {
        self.tenancy.tenant(host, self.hosts.naming(host).map(|entry| entry.owner.as_ref()))
    }

    fn serving<'a>(&'a self, host: &'a Host<'_>, tenant: Tenant<'a>) -> impl Iterator<Item = &'a HostEntry> {
        self.hosts.matching(host).filter(move |entry| tenant.admits(entry.owner.as_ref()))
    }

    /// The identity for TLS handshakes that name no host, or one without TLS settings.
    #[must_use]
    pub fn default_identity(&self) -> Option<&Arc<TlsIdentity>> {
        self.default_identity.as_ref()
    }

    /// The number of routes that it was built from.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.routes
    }

    /// All hostnames, most specific first.
    pub fn hosts(&self) -> impl Iterator<Item = HostClaims<'_>> {
        self.hosts.iter().map(|(host, HostEntry { owner: _, rules, unreadable, tls })| HostClaims {
            host,
            matches: rules.list(),
            unreadable: unreadable.as_ref(),
            tls: tls.as_ref(),
        })
    }

    /// Records that a route names a hostname; the oldest of several routes owns it.
    pub fn own(&mut self, host: &HostPattern, owner: HostOwner) {
        let held = &mut self.hosts.entry(host).owner;
        if held.as_ref().is_none_or(|held| owner < *held) {
            *held = Some(owner);
        }
    }

    /// Assigns the requests for a hostname that meet the conditions to a rule. Of equally specific matches, the one
    /// claimed first has precedence.
    pub fn claim(&mut self, host: &HostPattern, conditions: impl Into<Conditions>, rule: Arc<Rule>) {
        self.entry(host, &rule.route.name).rules.add(conditions.into(), rule);
    }

    /// Records that an unreadable route names the host; the first one recorded is kept.
    pub fn claim_unreadable(&mut self, host: &HostPattern, route: Arc<RouteState>) {
        self.entry(host, &route.name).unreadable.get_or_insert(route);
    }

    /// Sets the TLS settings of a hostname.
    pub fn set_tls(&mut self, host: &HostPattern, tls: Arc<HostTls>) {
        let owner = tls.owner.clone();
        self.entry(host, &owner).tls = Some(tls);
    }

    /// The claims on a hostname. It belongs to the first route that claims any of it, unless [`RouteTable::own`] has
    /// determined the owner.
    fn entry(&mut self, host: &HostPattern, route: &ObjectName) -> &mut HostEntry {
        let entry = self.hosts.entry(host);
        entry.owner.get_or_insert_with(|| HostOwner { since: None, route: route.clone() });
        entry
    }

    /// Sets the identity for TLS handshakes for hosts without TLS settings.
    pub fn set_default_identity(&mut self, identity: Option<Arc<TlsIdentity>>) {
        self.default_identity = identity;
    }

    /// Sets the number of routes that it was built from.
    pub fn set_routes(&mut self, routes: usize) {
        self.routes = routes;
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn rule(name: &str) -> Arc<Rule> {
        rule_of("shop", name)
    }

    fn rule_of(namespace: &str, name: &str) -> Arc<Rule> {
        Arc::new(Rule::new(ObjectName::new(namespace, name), "0"))
    }

    fn found(table: &RouteTable, host: &str, path: &str) -> String {
        found_by(table, host, &RequestView { path, query: "", is_upgrade: false, headers: &HeaderMap::new() })
    }

    fn found_by(table: &RouteTable, host: &str, request: &RequestView<'_, HeaderMap>) -> String {
        match table.find(&Host::parse(host).unwrap(), request) {
            Found::Rule(rule) => rule.route.name.name.to_string(),
            Found::Unreadable(route) => format!("unreadable {}", route.name.name),
            Found::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn hosts_rank_before_paths_and_a_less_specific_host_may_serve_the_rest() {
        let mut table = RouteTable::default();
        let exact = HostPattern::parse("chat.example.com");
        table.claim(&exact, &PathPattern::prefix("/ws"), rule("exact"));
        table.claim(&HostPattern::parse("*.example.com"), &PathPattern::exact("/ws"), rule("wildcard"));
        table.claim(&HostPattern::Any, &PathPattern::prefix("/"), rule("any"));
        assert_eq!(found(&table, "chat.example.com", "/ws"), "exact");
        assert_eq!(found(&table, "other.example.com", "/ws"), "wildcard");
        assert_eq!(found(&table, "chat.example.com", "/"), "any");
        assert_eq!(found(&RouteTable::default(), "chat.example.com", "/"), "nothing");
    }

    #[test]
    fn a_less_specific_host_serves_requests_that_meet_no_match_of_the_more_specific_one() {
        let mut table = RouteTable::default();
        let blue = ValueCondition::header(http::HeaderName::from_static("x-tenant"), "blue");
        let blue = Conditions::new(PathPattern::exact("/ws")).with_values([blue]);
        table.claim(&HostPattern::parse("chat.example.com"), blue, rule("exact"));
        table.claim(&HostPattern::parse("*.example.com"), &PathPattern::prefix("/"), rule("wildcard"));
        table.claim(&HostPattern::Any, &PathPattern::exact("/ws"), rule_of("other", "any"));
        let headers = HeaderMap::from_iter([("x-tenant".parse().unwrap(), "blue".parse().unwrap())]);
        let request = RequestView { path: "/ws", query: "", is_upgrade: true, headers: &headers };
        assert_eq!(found_by(&table, "chat.example.com", &request), "exact");
        assert_eq!(found(&table, "chat.example.com", "/ws"), "wildcard");
    }

    #[test]
    fn no_request_falls_through_into_another_namespace() {
        let mut table = RouteTable::default();
        table.claim(&HostPattern::parse("bank.test"), &PathPattern::prefix("/ws"), rule_of("bank", "web"));
        for pattern in [HostPattern::parse("*.test"), HostPattern::Any] {
            let later =
                HostOwner { since: Some(std::time::SystemTime::UNIX_EPOCH), route: ObjectName::new("evil", "wide") };
            table.own(&pattern, later);
            table.claim(&pattern, &PathPattern::prefix("/"), rule_of("evil", "wide"));
        }
        assert_eq!(found(&table, "bank.test", "/ws"), "web");
        assert_eq!(found(&table, "bank.test", "/login"), "nothing");
        assert_eq!(found(&table, "shop.test", "/login"), "wide");
        assert_eq!(found(&table, "bank.example", "/login"), "wide");
        let same = |one, other| table.select_the_same(&Host::parse(one).unwrap(), &Host::parse(other).unwrap());
        assert!(same("shop.test", "other.test") && !same("shop.test", "bank.test"));
    }

    #[test]
    fn a_reserved_host_is_served_by_its_namespaces_only_even_while_they_do_not_name_it() {
        let mut owners = HostnameOwners::default();
        owners.reserve(&HostPattern::parse("*.bank.test"), "bank");
        let mut table = RouteTable::new(Tenancy::Separate(Arc::new(owners)));
        table.claim(&HostPattern::parse("*.test"), &PathPattern::prefix("/"), rule_of("evil", "wide"));
        table.claim(&HostPattern::Any, &PathPattern::prefix("/"), rule_of("bank", "any"));
        assert_eq!(found(&table, "pay.bank.test", "/"), "any");
        assert_eq!(found(&table, "bank.test", "/"), "wide");
        let same = |one, other| table.select_the_same(&Host::parse(one).unwrap(), &Host::parse(other).unwrap());
        assert!(!same("bank.test", "pay.bank.test") && same("pay.bank.test", "bank.example"));
    }

    #[test]
    fn shared_hostnames_fall_through_between_namespaces() {
        let mut table = RouteTable::new(Tenancy::Shared);
        table.claim(&HostPattern::parse("bank.test"), &PathPattern::prefix("/ws"), rule_of("bank", "web"));
        table.claim(&HostPattern::Any, &PathPattern::prefix("/"), rule_of("shop", "any"));
        assert_eq!(found(&table, "bank.test", "/login"), "any");
    }

    #[test]
    fn an_unreadable_route_answers_only_where_no_other_does() {
        let mut table = RouteTable::default();
        let host = HostPattern::parse("chat.example.com");
        table.claim_unreadable(&host, ObjectName::new("shop", "broken").into());
        table.claim(&host, &PathPattern::prefix("/ws"), rule("healthy"));
        assert_eq!(found(&table, "chat.example.com", "/ws"), "healthy");
        assert_eq!(found(&table, "chat.example.com", "/"), "unreadable broken");
    }

    #[test]
    fn hosts_select_the_same_hostname_or_not() {
        let mut table = RouteTable::default();
        table.claim(&HostPattern::parse("*.example.com"), &PathPattern::prefix("/"), rule("wildcard"));
        table.claim(&HostPattern::parse("a.example.com"), &PathPattern::prefix("/"), rule("exact"));
        let same = |one, other| table.select_the_same(&Host::parse(one).unwrap(), &Host::parse(other).unwrap());
        assert!(same("b.example.com", "c.example.com:443"));
        assert!(same("a.example.com", "A.example.com."));
        assert!(!same("a.example.com", "b.example.com"));
        assert!(!same("example.org", "example.org"), "nothing is selected");
    }

    #[test]
    fn a_hostname_without_tls_of_its_own_does_not_take_that_of_a_wildcard() {
        let mut table = RouteTable::default();
        let tls = HostTls {
            owner: ObjectName::new("shop", "all"),
            insecure_policy: InsecurePolicy::Redirect,
            identity: Err("missing".into()),
        };
        table.set_tls(&HostPattern::parse("*.example.com"), Arc::new(tls));
        table.claim(&HostPattern::parse("plain.example.com"), &PathPattern::prefix("/"), rule("plain"));
        assert!(table.tls(&Host::parse("plain.example.com").unwrap()).is_none());
        assert!(table.tls(&Host::parse("other.example.com").unwrap()).is_some());
    }
}
