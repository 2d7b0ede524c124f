//! The cost of building a table: 10,000 routes, 10,000 Services and 100,000 endpoints, from scratch, after one change,
//! and after none; and the cost of looking up a rule. Run by `make bench-table`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName};
use serde_json::json;
use switchyard::{
    api::RouteObject,
    compile::{ClusterView, CompileSettings, Memory, ServiceObject, SliceObject, Surroundings, compile, object_name},
    table::{
        Conditions, Expression, Host, HostPattern, HostnameOwners, ObjectName, PathPattern, RequestView, RouteTable,
        Rule, Tenancy, TextPattern, ValueCondition, ValueSource,
    },
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ROUTES: usize = 10_000;
const ENDPOINTS: usize = 10;
const ROUNDS: usize = 21;
/// Rules of one host.
const RULES: usize = 1000;
const HOST: &str = "chat.example.com";
const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn main() {
    let mut view = view();
    println!(
        "{ROUTES} routes, {ROUTES} services, {} endpoints; {} MiB for the objects",
        ROUTES * ENDPOINTS,
        resident()
    );
    let settings = CompileSettings {
        class: "switchyard".into(),
        tenancy: tenancy(),
        default_certificate: None,
        surroundings: Surroundings::Cluster { own: &[] },
    };

    let cold = (0..ROUNDS).map(|_| build(&view, &settings, &mut Memory::default()).1);
    report("from nothing", cold.collect());

    let mut memory = Memory::default();
    let (mut table, _) = build(&view, &settings, &mut memory);
    println!("{} MiB with the table", resident());
    let unchanged = (0..ROUNDS).map(|_| {
        let started = Instant::now();
        let (next, _) = build(&view, &settings, &mut memory);
        assert!(next == table, "nothing changed");
        started.elapsed()
    });
    report("after no change, compared with the last", unchanged.collect());

    let changed = (0..ROUNDS).map(|round| {
        let name = format!("route-{round}");
        let slice = slice(&name, 1 + round % (ENDPOINTS - 1));
        view.slices.insert(slice.service().expect("labelled"), vec![Arc::new(slice)]);
        let started = Instant::now();
        let (next, _) = build(&view, &settings, &mut memory);
        assert!(next != table, "an endpoint changed");
        table = next;
        started.elapsed()
    });
    report("after a change of one slice, compared with the last", changed.collect());

    look_up_hosts(&table);
    look_up_rules();
    println!("{} MiB at the most", peak());
}

fn look_up_hosts(table: &RouteTable) {
    let headers = headers("t-1");
    let request = |number| (format!("host-{number}.example.com"), "/ws/socket".to_owned(), &headers);
    time("a look-up among 10,000 hosts", table, ROUTES, request);
}

/// Looks up rules of one host that differ in one respect.
fn look_up_rules() {
    let headers: Vec<_> = (0..RULES).map(|number| headers(&format!("t-{number}"))).collect();
    let path = |number| format!("/ws/{number}/socket");
    let by_path = table_of(|number| Conditions::new(PathPattern::prefix(&format!("/ws/{number}"))));
    time("a look-up among 1,000 paths of one host", &by_path, RULES, |number| (HOST.into(), path(number), &headers[0]));
    let tenant = |number| ValueCondition::header(TENANT, &format!("t-{number}"));
    let root = || Conditions::new(PathPattern::prefix("/"));
    let by_header = table_of(|number| root().with_values([tenant(number)]));
    let row = "a look-up among 1,000 values of one header on one path";
    time(row, &by_header, RULES, |number| (HOST.into(), path(number), &headers[number]));
    let version = |number| ValueCondition {
        source: ValueSource::QueryParameter("v".into()),
        text: TextPattern::Expression(Expression::parse(&format!("{number}")).expect("digits")),
    };
    let by_expression = table_of(|number| root().with_values([tenant(0), version(number)]));
    let row = "a look-up that tries 1,000 expressions without a match";
    time(row, &by_expression, RULES, |number| (HOST.into(), path(number), &headers[0]));
}

fn table_of(conditions: impl Fn(usize) -> Conditions) -> RouteTable {
    let mut table = RouteTable::default();
    for number in 0..RULES {
        let rule = Rule::new(ObjectName::new("bench", "many"), number.to_string());
        table.claim(&HostPattern::parse(HOST), conditions(number), Arc::new(rule));
    }
    table
}

/// A typical head of a client.
fn headers(tenant: &str) -> HeaderMap {
    let fields =
        ["upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "origin", "user-agent", "cookie"];
    let fields = fields.map(|name| (HeaderName::from_static(name), "a value of some length".to_owned()));
    let fields = fields.into_iter().chain([(TENANT, tenant.to_owned())]);
    fields.map(|(name, value)| (name, value.parse().expect("visible"))).collect()
}

/// Measures looking up a rule, in rounds of all requests, which are prepared beforehand.
fn time<'a>(
    what: &str,
    table: &RouteTable,
    requests: usize,
    request: impl Fn(usize) -> (String, String, &'a HeaderMap),
) {
    let requests: Vec<_> = (0..requests).map(request).collect();
    let rounds = (0..ROUNDS).map(|_| {
        let started = Instant::now();
        for (host, path, headers) in &requests {
            let host = Host::parse(host).expect("a host");
            let request = RequestView { path, query: "v=a", is_upgrade: true, headers: *headers };
            std::hint::black_box(table.find(&host, &request));
        }
        started.elapsed() / u32::try_from(requests.len()).expect("small")
    });
    report(what, rounds.collect());
}

/// An operator's list that reserves the routes' hostnames, and a hundred others.
fn tenancy() -> Tenancy {
    let mut owners = HostnameOwners::default();
    owners.reserve(&HostPattern::parse("*.example.com"), "bench");
    for number in 0..100 {
        owners.reserve(&HostPattern::parse(&format!("*.team-{number}.example.org")), format!("team-{number}"));
    }
    Tenancy::Separate(Arc::new(owners))
}

fn build(view: &ClusterView, settings: &CompileSettings, memory: &mut Memory) -> (RouteTable, Duration) {
    let started = Instant::now();
    let compiled = compile(view, settings, memory, SystemTime::UNIX_EPOCH);
    let duration = started.elapsed();
    assert_eq!(compiled.table.routes(), ROUTES);
    assert!(compiled.verdicts.iter().all(|verdict| verdict.problems.is_empty()));
    (compiled.table, duration)
}

fn report(what: &str, mut durations: Vec<Duration>) {
    durations.sort();
    let at = |share: usize| durations[(durations.len() - 1) * share / 100];
    println!("{what}: median {:.1?}, fastest {:.1?}, slowest {:.1?}", at(50), at(0), at(100));
}

fn view() -> ClusterView {
    let mut view = ClusterView::default();
    for number in 0..ROUTES {
        let name = format!("route-{number}");
        view.routes.push(Arc::new(route(number, &name)));
        let service: ServiceObject = parse(json!({
            "metadata": { "name": name, "namespace": "bench" },
            "spec": { "type": "ClusterIP", "ports": [{ "name": "ws", "port": 80, "protocol": "TCP" }] },
        }));
        view.services.insert(object_name(&service.metadata), Arc::new(service));
        let slice = slice(&name, 0);
        view.slices.insert(slice.service().expect("labelled"), vec![Arc::new(slice)]);
    }
    view
}

fn route(number: usize, name: &str) -> RouteObject {
    parse(json!({
        "metadata": { "name": name, "namespace": "bench", "generation": 1 },
        "spec": {
            "className": "switchyard",
            "hostnames": [format!("host-{number}.example.com")],
            "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": "/ws" } }],
                "backendRefs": [{ "name": name, "port": 80 }],
                "sessionPersistence": { "type": "Cookie" },
            }],
        },
    }))
}

fn slice(service: &str, ready_from: usize) -> SliceObject {
    let endpoint = |number: usize| {
        json!({
            "addresses": [format!("10.{}.{}.{number}", service.len(), number)],
            "conditions": { "ready": number >= ready_from, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "name": format!("{service}-{number}"), "uid": format!("{service}-uid-{number}") },
        })
    };
    parse(json!({
        "metadata": {
            "name": service, "namespace": "bench", "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "ws", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    }))
}

fn parse<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("an object as the API server sends it")
}

fn resident() -> u64 {
    status("VmRSS:")
}

fn peak() -> u64 {
    status("VmHWM:")
}

/// A size from the kernel's statistics of this process, in MiB.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel's fields");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") / 1024
}
