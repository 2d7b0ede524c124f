//! Statuses are true, whatever happens to the objects.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use switchyard::api::RouteObject;

use crate::support::{Backend, Bed, Client, Controller, block_on, eventually, objects};

const CHANGES: usize = 100;
const ROUTES: usize = 8;
const HOSTS: usize = 4;
const SERVICES: usize = 4;
const SEED: u64 = 20_261_125;

/// A namespace that is changed at random, three replicas that serve it, and its objects.
struct World<'a> {
    bed: &'a Bed,
    namespace: &'a str,
    replicas: Vec<Controller>,
    backends: Vec<Backend>,
    services: BTreeSet<usize>,
    random: Rng,
}

/// The expected conditions of a route: their status and reason.
type Said = BTreeMap<String, (String, String)>;

/// The result of a connection: a backend's name, or a part of an error.
type Served = Result<String, &'static str>;

#[test]
fn a_hundred_random_changes_leave_statuses_that_are_true_on_three_replicas() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("truth");
    let replicas = ["one", "two", "three"].map(|name| Controller::replica(bed, namespace, name)).into();
    let backends = (0..SERVICES).zip(27..).map(|(number, address)| Backend::start(&format!("s{number}"), address));
    let random = Rng::with_seed(SEED);
    let mut world = World { bed, namespace, replicas, backends: backends.collect(), services: BTreeSet::new(), random };
    world.start();
    let mut changes = 0;
    while changes < CHANGES {
        let burst = world.random.usize(1..=5).min(CHANGES - changes);
        let told: Vec<_> = (0..burst).map(|_| world.change()).collect();
        changes += burst;
        println!("after {changes}: {told:?}");
        world.check(told.iter().all(|(_, is_told)| *is_told));
    }
}

impl World<'_> {
    fn start(&mut self) {
        for number in 0..SERVICES {
            let backend = &self.backends[number];
            self.bed.plane.apply(&[objects::slice(self.namespace, &backend.name, &backend.name, &[backend])]);
            self.toggle_service(number);
        }
    }

    /// Changes something; returns what, and whether it is visible in the status of a route.
    fn change(&mut self) -> (String, bool) {
        match self.random.usize(0..10) {
            0 => {
                let number = self.random.usize(0..SERVICES);
                self.toggle_service(number);
                (format!("service s{number}"), false)
            }
            1 => {
                let name = format!("r{}", self.random.usize(0..ROUTES));
                let api = Api::<RouteObject>::namespaced(self.bed.client(), self.namespace);
                // It may not exist.
                let _ = block_on(api.delete(&name, &DeleteParams::default()));
                (format!("delete {name}"), false)
            }
            2 => self.apply(Some("truth-nobody")),
            _ => self.apply(None),
        }
    }

    fn apply(&mut self, class: Option<&str>) -> (String, bool) {
        let random = &mut self.random;
        let (name, host) = (format!("r{}", random.usize(0..ROUTES)), host(random.usize(0..HOSTS)));
        let service = format!("s{}", random.usize(0..=SERVICES));
        let mut route = objects::route(self.namespace, &name, &host, &service);
        if random.u8(0..6) == 0 {
            route["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(81);
        }
        if let Some(class) = class {
            route["spec"]["className"] = json!(class);
        }
        self.bed.plane.apply(&[route]);
        (format!("{name} {host} {service} {class:?}"), class.is_none())
    }

    fn toggle_service(&mut self, number: usize) {
        let name = &self.backends[number].name;
        if self.services.remove(&number) {
            self.bed.plane.delete(self.namespace, "service", name);
        } else {
            self.bed.plane.apply(&[objects::service(self.namespace, name)]);
            self.services.insert(number);
        }
    }

    /// Waits until all statuses are as expected; then all replicas are too. At once if all changes are visible in
    /// statuses.
    fn check(&self, at_once: bool) {
        let served = eventually(|| {
            let routes = self.routes();
            let mut expected = self.expected(&routes);
            for route in &routes {
                let name = route.metadata.name.clone().unwrap();
                let (said, wanted) = (said(route), expected.statuses.remove(&name).unwrap_or_default());
                if said.as_ref() != Ok(&wanted) {
                    return Err(format!("{name} says {said:?} instead of {wanted:?}"));
                }
            }
            Ok(expected.hosts)
        });
        for (host, wanted) in served {
            for replica in &self.replicas {
                let look = || is_served(replica, &host, &wanted);
                if at_once { look().unwrap() } else { eventually(look) }
            }
        }
    }

    fn routes(&self) -> Vec<RouteObject> {
        let api = Api::<RouteObject>::namespaced(self.bed.client(), self.namespace);
        let mut routes = block_on(api.list(&ListParams::default())).unwrap().items;
        let age = |route: &RouteObject| (route.metadata.creation_timestamp.clone(), route.metadata.name.clone());
        routes.sort_by_key(age);
        routes
    }

    /// The API's rules applied to these routes, oldest first: the oldest one that names a host gets it.
    fn expected(&self, routes: &[RouteObject]) -> Expected {
        let mut expected = Expected::default();
        for number in 0..HOSTS {
            expected.hosts.insert(host(number), Err("404"));
        }
        for route in routes {
            let name = route.metadata.name.clone().unwrap();
            let spec = route.spec.as_ref().unwrap();
            if spec.class_name != self.namespace {
                expected.statuses.insert(name, Said::new());
                continue;
            }
            let (host, reference) = (&spec.hostnames[0], &spec.rules[0].backend_refs[0]);
            let service = (0..SERVICES).find(|number| reference.name == format!("s{number}"));
            let exists = service.is_some_and(|number| self.services.contains(&number));
            let resolved = match (exists, reference.port) {
                (false, _) => ("False", "BackendNotFound"),
                (true, 80) => ("True", "ResolvedRefs"),
                (true, _) => ("False", "UnknownPort"),
            };
            let wins = expected.hosts[host] == Err("404");
            if wins {
                let answer = if resolved.0 == "True" { Ok(reference.name.clone()) } else { Err("503") };
                expected.hosts.insert(host.clone(), answer);
            }
            let said = [
                ("Accepted", if wins { ("True", "Accepted") } else { ("False", "Conflicted") }),
                ("Programmed", if wins { ("True", "Programmed") } else { ("False", "Invalid") }),
                ("ResolvedRefs", resolved),
            ];
            let said = said.map(|(type_, (status, reason))| (type_.to_owned(), (status.to_owned(), reason.to_owned())));
            expected.statuses.insert(name, said.into());
        }
        expected
    }
}

#[derive(Default)]
struct Expected {
    statuses: BTreeMap<String, Said>,
    hosts: BTreeMap<String, Served>,
}

fn host(number: usize) -> String {
    format!("truth-{number}.example.com")
}

/// A route's conditions, except informational ones; an error if they are about an older spec.
fn said(route: &RouteObject) -> Result<Said, String> {
    let mut said = Said::new();
    for condition in &route.status.conditions {
        if condition.type_ == "BackendsReady" || condition.status == "Unknown" {
            continue;
        }
        if condition.observed_generation != route.metadata.generation {
            return Err(format!("{} of generation {:?}", condition.type_, condition.observed_generation));
        }
        said.insert(condition.type_.clone(), (condition.status.clone(), condition.reason.clone()));
    }
    Ok(said)
}

fn is_served(replica: &Controller, host: &str, wanted: &Served) -> Result<(), String> {
    let reached = Client::connect(replica.http(), host, "/").map(|client| client.backend);
    let fits = match (&reached, wanted) {
        (Ok(reached), Ok(wanted)) => reached == wanted,
        (Err(error), Err(wanted)) => error.contains(wanted),
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{host} is {reached:?} instead of {wanted:?}")) }
}
