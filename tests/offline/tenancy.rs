//! Hostnames belong to namespaces: whatever the routes, no request, certificate or connection of one namespace reaches
//! another's rules.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use switchyard::{
    api::ConditionReason,
    compile::{ClusterView, CompileSettings, Compiled, Memory, Surroundings, Verdict, compile},
    table::{Found, Host, HostPattern, HostnameOwners, RequestView, RouteTable, Tenancy},
};

/// A route in a test.
#[derive(Clone, Debug)]
struct Written {
    namespace: &'static str,
    name: String,
    day: u32,
    hostnames: Vec<&'static str>,
    path: &'static str,
    tls: bool,
}

impl Written {
    fn new(namespace: &'static str, name: &str, day: u32, hostnames: &[&'static str]) -> Self {
        Self { namespace, name: name.into(), day, hostnames: hostnames.to_vec(), path: "/", tls: false }
    }

    fn object(&self) -> Value {
        let Self { namespace, name, day, hostnames, path, tls } = self;
        let mut route = json!({
            "metadata": {
                "name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z"),
            },
            "spec": { "className": "switchyard", "hostnames": hostnames, "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
                "backendRefs": [{ "name": "web", "port": 80 }],
            }] },
        });
        if *tls {
            route["spec"]["tls"] = json!({ "certificateRefs": [{ "name": "web-tls" }] });
        }
        route
    }

    fn patterns(&self) -> Vec<HostPattern> {
        match self.hostnames.as_slice() {
            [] => vec![HostPattern::Any],
            hostnames => hostnames.iter().map(|hostname| HostPattern::parse(hostname)).collect(),
        }
    }

    /// The older route is the smaller one.
    fn age(&self) -> (u32, &str, &str) {
        (self.day, self.namespace, &self.name)
    }
}

fn owners(entries: &[(&'static str, &'static str)]) -> Tenancy {
    let mut owners = HostnameOwners::default();
    for (namespace, hostname) in entries {
        owners.reserve(&HostPattern::parse(hostname), *namespace);
    }
    Tenancy::Separate(Arc::new(owners))
}

fn build(routes: &[Written], tenancy: Tenancy) -> Compiled {
    let parsed = |route: &Written| Arc::new(serde_json::from_value(route.object()).unwrap());
    let view = ClusterView { routes: routes.iter().map(parsed).collect(), ..ClusterView::default() };
    let settings = CompileSettings {
        class: "switchyard".into(),
        tenancy,
        default_certificate: None,
        surroundings: Surroundings::Cluster { own: &[] },
    };
    compile(&view, &settings, &mut Memory::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(1))
}

/// The namespace whose rule serves a request.
fn served(table: &RouteTable, host: &str, path: &str) -> Option<String> {
    let request = RequestView { path, query: "", is_upgrade: false, headers: &HeaderMap::new() };
    match table.find(&Host::parse(host).unwrap(), &request) {
        Found::Rule(rule) => Some(rule.route.name.namespace.to_string()),
        Found::Unreadable(route) => Some(route.name.namespace.to_string()),
        Found::Nothing => None,
    }
}

/// The namespace whose TLS settings a handshake for a name uses.
fn secured(table: &RouteTable, name: &str) -> Option<String> {
    table.tls(&Host::parse(name).unwrap()).map(|tls| tls.owner.namespace.to_string())
}

fn same_connection(table: &RouteTable, name: &str, host: &str) -> bool {
    table.select_the_same(&Host::parse(name).unwrap(), &Host::parse(host).unwrap())
}

/// The positions of the hostnames denied to a route.
fn refused(verdict: &Verdict) -> BTreeSet<String> {
    let conflicts = verdict.problems.iter().filter(|problem| problem.reason == ConditionReason::Conflicted);
    conflicts.filter(|problem| problem.path.starts_with("spec.hostnames")).map(|problem| problem.path.clone()).collect()
}

fn verdict<'a>(compiled: &'a Compiled, namespace: &str, name: &str) -> &'a Verdict {
    let is_it = |verdict: &&Verdict| *verdict.route.namespace == *namespace && *verdict.route.name == *name;
    compiled.verdicts.iter().find(is_it).unwrap()
}

#[test]
fn a_younger_wider_route_receives_nothing_that_belongs_to_another_namespace() {
    let mut bank = Written::new("bank", "web", 1, &["bank.test"]);
    (bank.path, bank.tls) = ("/ws", true);
    for hostnames in [&["*.test"][..], &[]] {
        let Compiled { table, .. } = build(&[bank.clone(), Written::new("evil", "wide", 2, hostnames)], owners(&[]));
        assert_eq!(served(&table, "bank.test", "/ws").as_deref(), Some("bank"));
        assert_eq!(served(&table, "bank.test", "/login"), None, "over bank's certificate, with bank's cookies");
        assert_eq!(secured(&table, "bank.test").as_deref(), Some("bank"));
        assert_eq!(served(&table, "shop.test", "/login").as_deref(), Some("evil"));
        assert_eq!(secured(&table, "shop.test"), None);
        assert!(!same_connection(&table, "bank.test", "shop.test"));
    }
}

#[test]
fn a_certificate_for_everything_is_not_used_for_the_rules_of_another_namespace() {
    let mut evil = Written::new("evil", "everything", 1, &[]);
    evil.tls = true;
    let bank = Written::new("bank", "web", 2, &["bank.test"]);
    let late = Written::new("bank", "everything", 3, &[]);
    let compiled = build(&[evil, bank, late], owners(&[]));
    let table = &compiled.table;
    assert_eq!(secured(table, "bank.test"), None, "bank's hostname has no TLS");
    assert!(!same_connection(table, "other.test", "bank.test"));
    assert_eq!(served(table, "other.test", "/").as_deref(), Some("evil"));
    assert_eq!(refused(verdict(&compiled, "bank", "everything")), ["spec.hostnames".to_owned()].into());
}

#[test]
fn a_name_under_a_wildcard_of_another_namespace_takes_no_traffic_away() {
    let mut bank = Written::new("bank", "web", 1, &["*.bank.test"]);
    bank.tls = true;
    let compiled = build(&[bank, Written::new("evil", "pay", 2, &["pay.bank.test"])], owners(&[]));
    assert_eq!(served(&compiled.table, "pay.bank.test", "/").as_deref(), Some("bank"));
    assert_eq!(secured(&compiled.table, "pay.bank.test").as_deref(), Some("bank"));
    let verdict = verdict(&compiled, "evil", "pay");
    assert!(!verdict.is_accepted());
    let message = &verdict.problems[0].message;
    assert!(message.contains("bank/web") && message.contains("--hostname-owners"), "{message}");
}

#[test]
fn a_route_that_is_deleted_and_made_again_gets_its_hostname_back_only_where_the_operator_has_reserved_it() {
    let squatter = Written::new("evil", "waits", 2, &["bank.test"]);
    let again = Written::new("bank", "web", 3, &["bank.test"]);
    let reserved = [("bank", "bank.test")];
    for (tenancy, without, with) in [(owners(&[]), Some("evil"), "evil"), (owners(&reserved), None, "bank")] {
        let deleted = build(std::slice::from_ref(&squatter), tenancy.clone());
        assert_eq!(served(&deleted.table, "bank.test", "/").as_deref(), without);
        let recreated = build(&[squatter.clone(), again.clone()], tenancy);
        assert_eq!(served(&recreated.table, "bank.test", "/").as_deref(), Some(with));
    }
    let message = &build(&[squatter, again], owners(&reserved)).verdicts[1].problems[0].message;
    assert!(message.contains("reserved for namespace bank") && message.contains("bank/web"), "{message}");
}

#[test]
fn a_list_that_changes_changes_the_table() {
    let routes = [Written::new("evil", "first", 1, &["bank.test"]), Written::new("bank", "web", 2, &["bank.test"])];
    let (free, listed) = (build(&routes, owners(&[])), build(&routes, owners(&[("bank", "bank.test")])));
    assert_ne!(free.table, listed.table);
    assert!(verdict(&free, "evil", "first").is_accepted() && !verdict(&listed, "evil", "first").is_accepted());
}

const NAMESPACES: [&str; 3] = ["one", "two", "three"];
const HOSTNAMES: [&str; 8] = ["test", "*.test", "a.test", "*.a.test", "b.a.test", "*.b.a.test", "b.test", "*.b.test"];
const HOSTS: [&str; 9] =
    ["test", "a.test", "b.test", "c.test", "b.a.test", "c.a.test", "c.b.a.test", "c.b.test", "elsewhere"];
const PATHS: [&str; 2] = ["/", "/ws"];

prop_compose! {
    fn written()(
        namespace in select(&NAMESPACES[..]),
        day in 1..5_u32,
        hostnames in prop::collection::btree_set(select(&HOSTNAMES[..]), 0..3),
        path in select(&PATHS[..]),
        tls in any::<bool>(),
    ) -> Written {
        Written { namespace, name: String::new(), day, hostnames: hostnames.into_iter().collect(), path, tls }
    }
}

fn routes() -> impl Strategy<Value = Vec<Written>> {
    prop::collection::vec(written(), 1..8).prop_map(|mut routes| {
        for (number, route) in routes.iter_mut().enumerate() {
            route.name = format!("route-{number}");
        }
        routes
    })
}

fn listed() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    prop_oneof![Just(Vec::new()), prop::collection::vec((select(&NAMESPACES[..]), select(&HOSTNAMES[..])), 1..5)]
}

/// Whether one pattern covers another; written out, without any map.
fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Any, narrow) => *narrow == HostPattern::Any,
        (HostPattern::Exact(_), narrow) => wide == narrow,
        (HostPattern::Wildcard(suffix), HostPattern::Exact(host)) => host.ends_with(&format!(".{suffix}")),
        (HostPattern::Wildcard(suffix), HostPattern::Wildcard(other)) => {
            suffix == other || other.ends_with(&format!(".{suffix}"))
        }
        (HostPattern::Wildcard(_), HostPattern::Any) => false,
    }
}

/// The rules of tenancy, as linear scans.
struct Oracle {
    listed: Vec<(&'static str, HostPattern)>,
    /// The claims granted, oldest first.
    granted: Vec<(HostPattern, &'static str, &'static str)>,
}

impl Oracle {
    fn new(listed: &[(&'static str, &'static str)]) -> Self {
        let listed = listed.iter().map(|(namespace, hostname)| (*namespace, HostPattern::parse(hostname))).collect();
        Self { listed, granted: Vec::new() }
    }

    fn may_own(&self, namespace: &str, name: &HostPattern) -> bool {
        let most_specific = self.listed.iter().map(|(_, pattern)| pattern).filter(|one| covers(one, name)).max();
        most_specific.is_none_or(|pattern| self.listed.iter().any(|entry| (entry.0, &entry.1) == (namespace, pattern)))
    }

    fn owner(&self, name: &HostPattern) -> Option<&'static str> {
        let owns = |(pattern, namespace, _): &&(HostPattern, &'static str, &'static str)| {
            covers(pattern, name) && self.may_own(namespace, name)
        };
        self.granted.iter().find(owns).map(|(_, namespace, _)| *namespace)
    }

    /// Adds the next route; returns the hostnames denied to it.
    fn add(&mut self, route: &Written) -> BTreeSet<String> {
        let mut refused = BTreeSet::new();
        for (position, pattern) in route.patterns().into_iter().enumerate() {
            let is_held = self.owner(&pattern).is_some_and(|owner| owner != route.namespace);
            if is_held || !self.may_own(route.namespace, &pattern) {
                let field = if pattern == HostPattern::Any { String::new() } else { format!("[{position}]") };
                refused.insert(format!("spec.hostnames{field}"));
            } else {
                self.granted.push((pattern, route.namespace, route.path));
            }
        }
        refused
    }

    /// The namespace that serves a request.
    fn serves(&self, host: &str, path: &str) -> Option<&'static str> {
        let name = HostPattern::parse(host);
        let owner = self.owner(&name);
        let may_serve = |namespace: &str| match owner {
            Some(owner) => owner == namespace,
            None => self.may_own(namespace, &name),
        };
        let matches = |(pattern, namespace, prefix): &&(HostPattern, &'static str, &'static str)| {
            let is_for_host = covers(pattern, &name) || *pattern == HostPattern::Any;
            is_for_host && may_serve(namespace) && path.starts_with(prefix)
        };
        self.granted.iter().find(matches).map(|(_, namespace, _)| *namespace)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rule_certificate_and_owner_of_a_host_are_of_one_namespace(routes in routes(), listed in listed()) {
        let compiled = build(&routes, owners(&listed));
        let mut oracle = Oracle::new(&listed);
        let mut by_age: Vec<_> = routes.iter().collect();
        by_age.sort_by_key(|route| route.age());
        for route in by_age {
            let expected = oracle.add(route);
            prop_assert_eq!(refused(verdict(&compiled, route.namespace, &route.name)), expected, "{:?}", route);
        }
        let table = &compiled.table;
        for host in HOSTS {
            let owner = oracle.owner(&HostPattern::parse(host));
            let secured = secured(table, host);
            if let (Some(owner), Some(secured)) = (owner, &secured) {
                prop_assert_eq!(owner, secured, "TLS of {}", host);
            }
            for path in ["/", "/ws/socket"] {
                let served = served(table, host, path);
                prop_assert_eq!(served.as_deref(), oracle.serves(host, path), "{}{}", host, path);
                if let (Some(served), Some(owner)) = (&served, owner) {
                    prop_assert_eq!(served, owner, "{}{}", host, path);
                }
                // Over any connection that may carry the request, its certificate belongs to the rule's namespace.
                for name in HOSTS.into_iter().filter(|name| same_connection(table, name, host)) {
                    if let (Some(served), Some(secured)) = (&served, self::secured(table, name)) {
                        prop_assert_eq!(served, &secured, "{} on a connection for {}", host, name);
                    }
                }
            }
        }
    }

    #[test]
    fn while_hostnames_are_shared_no_route_is_refused_one(routes in routes()) {
        let compiled = build(&routes, Tenancy::Shared);
        for verdict in &compiled.verdicts {
            prop_assert_eq!(refused(verdict), BTreeSet::new());
        }
    }
}
