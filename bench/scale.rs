//! The cost of a large cluster: 10,000 routes, 10,000 Services and 100,000 endpoints in a real API server. Run by
//! `make bench-scale`.
//!
//! Prints the time from the start of a controller until it is ready and until all statuses are written, its memory
//! (PSS), its CPU time while nothing happens and while 50 endpoints change each second, and the requests that it sends.

#[path = "../tests/shared/mod.rs"]
mod shared;
#[path = "../tests/cluster/support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use switchyard::api::WebSocketRoute;
use tokio::{sync::mpsc, time::timeout};

use support::{Bed, Controller, block_on, create, eventually_within, objects, programmed};

const NAMESPACE: &str = "scale";
const ROUTES: usize = 10_000;
const ENDPOINTS: usize = 10;
const CHANGES_PER_SECOND: u32 = 50;
const WINDOW: Duration = Duration::from_secs(30);
/// Time limit for slow steps, after which they count as stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// The interval for checking whether Events are still created.
const EVENTS_LOOK: Duration = Duration::from_secs(2);
/// The kernel counts process times in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

fn main() {
    let Some(bed) = Bed::shared() else { return };
    bed.namespace(NAMESPACE);
    block_on(fill(&bed.client()));
    let routes = ROUTES;
    println!("{routes} routes, {routes} Services, {} endpoints", ROUTES * ENDPOINTS);

    let mut programmed = block_on(programmed(&bed.client(), NAMESPACE));
    let (before, started) = (requests(bed), Instant::now());
    let controller = Controller::launch(bed, NAMESPACE);
    eventually_within(PATIENCE, || if controller.is_ready() { Ok(()) } else { Err("not ready".to_owned()) });
    println!("ready after {:.1} s", started.elapsed().as_secs_f64());
    tell_cost(&controller);
    block_on(all_programmed(&mut programmed));
    println!("all statuses written after {:.1} s", started.elapsed().as_secs_f64());
    tell_cost(&controller);
    tell_requests("requests until then", &before, &requests(bed));
    let before = after_the_last_event(bed);
    println!("all Events told after {:.0} s", started.elapsed().as_secs_f64());

    println!("processor, nothing happening: {:.1} % of one", used_during(&controller, || std::thread::sleep(WINDOW)));
    tell_requests("requests in that time", &before, &requests(bed));
    let before = requests(bed);
    let used = used_during(&controller, || block_on(churn(&bed.client())));
    println!("processor, {CHANGES_PER_SECOND} endpoints changing each second: {used:.1} % of one");
    tell_requests("requests in that time, the changes included", &before, &requests(bed));
    println!("memory at the end: {} MiB", pss(&controller));
}

async fn fill(client: &Client) {
    create::<Service>(client, NAMESPACE, (0..ROUTES).map(|number| objects::service(NAMESPACE, &name(number)))).await;
    create::<EndpointSlice>(client, NAMESPACE, (0..ROUTES).map(|number| slice(number, 0))).await;
    let route =
        |number| objects::route(NAMESPACE, &name(number), &format!("route-{number}.example.com"), &name(number));
    create::<WebSocketRoute>(client, NAMESPACE, (0..ROUTES).map(route)).await;
}

/// Replaces one endpoint of a slice repeatedly, evenly over time.
async fn churn(client: &Client) {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
    let (began, spacing) = (Instant::now(), Duration::from_secs(1) / CHANGES_PER_SECOND);
    for number in 0.. {
        let at = began + spacing * number;
        if at >= began + WINDOW {
            return;
        }
        tokio::time::sleep_until(at.into()).await;
        let number = number as usize % ROUTES;
        let patch = Patch::Merge(json!({ "endpoints": slice(number, 1)["endpoints"] }));
        api.patch(&name(number), &PatchParams::default(), &patch).await.expect("the API server takes it");
    }
}

fn slice(number: usize, replaced: usize) -> Value {
    let endpoint = |endpoint: usize| {
        let host = if endpoint < replaced { endpoint + ENDPOINTS } else { endpoint };
        let address = format!("198.18.{}.{}", number % 250, host + 1);
        let uid = format!("{number}-{host}");
        json!({ "addresses": [address], "conditions": { "ready": true }, "targetRef": { "kind": "Pod", "name": uid, "uid": uid } })
    };
    let mut slice = objects::slice(NAMESPACE, &name(number), &name(number), &[]);
    slice["endpoints"] = (0..ENDPOINTS).map(endpoint).collect();
    slice
}

fn name(number: usize) -> String {
    format!("chat-{number}")
}

/// Waits until every route has been observed as programmed.
async fn all_programmed(programmed: &mut mpsc::UnboundedReceiver<(String, i64)>) {
    let mut seen = HashSet::new();
    while seen.len() < ROUTES {
        let told = timeout(PATIENCE, programmed.recv()).await;
        let Ok(Some((route, _))) = told else { panic!("nothing more is heard after {} routes", seen.len()) };
        seen.insert(route);
    }
}

/// Waits until no more Events are created, which are published one by one after the statuses; returns the requests so
/// far.
fn after_the_last_event(bed: &Bed) -> BTreeMap<String, u64> {
    let mut before = requests(bed);
    eventually_within(PATIENCE, || {
        std::thread::sleep(EVENTS_LOOK);
        let now = requests(bed);
        let created = |of: &BTreeMap<String, u64>| of.get("POST events").copied();
        let is_over = created(&before) == created(&now);
        before = now;
        if is_over { Ok(before.clone()) } else { Err("Events are still told".to_owned()) }
    })
}

fn tell_cost(controller: &Controller) {
    println!("memory then: {} MiB", pss(controller));
    println!("processor until then: {:.1} s", used(controller).as_secs_f64());
}

/// The process's PSS.
fn pss(controller: &Controller) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", controller.id())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the kernel tells");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("it is a number") / 1_024
}

/// A controller's share of a processor during some activity.
fn used_during(controller: &Controller, work: impl FnOnce()) -> f64 {
    let (before, began) = (used(controller), Instant::now());
    work();
    let used = used(controller).saturating_sub(before);
    used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0
}

fn used(controller: &Controller) -> Duration {
    let text = fs::read_to_string(format!("/proc/{}/stat", controller.id())).expect("it runs");
    let (_, fields) = text.rsplit_once(')').expect("the name is in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("it is a number"));
    TICK * ticks.sum::<u32>()
}

/// The API server's requests for the controller's resources; watches count when they end.
fn requests(bed: &Bed) -> BTreeMap<String, u64> {
    let metrics = bed.plane.kubectl(&["get", "--raw", "/metrics"], "").expect("the API server answers");
    let mut requests = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else { continue };
        if ["websocketroutes", "services", "endpointslices", "secrets", "leases", "events"].contains(&resource) {
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).unwrap_or_default();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
            let count = count as u64;
            *requests.entry(format!("{verb} {resource}")).or_default() += count;
        }
    }
    requests
}

fn tell_requests(what: &str, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) {
    println!("{what}:");
    for (request, count) in after {
        let count = count - before.get(request).unwrap_or(&0);
        if count > 0 {
            println!("  {count:>6} {request}");
        }
    }
}
