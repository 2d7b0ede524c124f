//! The latency of a change, with 1,000 routes and 5,000 endpoints in the cluster: from the API server's response to the
//! first new connection served by the new table; then, with three replicas, until it is reported as served by all of
//! them. Run by `make bench-apply`.
//!
//! For the first, a client reconnects repeatedly from the moment of the response, so the cost of a connection is part
//! of the time. For the second, a watch observes the condition `Programmed`.

#[path = "../tests/shared/mod.rs"]
mod shared;
#[path = "../tests/cluster/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use switchyard::api::WebSocketRoute;
use tokio::sync::mpsc;

use support::{Backend, Bed, Controller, block_on, create, objects, programmed};

const NAMESPACE: &str = "bench";
const ROUTES: usize = 1_000;
const SERVICES: usize = 50;
const ENDPOINTS: usize = 100;
const CHANGES: usize = 200;
const REPLICAS: usize = 3;
/// The limits for the 99th percentiles.
const TARGET: Duration = Duration::from_millis(150);
const PROGRAMMED_TARGET: Duration = Duration::from_secs(1);

fn main() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace(NAMESPACE);
    let (blue, green) = (Backend::start("blue", 11), Backend::start("green", 12));
    bed.plane.apply(&[
        objects::service(namespace, "blue"),
        objects::service(namespace, "green"),
        objects::slice(namespace, "blue", "blue-1", &[&blue]),
        objects::slice(namespace, "green", "green-1", &[&green]),
    ]);
    block_on(fill(&bed.client()));
    let controller = Controller::start(bed, namespace);
    controller.wait_for_backend(&host(ROUTES - 1), "blue");
    // The statuses of a thousand new routes are written first, which is not a single change.
    bed.wait_for(namespace, &name(ROUTES - 1), "Accepted", "True", "Accepted");

    println!("{ROUTES} routes, {} endpoints, {CHANGES} single changes", SERVICES * ENDPOINTS);
    println!("from the API server's answer to the first connection served by the new table:");
    let served = (0..CHANGES).map(|number| block_on(change(&bed.client(), &controller, number)));
    let served = tell(served.collect());

    let more: Vec<_> = (1..REPLICAS).map(|_| Controller::start(bed, namespace)).collect();
    let mut programmed = block_on(programmed(&bed.client(), NAMESPACE));
    println!("from the API server's answer to Programmed, with {REPLICAS} replicas:");
    let told = (0..CHANGES).map(|number| block_on(change_until_programmed(&bed.client(), &mut programmed, number)));
    let told = tell(told.collect());
    drop(more);
    assert!(served < TARGET, "p99 must be below {TARGET:?}");
    assert!(told < PROGRAMMED_TARGET, "p99 must be below {PROGRAMMED_TARGET:?}");
}

/// Prints percentiles, and returns the 99th.
fn tell(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let percentile = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    for percent in [50, 90, 99] {
        println!("  p{percent:<4} {:>8.1} ms", milliseconds(percentile(percent)));
    }
    println!("  max   {:>8.1} ms", milliseconds(percentile(100)));
    percentile(99)
}

/// Routes back, and returns the time until the route's status reports that every replica serves it.
async fn change_until_programmed(
    client: &Client,
    programmed: &mut mpsc::UnboundedReceiver<(String, i64)>,
    number: usize,
) -> Duration {
    let name = name(number * (ROUTES / CHANGES));
    let api = Api::<WebSocketRoute>::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({ "spec": spec(number * (ROUTES / CHANGES), "blue") }));
    let route = api.patch(&name, &PatchParams::default(), &patch).await.expect("the change is valid");
    let (answered, wanted) = (Instant::now(), (name, route.metadata.generation.unwrap_or_default()));
    loop {
        let told = programmed.recv().await.expect("the watch goes on");
        if told == wanted {
            return answered.elapsed();
        }
    }
}

/// Reroutes, and returns the time until a new connection goes to the new backend.
async fn change(client: &Client, controller: &Controller, number: usize) -> Duration {
    let route = number * (ROUTES / CHANGES);
    let api = Api::<WebSocketRoute>::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({ "spec": spec(route, "green") }));
    let (proxy, host) = (controller.http(), host(route));
    api.patch(&name(route), &PatchParams::default(), &patch).await.expect("the change is valid");
    let answered = Instant::now();
    loop {
        match support::Client::open(proxy, &host, "/").await {
            Ok(socket) if socket.backend == "green" => return answered.elapsed(),
            Ok(_) => {}
            Err(error) => panic!("{host}: {error}"),
        }
    }
}

/// The routes, and Services with unused endpoints.
async fn fill(client: &Client) {
    let services = (0..SERVICES).map(|number| objects::service(NAMESPACE, &format!("fill-{number}")));
    create::<Service>(client, NAMESPACE, services).await;
    create::<EndpointSlice>(client, NAMESPACE, (0..SERVICES).map(slice)).await;
    let routes = (0..ROUTES).map(|number| {
        let mut route = objects::route(NAMESPACE, &name(number), &host(number), "blue");
        route["spec"] = spec(number, "blue");
        route
    });
    create::<WebSocketRoute>(client, NAMESPACE, routes).await;
}

fn spec(number: usize, backend: &str) -> Value {
    let fill = format!("fill-{}", number % SERVICES);
    json!({
        "className": NAMESPACE,
        "hostnames": [host(number)],
        "rules": [
            {
                "matches": [{ "path": { "value": "/fill" } }],
                "backendRefs": [{ "name": fill, "port": 80 }],
            },
            { "backendRefs": [{ "name": backend, "port": 80 }] },
        ],
    })
}

fn slice(number: usize) -> Value {
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(
            |endpoint| json!({ "addresses": [format!("198.18.{number}.{endpoint}")], "conditions": { "ready": true } }),
        )
        .collect();
    let service = format!("fill-{number}");
    let mut slice = objects::slice(NAMESPACE, &service, &service, &[]);
    slice["endpoints"] = json!(endpoints);
    slice
}

fn name(number: usize) -> String {
    format!("route-{number}")
}

fn host(number: usize) -> String {
    format!("route-{number}.example.com")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
