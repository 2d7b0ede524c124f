//! What building a table costs: 10,000 routes, 10,000 Services and 100,000 endpoints, from nothing, after one change,
//! and after none. Run by `make bench-table`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use switchyard::{
    api::RouteObject,
    compile::{ClusterView, Memory, ServiceObject, Settings, SliceObject, Surroundings, compile, object_name},
    table::{Host, HostPattern, HostnameOwners, RouteTable, Tenancy},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ROUTES: usize = 10_000;
const ENDPOINTS: usize = 10;
const ROUNDS: usize = 21;

fn main() {
    let mut view = view();
    println!(
        "{ROUTES} routes, {ROUTES} services, {} endpoints; {} MiB for the objects",
        ROUTES * ENDPOINTS,
        resident()
    );
    let settings = Settings {
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

    let started = Instant::now();
    for number in 0..ROUTES {
        let host = format!("host-{number}.example.com");
        std::hint::black_box(table.find(&Host::parse(&host).expect("a host"), "/ws/socket"));
    }
    println!("a look-up: {:?}", started.elapsed() / u32::try_from(ROUTES).expect("small"));
    println!("{} MiB at the most", peak());
}

/// An operator who reserves what the routes name, and a hundred other hostnames.
fn tenancy() -> Tenancy {
    let mut owners = HostnameOwners::default();
    owners.reserve(&HostPattern::parse("*.example.com"), "bench");
    for number in 0..100 {
        owners.reserve(&HostPattern::parse(&format!("*.team-{number}.example.org")), format!("team-{number}"));
    }
    Tenancy::Separate(Arc::new(owners))
}

fn build(view: &ClusterView, settings: &Settings, memory: &mut Memory) -> (RouteTable, Duration) {
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

/// A size from the kernel's account of this process, in MiB.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel's fields");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") / 1024
}
