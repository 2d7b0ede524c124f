//! A user's first day with Switchyard, from `helm install` to `helm uninstall`, with sockets open all day.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    day::{Day, Pod, SHOP, https, seconds},
    fleet::{End, Fleet, Heard},
    image,
    manifests::{self, BLUE, GREEN, HOST, LINGER_SECONDS, TOKEN, TOKENS},
    node::{IMAGE, Node},
    shared::{certificates::Certificates, plain},
    socket::{Ended, Site, Socket},
    support::{RELEASE, SYSTEM, block_on, chart, eventually},
};

/// The number of users.
const USERS: usize = 24;
const REPLICAS: usize = 3;
/// The values of the release. The pods' grace period is longer than both together.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);
const DRAIN_WINDOW: Duration = Duration::from_secs(5);
/// Tolerance for promised times, on a machine where everything shares two cores.
const LEEWAY: Duration = Duration::from_secs(5);

const GOING_AWAY: u16 = 1001;
const SERVICE_RESTART: u16 = 1012;

#[test]
fn the_first_day_goes_well_with_sockets_open() {
    let began = Instant::now();
    let Some(node) = Node::or_skip() else { return };
    let day = Day::new(node);
    day.step("A node");
    day.saw(&format!("ready {} after its first process", seconds(began.elapsed())));
    day.saw(day.kubectl(&["get", "nodes", "-o", "wide"]).lines().last().unwrap_or_default());
    let before = inventory(&day);

    the_image(&day);
    install(&day);
    let first = Certificates::for_host(HOST);
    let site = Site::new(HOST, &first.authority);
    apply(&day, &site, &first);
    let fleet = connect(&day, &site);
    sticky(&day, &site);
    reroute(&day, &site, &fleet);
    restart_the_backend(&day, &site, &fleet);
    scale(&day, &site, &fleet);
    let site = rotate_the_certificate(&day, &site, &fleet);
    upgrade(&day, &site, &fleet);
    restart_the_release(&day, &site, &fleet);
    delete_a_replica(&day, &site, &fleet);
    uninstall(&day, fleet, &before);
    println!("\nThe day took {}.", seconds(began.elapsed()));
}

fn the_image(day: &Day) {
    day.step("The image");
    for line in image::examined() {
        day.saw(&line);
    }
}

fn install(day: &Day) {
    day.step("helm install");
    let (repository, tag) = IMAGE;
    let sets = [
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        "image.pullPolicy=Never".to_owned(),
        "service.type=NodePort".to_owned(),
        format!("replicaCount={REPLICAS}"),
        format!("shutdownDelay={}s", SHUTDOWN_DELAY.as_secs()),
        format!("drainWindow={}s", DRAIN_WINDOW.as_secs()),
    ];
    let chart = chart();
    let mut arguments = vec!["install", RELEASE, &chart, "--namespace", SYSTEM, "--create-namespace"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
    day.helm(&arguments);
    day.saw("installed");
    day.rolled_out(SYSTEM, RELEASE);
    let replicas = day.wait_for_replicas(REPLICAS);
    day.saw(&format!("{} replicas are ready: {}", replicas.len(), names(&replicas)));
    helm_test(day);
}

fn helm_test(day: &Day) {
    day.helm(&["test", RELEASE, "--namespace", SYSTEM]);
    day.saw("helm test passes: each Service leads to a proxy");
}

fn apply(day: &Day, site: &Site, certificates: &Certificates) {
    day.step("kubectl apply: two versions of a backend, a certificate, a route");
    day.node.plane.apply(&[manifests::namespace()]);
    let [blue, blue_service] = manifests::backend(BLUE, 3);
    let [green, green_service] = manifests::backend(GREEN, 2);
    let certificate = manifests::certificate(certificates);
    day.node.plane.apply(&[blue, blue_service, green, green_service, certificate]);
    day.rolled_out(SHOP, BLUE);
    day.rolled_out(SHOP, GREEN);
    day.saw("the backend's pods are ready");
    day.node.plane.apply(&[manifests::route(BLUE)]);
    let applied = Instant::now();
    day.programmed("chat");
    day.saw(&format!("the route is Programmed {} after it was applied", seconds(applied.elapsed())));
    every_replica_leads_to(day, site, BLUE);
}

/// Opens the sockets that are watched all day.
fn connect(day: &Day, site: &Site) -> Fleet {
    day.step("Connect with wss through the node's port");
    let fleet = Fleet::start(USERS, day.entrance(), site);
    assert_eq!(fleet.pods(), day.staying(SHOP, "app=blue"), "each pod has a share");
    day.saw(&format!("{} sockets are open: {}", fleet.len(), shares(&fleet.by_pod())));
    nothing_ended(day, &fleet);
    fleet
}

fn sticky(day: &Day, site: &Site) {
    day.step("Sticky: a session comes back to its pod, on every replica");
    let replicas = day.replicas();
    let sessions: Vec<_> = replicas
        .iter()
        .flat_map(|replica| std::iter::repeat_n(https(replica), 4))
        .map(|at| block_on(Socket::open(at, site, None)).expect("sockets can be opened"))
        .collect();
    for session in &sessions {
        let cookie = session.cookie.as_deref().expect("a session has a cookie");
        for replica in &replicas {
            let again = block_on(Socket::open(https(replica), site, Some(cookie))).expect("sessions can come back");
            assert_eq!(again.pod, session.pod, "through {}", replica.name);
        }
    }
    let pods: BTreeSet<_> = sessions.iter().map(|session| &session.pod).collect();
    assert!(pods.len() > 1, "sessions are spread over pods");
    day.saw(&format!("{} sessions, {} pods, {} replicas: all came back", sessions.len(), pods.len(), replicas.len()));
}

fn reroute(day: &Day, site: &Site, fleet: &Fleet) {
    day.step("Reroute with sockets open");
    for backend in [GREEN, BLUE] {
        day.node.plane.apply(&[manifests::route(backend)]);
        let applied = Instant::now();
        day.programmed("chat");
        day.saw(&format!("{backend}: Programmed after {}", seconds(applied.elapsed())));
        every_replica_leads_to(day, site, backend);
        assert_eq!(fleet.pods(), day.staying(SHOP, "app=blue"), "open sockets stay");
        nothing_ended(day, fleet);
    }
}

fn restart_the_backend(day: &Day, site: &Site, fleet: &Fleet) {
    day.step("Rolling restart of the backend");
    let old = day.staying(SHOP, "app=blue");
    day.kubectl(&["rollout", "restart", "-n", SHOP, "deployment/blue"]);
    // New pods serve before the last old ones have let their users finish.
    let seen = eventually(|| {
        let new = day.staying(SHOP, "app=blue");
        let reached = day.reached_through_every_replica(site);
        if new.is_disjoint(&old) && reached.is_subset(&new) {
            Ok(fleet.pods())
        } else {
            Err(format!("{reached:?} {new:?}"))
        }
    });
    let kept: Vec<_> = seen.intersection(&old).cloned().collect();
    assert!(!kept.is_empty(), "an old pod keeps its sockets while it serves; they are with {seen:?}");
    day.saw(&format!("new sockets go to new pods alone; {} old pods still have theirs", kept.len()));
    let ends = until_gone(day, fleet, &old);
    each_ended_with(&ends, GOING_AWAY, "the pod ends");
    assert!(ends.iter().all(|end| old.contains(&end.from) && !old.contains(&end.to)), "{ends:?}");
    assert_eq!(ends.len(), fleet.len(), "each user moved once");
    day.saw(&moved(&ends));
}

fn scale(day: &Day, site: &Site, fleet: &Fleet) {
    day.step("Scale out and in");
    let few = day.staying(SHOP, "app=blue");
    day.kubectl(&["scale", "-n", SHOP, "deployment/blue", "--replicas=6"]);
    day.rolled_out(SHOP, BLUE);
    let many = day.staying(SHOP, "app=blue");
    // They have the fewest connections, so they get the next ones.
    let more: BTreeSet<_> = many.difference(&few).cloned().collect();
    eventually(|| {
        let reached = day.reached_through_every_replica(site);
        if reached.is_superset(&more) { Ok(()) } else { Err(format!("{reached:?} of {more:?}")) }
    });
    day.saw("out to 6: new sockets reach the new pods");
    assert!(fleet.pods().is_subset(&few), "open sockets stay");
    nothing_ended(day, fleet);

    day.kubectl(&["scale", "-n", SHOP, "deployment/blue", "--replicas=2"]);
    let stay = eventually(|| {
        let stay = day.staying(SHOP, "app=blue");
        if stay.len() == 2 { Ok(stay) } else { Err(format!("{stay:?}")) }
    });
    let told = Instant::now();
    let removed: BTreeSet<_> = many.difference(&stay).cloned().collect();
    let before = fleet.by_pod();
    let concerned: usize = removed.iter().filter_map(|pod| before.get(pod)).sum();
    let ends = until_gone(day, fleet, &removed);
    each_ended_with(&ends, GOING_AWAY, "the pod ends");
    assert!(ends.iter().all(|end| removed.contains(&end.from) && stay.contains(&end.to)), "{ends:?}");
    assert_eq!(ends.len(), concerned, "only sockets of removed pods ended");
    let served = Duration::from_secs(LINGER_SECONDS);
    assert!(ends.iter().all(|end| end.at - told + LEEWAY > served), "they were served as long as the pod served");
    day.saw(&format!("in to 2: {} of {} sockets were with pods that went", concerned, fleet.len()));
    day.saw(&moved(&ends));
}

/// The site with the new certificate.
fn rotate_the_certificate(day: &Day, old: &Site, fleet: &Fleet) -> Site {
    day.step("Rotate the certificate");
    let certificates = Certificates::for_host(HOST);
    let new = Site::new(HOST, &certificates.authority);
    day.node.plane.apply(&[manifests::certificate(&certificates)]);
    let applied = Instant::now();
    for replica in day.replicas() {
        eventually(|| block_on(Socket::open(https(&replica), &new, None)).map(drop));
        let refused = block_on(Socket::open(https(&replica), old, None)).err().expect("the old one is gone");
        assert!(refused.starts_with("TLS: "), "{refused}");
    }
    day.saw(&format!("every replica sends the new one, {} after it was applied", seconds(applied.elapsed())));
    nothing_ended(day, fleet);
    fleet.visit(&new);
    new
}

fn upgrade(day: &Day, site: &Site, fleet: &Fleet) {
    day.step("helm upgrade with changed values");
    let chart = chart();
    let tokens = format!("adminToken.existingSecret={TOKENS}");
    day.node.plane.apply(&[manifests::tokens(), manifests::catch_all()]);
    roll(day, site, fleet, || {
        let values = ["--reuse-values", "--set", "log.level=debug", "--set", "threads=1", "--set", &tokens];
        day.helm(&[&["upgrade", RELEASE, &chart, "--namespace", SYSTEM][..], &values].concat());
    });
    let arguments = r"jsonpath={.spec.template.spec.containers[0].args}";
    let arguments = day.kubectl(&["get", "-n", SYSTEM, "deployment", RELEASE, "-o", arguments]);
    assert!(arguments.contains("--log-level=debug") && arguments.contains("--threads=1"), "{arguments}");
    for replica in day.replicas() {
        let refused = api(&replica, "");
        assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
        let told = api(&replica, &format!("Authorization: Bearer {TOKEN}\r\n"));
        assert!(told.starts_with("HTTP/1.1 200 ") && told.contains(HOST), "{told}");
    }
    day.saw("the API of each replica opens to the token");
    helm_test(day);
    day.node.plane.delete(SHOP, "websocketroute", "rest");
}

/// A client on the node reads a replica's API.
fn api(replica: &Pod, fields: &str) -> String {
    let address = SocketAddr::new(replica.address, 9090);
    plain::get(address, &address.to_string(), "/api/v1/routes", fields).unwrap()
}

fn restart_the_release(day: &Day, site: &Site, fleet: &Fleet) {
    day.step("Rolling restart of all replicas");
    roll(day, site, fleet, || {
        day.kubectl(&["rollout", "restart", "-n", SYSTEM, &format!("deployment/{RELEASE}")]);
    });
}

/// All replicas are replaced: users are told to reconnect, can do so at once, and return to their pods.
fn roll(day: &Day, site: &Site, fleet: &Fleet, begin: impl FnOnce()) {
    let old = day.replicas();
    let pods = fleet.by_pod();
    begin();
    day.rolled_out(SYSTEM, RELEASE);
    day.saw("new replicas serve");
    let new = day.wait_for_replicas(REPLICAS);
    let kept: Vec<_> = new.iter().filter(|replica| old.contains(replica)).collect();
    assert!(kept.is_empty(), "each is replaced: {kept:?}");
    day.saw("the old ones are gone");
    let ends = settled(fleet);
    each_ended_with(&ends, SERVICE_RESTART, "server restarting, please reconnect");
    each_kept_its_pod(&ends);
    assert_eq!(fleet.by_pod(), pods);
    assert!(ends.len() >= fleet.len(), "each user was with a replica that is gone");
    day.saw(&moved(&ends));
    every_replica_leads_to(day, site, BLUE);
}

fn delete_a_replica(day: &Day, site: &Site, fleet: &Fleet) {
    day.step("Delete the replica that writes statuses");
    let writer = eventually(|| {
        writer(day)
            .filter(|writer| day.replicas().iter().any(|pod| pod.name == *writer))
            .ok_or_else(|| "nobody writes".to_owned())
    });
    day.saw(&format!("it is {writer}"));
    let deleted = Instant::now();
    day.kubectl(&["delete", "pod", "-n", SYSTEM, &writer, "--wait=false"]);
    day.node.plane.apply(&[manifests::route(GREEN)]);
    let next = eventually(|| match self::writer(day) {
        Some(next) if next != writer => Ok(next),
        other => Err(format!("{other:?} writes")),
    });
    day.saw(&format!("{next} writes, {} after the deletion", seconds(deleted.elapsed())));
    day.programmed("chat");
    day.saw("a change that was made meanwhile is Programmed");
    every_replica_leads_to(day, site, GREEN);
    day.node.plane.apply(&[manifests::route(BLUE)]);
    day.programmed("chat");
    day.wait_for_replicas(REPLICAS);
    let ends = settled(fleet);
    each_ended_with(&ends, SERVICE_RESTART, "server restarting, please reconnect");
    assert!(ends.len() < fleet.len(), "other replicas keep their sockets");
    let longest = SHUTDOWN_DELAY + DRAIN_WINDOW + LEEWAY;
    assert!(ends.iter().all(|end| end.at - deleted < longest), "within the drain window: {ends:?}");
    day.saw(&moved(&ends));
}

fn uninstall(day: &Day, fleet: Fleet, before: &BTreeSet<String>) {
    day.step("helm uninstall");
    fleet.end();
    day.saw("the users have left");
    day.helm(&["uninstall", RELEASE, "--namespace", SYSTEM]);
    // Nothing blocks deleting a route that no replica serves any more.
    day.kubectl(&["delete", "namespace", SHOP, "--wait=false"]);
    day.node.plane.delete(SYSTEM, "secret", TOKENS);
    let expected = left_behind();
    let left = eventually(|| {
        let left: BTreeSet<_> = inventory(day).difference(before).cloned().collect();
        if left.len() <= expected.len() { Ok(left) } else { Err(format!("{:?}", &left - &expected)) }
    });
    assert_eq!(left, expected);
    day.saw("all is gone, the users' namespace too, but for what stays on purpose");
    for object in left {
        day.saw(&format!("left: {object}"));
    }
}

/// Intentional leftovers, as in the chart's documentation, and those that Kubernetes creates for a CRD or a namespace.
fn left_behind() -> BTreeSet<String> {
    [
        "CustomResourceDefinition <none> websocketroutes.switchyard.dev".to_owned(),
        "APIService <none> v1alpha1.switchyard.dev".to_owned(),
        format!("Namespace <none> {SYSTEM}"),
        format!("Secret {SYSTEM} {RELEASE}-session-key"),
        format!("ConfigMap {SYSTEM} kube-root-ca.crt"),
        format!("ServiceAccount {SYSTEM} default"),
    ]
    .into()
}

/// All objects in the cluster except Events.
fn inventory(day: &Day) -> BTreeSet<String> {
    let kinds = day.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    // Events come and go, and the others are views of objects that are listed anyway.
    let passed_over = ["events", "events.events.k8s.io", "endpoints", "componentstatuses"];
    let kinds: Vec<_> = kinds.lines().filter(|kind| !passed_over.contains(kind)).collect();
    let columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name";
    let objects = day.kubectl(&["get", &kinds.join(","), "-A", "--no-headers", "-o", columns]);
    let objects = objects.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    // The node's heartbeat.
    objects.filter(|object| !object.starts_with("Lease kube-node-lease ")).collect()
}

/// The pod that holds the Lease of the class.
fn writer(day: &Day) -> Option<String> {
    let lease =
        day.node.plane.kubectl(&["get", "lease", "-n", SYSTEM, "switchyard-switchyard", "-o", "json"], "").ok()?;
    let lease: Value = serde_json::from_str(&lease).ok()?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

fn every_replica_leads_to(day: &Day, site: &Site, backend: &str) {
    let pods = day.staying(SHOP, &format!("app={backend}"));
    let reached = day.reached_through_every_replica(site);
    assert!(reached.is_subset(&pods), "{reached:?} are not all pods of {backend}: {pods:?}");
    day.saw(&format!("every upgrade on every replica leads to {backend}"));
}

/// All sockets are unchanged and in use.
fn nothing_ended(day: &Day, fleet: &Fleet) {
    let (ends, Heard { echoes, slowest, .. }) = told(fleet);
    assert!(ends.is_empty(), "{ends:?}");
    day.saw(&format!("no socket of {} ended; {echoes} echoes, the slowest took {}", fleet.len(), seconds(slowest)));
}

/// The closes since the last call, once all users have an open socket again.
fn settled(fleet: &Fleet) -> Vec<End> {
    told(fleet).0
}

fn told(fleet: &Fleet) -> (Vec<End>, Heard) {
    fleet.all_echo();
    let mut heard = fleet.heard();
    assert!(heard.refusals.is_empty(), "nobody is refused: {:?}", heard.refusals);
    (std::mem::take(&mut heard.ends), heard)
}

/// Waits until no socket is with these pods any more; returns the closes in the meantime.
fn until_gone(day: &Day, fleet: &Fleet, pods: &BTreeSet<String>) -> Vec<End> {
    eventually(|| {
        let with: Vec<_> = fleet.pods().intersection(pods).cloned().collect();
        if with.is_empty() { Ok(()) } else { Err(format!("sockets are with {with:?}")) }
    });
    day.saw("the pods that were to go have let their users go");
    settled(fleet)
}

fn each_ended_with(ends: &[End], code: u16, reason: &str) {
    let expected = Ended::Closed { code, reason: reason.into() };
    let others: Vec<_> = ends.iter().filter(|end| end.how != expected).map(|end| end.how.to_string()).collect();
    assert!(others.is_empty(), "each ends with {expected}: {others:?}");
    assert!(!ends.is_empty(), "some end with {expected}");
}

fn each_kept_its_pod(ends: &[End]) {
    let strayed: Vec<_> = ends.iter().filter(|end| end.from != end.to).collect();
    assert!(strayed.is_empty(), "sessions come back to their pod: {strayed:?}");
}

fn moved(ends: &[End]) -> String {
    let longest = ends.iter().map(|end| end.gap).max().unwrap_or_default();
    let Some(end) = ends.first() else { return "no socket ended".into() };
    format!("{} sockets ended with {}; all were open again within {}", ends.len(), end.how, seconds(longest))
}

fn names(pods: &[Pod]) -> String {
    pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn shares(pods: &BTreeMap<String, usize>) -> String {
    pods.iter().map(|(pod, sockets)| format!("{pod} {sockets}")).collect::<Vec<_>>().join(", ")
}
