//! Several replicas of a class, and several classes.

use std::{fs, thread::sleep, time::Duration};

use k8s_openapi::jiff::SignedDuration;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Backend, Bed, Client, Controller, SYSTEM, chart, eventually, objects};

/// How long a Lease is valid, and how long a takeover may take after that.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
const TAKE_OVER: SignedDuration = SignedDuration::from_secs(2);

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Three replicas of a class, by name. Without the uid of a pod, their names get a suffix.
fn three(bed: &Bed, class: &str) -> Vec<(&'static str, Controller)> {
    NAMES.map(|name| (name, Controller::replica(bed, class, name))).into()
}

/// Removes the replica with a holder's name.
fn take(replicas: &mut Vec<(&'static str, Controller)>, holder: &str) -> Controller {
    let position = replicas.iter().position(|(name, _)| holder.starts_with(&format!("{name}-"))).unwrap();
    replicas.remove(position).1
}

/// Waits as a user would.
fn wait_until_programmed(bed: &Bed, namespace: &str, route: &str) {
    let route = format!("wsr/{route}");
    let arguments = ["wait", "--for=condition=Programmed", "-n", namespace, &route, "--timeout=40s"];
    bed.plane.kubectl(&arguments, "").unwrap();
}

#[test]
fn programmed_means_that_every_replica_serves_this_generation() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("programmed");
    let backends = [Backend::start("blue", 11), Backend::start("green", 12)];
    for backend in &backends {
        let name = &backend.name;
        bed.plane.apply(&[objects::service(namespace, name), objects::slice(namespace, name, name, &[backend])]);
    }
    let replicas = three(bed, namespace);
    for round in 0..6 {
        let backend = &backends[round % 2].name;
        bed.plane.apply(&[objects::route(namespace, "chat", "programmed.example.com", backend)]);
        wait_until_programmed(bed, namespace, "chat");
        for (name, replica) in &replicas {
            for _ in 0..100 {
                let client = Client::connect(replica.http(), "programmed.example.com", "/");
                let reached = client.unwrap_or_else(|error| panic!("round {round}, {name}: {error}")).backend;
                assert_eq!(reached, *backend, "round {round}, replica {name}");
            }
        }
    }
    let holders = replicas.iter().filter(|(_, replica)| replica.metric("switchyard_lease_holder ") == Some(1.0));
    assert_eq!(holders.count(), 1);
}

#[test]
fn a_holder_that_dies_is_replaced_within_its_lease_time() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("dies");
    let mut replicas = three(bed, namespace);
    let before = bed.leader_but(namespace, "");
    let holder = before.holder_identity.unwrap();
    take(&mut replicas, &holder).kill();
    let last = bed.leases(namespace).remove(&format!("switchyard-{namespace}")).unwrap().spec.unwrap();
    bed.plane.apply(&[objects::route(namespace, "chat", "dies.example.com", "chat")]);
    let after = bed.leader_but(namespace, &holder);
    let taken = after.acquire_time.unwrap().0.duration_since(last.renew_time.unwrap().0);
    assert!(taken <= LEASE + TAKE_OVER, "{taken}");
    assert_eq!(after.lease_transitions, Some(1));
    // Dead replicas are not waited for either.
    wait_until_programmed(bed, namespace, "chat");
}

#[test]
fn a_holder_that_stops_hands_over_at_once_and_the_last_leaves_nothing_behind() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("stops");
    let mut replicas = three(bed, namespace);
    let mut holder = bed.leader_but(namespace, "").holder_identity.unwrap();
    while replicas.len() > 1 {
        let stopped = k8s_openapi::jiff::Timestamp::now();
        drop(take(&mut replicas, &holder));
        let after = bed.leader_but(namespace, &holder);
        let taken = after.acquire_time.unwrap().0.duration_since(stopped);
        assert!(taken < LEASE / 3, "{taken}");
        holder = after.holder_identity.unwrap();
        assert_eq!(bed.leases(namespace).len(), 1 + replicas.len());
    }
    drop(take(&mut replicas, &holder));
    assert_eq!(bed.leases(namespace).into_keys().collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_replica_that_hangs_is_named_and_waited_for_until_its_lease_ends() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("hangs");
    let mut replicas = three(bed, namespace);
    let holder = bed.leader_but(namespace, "").holder_identity.unwrap();
    let _holder = take(&mut replicas, &holder);
    let (name, hung) = replicas.remove(0);
    hung.signal(Signal::STOP);
    bed.plane.apply(&[objects::route(namespace, "chat", "hangs.example.com", "chat")]);
    let told = bed.wait_for(namespace, "chat", "Programmed", "False", "Pending");
    assert!(told.message.contains("1 of 3 replicas") && told.message.contains(&format!(": {name}-")), "{told:?}");
    bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
    let programmed = bed.wait_for(namespace, "chat", "Programmed", "True", "Programmed");

    // It comes back late: the condition of this generation is not withdrawn.
    hung.signal(Signal::CONT);
    eventually(|| {
        let leases = bed.leases(namespace).into_values().filter_map(|lease| lease.spec?.renew_time);
        let fresh = leases.filter(|renewed| renewed.0 > programmed.last_transition_time.0).count();
        if fresh == 4 { Ok(()) } else { Err(format!("{fresh} Leases were renewed")) }
    });
    assert_eq!(bed.wait_for(namespace, "chat", "Programmed", "True", "Programmed"), programmed);
}

#[test]
fn replicas_that_come_and_go_change_no_status() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("joins");
    let first = Controller::replica(bed, namespace, "first");
    bed.plane.apply(&[
        objects::service(namespace, "chat"),
        objects::route(namespace, "chat", "joins.example.com", "chat"),
        objects::route(namespace, "lost", "joins-too.example.com", "nowhere"),
    ]);
    wait_until_programmed(bed, namespace, "chat");
    wait_until_programmed(bed, namespace, "lost");
    let versions = || ["chat", "lost"].map(|name| bed.route(namespace, name).unwrap().metadata.resource_version);
    let before = versions();
    let others = ["second", "third"].map(|name| Controller::replica(bed, namespace, name));
    drop(first);
    bed.leader_but(namespace, "").holder_identity.unwrap();
    let [second, third] = others;
    second.kill();
    sleep(Duration::from_secs(2));
    drop(third);
    assert_eq!(versions(), before);
}

#[test]
fn each_change_of_a_condition_is_told_by_an_event() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("events");
    let _controller = Controller::start(bed, namespace);
    let reasons = || -> Vec<String> {
        // The API server reports its own Events, about Services.
        let ours = "--field-selector=regarding.kind=WebSocketRoute";
        let arguments = ["get", "events.events.k8s.io", "-n", namespace, ours, "-o", "json"];
        let events: serde_json::Value = serde_json::from_str(&bed.plane.kubectl(&arguments, "").unwrap()).unwrap();
        let events = events["items"].as_array().unwrap().iter();
        let mut told: Vec<_> = events
            .map(|event| {
                assert_eq!(event["reportingController"], "switchyard.dev/events");
                assert_eq!(event["regarding"]["name"], "chat");
                let text = |field: &str| event[field].as_str().unwrap().to_owned();
                format!("{} {} {}", text("type"), text("action"), text("reason"))
            })
            .collect();
        told.sort();
        told
    };
    bed.plane.apply(&[objects::route(namespace, "chat", "events.example.com", "chat")]);
    let mut expected = vec![
        "Normal Accepted Accepted".to_owned(),
        "Normal Programmed Programmed".to_owned(),
        "Warning ResolvedRefs BackendNotFound".to_owned(),
    ];
    let wait = |expected: &[String]| {
        eventually(|| if reasons() == expected { Ok(()) } else { Err(format!("{:?}", reasons())) });
    };
    wait(&expected);
    bed.plane.apply(&[objects::service(namespace, "chat")]);
    expected.insert(2, "Normal ResolvedRefs ResolvedRefs".to_owned());
    wait(&expected);
    let described = bed.plane.kubectl(&["describe", "wsr", "chat", "-n", namespace], "").unwrap();
    assert!(described.contains("ResolvedRefs is False") && described.contains("Programmed"), "{described}");
}

#[test]
fn two_classes_leave_each_others_routes_alone_and_hand_over_what_moves() {
    let Some(bed) = Bed::shared() else { return };
    let (namespace, other) = (bed.namespace("class-one"), "class-two");
    let (one, two) = (Backend::start("one", 25), Controller::replica(bed, other, "two"));
    let controller = Controller::replica(bed, namespace, "one");
    let mut theirs = objects::route(namespace, "theirs", "theirs.example.com", "one");
    theirs["spec"]["className"] = json!(other);
    bed.plane.apply(&[
        objects::service(namespace, "one"),
        objects::slice(namespace, "one", "one", &[&one]),
        objects::route(namespace, "ours", "ours.example.com", "one"),
        theirs.clone(),
    ]);
    let holders = |route: &str| -> Vec<String> {
        let managed = bed.route(namespace, route).unwrap().metadata.managed_fields.unwrap_or_default();
        managed.into_iter().filter_map(|entry| entry.manager).filter(|name| name.starts_with("switchyard/")).collect()
    };
    for route in ["ours", "theirs"] {
        wait_until_programmed(bed, namespace, route);
    }
    assert_eq!(
        (holders("ours"), holders("theirs")),
        (vec!["switchyard/class-one".into()], vec!["switchyard/class-two".into()])
    );
    controller.wait_for_backend("ours.example.com", "one");
    assert!(Client::connect(two.http(), "ours.example.com", "/").err().unwrap().contains("404"));
    assert!(Client::connect(controller.http(), "theirs.example.com", "/").err().unwrap().contains("404"));

    theirs["spec"]["className"] = json!(namespace);
    bed.plane.apply(&[theirs]);
    wait_until_programmed(bed, namespace, "theirs");
    assert_eq!(Client::connect(controller.http(), "theirs.example.com", "/").unwrap().backend, "one");
    eventually(|| match holders("theirs") {
        holders if holders == ["switchyard/class-one"] => Ok(()),
        holders => Err(format!("{holders:?}")),
    });
    let programmed = bed.wait_for(namespace, "theirs", "Programmed", "True", "Programmed");
    assert_eq!(programmed.observed_generation, Some(2));
}

#[test]
fn a_class_that_lets_go_late_tells_of_no_condition_that_is_gone() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("late");
    let late = Controller::replica(bed, "late-before", "before");
    let mut route = objects::route(namespace, "moves", "late.example.com", "chat");
    route["spec"]["className"] = json!("late-before");
    bed.plane.apply(std::slice::from_ref(&route));
    wait_until_programmed(bed, namespace, "moves");

    late.signal(Signal::STOP);
    let _now = Controller::replica(bed, "late-now", "now");
    route["spec"]["className"] = json!("late-now");
    bed.plane.apply(&[route]);
    eventually(|| {
        let conditions = bed.route(namespace, "moves").unwrap().status.conditions;
        let are_new = conditions.iter().all(|condition| condition.observed_generation == Some(2));
        if are_new { Ok(()) } else { Err(format!("{conditions:?}")) }
    });
    late.signal(Signal::CONT);
    eventually(|| {
        let managers = bed.route(namespace, "moves").unwrap().metadata.managed_fields.unwrap_or_default();
        let held = managers.iter().any(|entry| entry.manager.as_deref() == Some("switchyard/late-before"));
        if held { Err(format!("{managers:?}")) } else { Ok(()) }
    });
    // Events are published in order: once this one has arrived, an Event for the release would have too.
    let mut after = objects::route(namespace, "after", "after.example.com", "chat");
    after["spec"]["className"] = json!("late-before");
    bed.plane.apply(&[after]);
    let events = |route: &str| {
        let field = format!("--field-selector=regarding.name={route}");
        let columns = "custom-columns=FROM:.reportingController,NOTE:.note";
        let arguments = ["get", "events.events.k8s.io", "-n", namespace, &field, "--no-headers", "-o", columns];
        bed.plane.kubectl(&arguments, "").unwrap()
    };
    eventually(|| {
        let told = events("after");
        if told.contains("Programmed is True") { Ok(()) } else { Err(told) }
    });
    let told = events("moves");
    assert!(told.contains("switchyard.dev/late-before") && !told.contains("no longer holds"), "{told}");
}

#[test]
fn a_controller_of_some_namespaces_needs_rights_in_those_only() {
    let Some(bed) = Bed::shared() else { return };
    let (one, two, foreign) = (bed.namespace("scope-one"), bed.namespace("scope-two"), bed.namespace("scope-foreign"));
    let backend = Backend::start("scoped", 26);
    for namespace in [one, two, foreign] {
        let mut route = objects::route(namespace, "chat", &format!("{namespace}.example.com"), "chat");
        route["spec"]["className"] = json!("scoped");
        bed.plane.apply(&[
            objects::service(namespace, "chat"),
            objects::slice(namespace, "chat", "chat", &[&backend]),
            route,
        ]);
    }
    let kubeconfig = account_with_roles(bed, "scoped", &[one, two]);
    let replicas: Vec<_> = ["a", "b"]
        .map(|name| {
            let replica = Controller::launch_with(&kubeconfig, "scoped", |command| {
                command.args(["--namespaces", "scope-two,scope-one"]).env("POD_NAME", name);
            });
            replica.wait_until_ready();
            replica
        })
        .into();
    for namespace in [one, two] {
        wait_until_programmed(bed, namespace, "chat");
        for replica in &replicas {
            let host = format!("{namespace}.example.com");
            assert_eq!(Client::connect(replica.http(), &host, "/").unwrap().backend, "scoped");
        }
    }
    // One of the namespaces is quiet while the other changes.
    for round in 0..3 {
        let mut route = objects::route(one, "chat", &format!("round-{round}.example.com"), "chat");
        route["spec"]["className"] = json!("scoped");
        bed.plane.apply(&[route]);
        wait_until_programmed(bed, one, "chat");
        for replica in &replicas {
            let host = format!("round-{round}.example.com");
            assert_eq!(Client::connect(replica.http(), &host, "/").unwrap().backend, "scoped");
        }
    }
    bed.wait_for(foreign, "chat", "Accepted", "Unknown", "Pending");
    let refused = Client::connect(replicas[0].http(), "scope-foreign.example.com", "/").err().unwrap();
    assert!(refused.contains("404"), "{refused}");
    let names: Vec<_> = bed.leases("scoped").into_keys().collect();
    assert!(names.iter().all(|name| name.starts_with("switchyard-scoped.")) && names.len() == 3, "{names:?}");
    for replica in &replicas {
        let log = replica.log();
        assert!(!log.contains("cannot") && !log.contains("watch failed"), "{log}");
    }
}

/// The kubeconfig of an account with the chart's permissions in these namespaces instead of all of them, and with its
/// permissions in the release's namespace.
fn account_with_roles(bed: &Bed, name: &str, namespaces: &[&str]) -> std::path::PathBuf {
    let watched = namespaces.join(",");
    let values = format!("className={name},fullnameOverride={name},watchNamespaces={{{watched}}}");
    for template in ["templates/serviceaccount.yaml", "templates/rbac.yaml"] {
        let arguments = ["template", name, &chart(), "-n", SYSTEM, "-s", template, "--set", &values];
        bed.plane.apply_text(&bed.plane.helm(&arguments).unwrap());
    }
    let token = bed.plane.kubectl(&["create", "token", name, "-n", SYSTEM, "--duration=1h"], "").unwrap();
    bed.plane.kubeconfig(name, token.trim())
}

#[test]
fn a_cookie_of_one_replica_leads_to_the_same_endpoint_through_another() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("cookies");
    // They share a port, because a slice has one for all of its endpoints.
    let backends = ["a", "b", "c"].map(|name| Backend::start(name, name.as_bytes()[0] - b'a' + 31));
    for backend in &backends {
        let mut slice = objects::slice(namespace, "chat", &format!("chat-{}", backend.name), &[backend]);
        slice["endpoints"][0]["targetRef"] = json!({ "kind": "Pod", "name": backend.name, "uid": backend.name });
        bed.plane.apply(&[slice]);
    }
    let mut route = objects::route(namespace, "chat", "cookies.example.com", "chat");
    route["spec"]["rules"][0]["sessionPersistence"] = json!({ "type": "Cookie" });
    bed.plane.apply(&[objects::service(namespace, "chat"), route]);
    let keys = tempfile::NamedTempFile::new().unwrap();
    fs::write(keys.path(), "b25lIG9uZSBvbmUgb25lIG9uZSBvbmUgb25lIG9uZSE=").unwrap();
    bed.grant(namespace);
    let replicas = ["a", "b"].map(|name| {
        let replica = Controller::launch_with(bed.kubeconfig(), namespace, |command| {
            command.arg("--session-key-file").arg(keys.path()).env("POD_NAME", name);
        });
        replica.wait_until_ready();
        replica
    });
    wait_until_programmed(bed, namespace, "chat");
    bed.wait_for(namespace, "chat", "BackendsReady", "True", "EndpointsReady");
    let [one, other] = &replicas;
    let mut reached = Vec::new();
    for _ in 0..6 {
        let (open, cookie) = eventually(|| Client::connect_with_cookie(one.http(), "cookies.example.com", None));
        let cookie = cookie.expect("a new session gets a cookie");
        for replica in [other, one, other] {
            let again = Client::connect_with_cookie(replica.http(), "cookies.example.com", Some(&cookie)).unwrap();
            assert_eq!(again.0.backend, open.backend);
            assert_eq!(again.1, None, "the token stays valid");
        }
        reached.push(open);
    }
    let mut names: Vec<_> = reached.iter().map(|client| client.backend.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "a", "b", "b", "c", "c"], "sessions of all endpoints were tried");
}

#[test]
fn without_rights_on_leases_statuses_are_written_and_programmed_names_the_missing_right() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("rightless");
    let name = format!("{}-leases", bed.grant(namespace));
    let role = bed.plane.kubectl(&["get", "role", &name, "-n", SYSTEM, "-o", "json"], "").unwrap();
    bed.plane.delete(SYSTEM, "role", &name);
    let controller = Controller::launch_with(bed.kubeconfig(), namespace, |_| {});
    controller.wait_until_ready();
    bed.plane.apply(&[objects::route(namespace, "chat", "rightless.example.com", "chat")]);
    bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
    let told = bed.wait_for(namespace, "chat", "Programmed", "False", "Pending");
    assert!(told.message.contains("cannot list resource \"leases\""), "{told:?}");
    sleep(Duration::from_secs(3));
    let log = controller.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("cannot use Leases")).collect();
    assert!((1..=2).contains(&lines.len()), "{lines:#?}");

    let mut role: serde_json::Value = serde_json::from_str(&role).unwrap();
    role["metadata"] = json!({ "name": name, "namespace": SYSTEM });
    bed.plane.apply(&[role]);
    bed.wait_for(namespace, "chat", "Programmed", "True", "Programmed");
}

#[test]
fn without_the_right_to_publish_events_statuses_are_written_all_the_same() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("eventless");
    let name = bed.grant(namespace);
    let rules = bed.plane.kubectl(&["get", "clusterrole", &name, "-o", "json"], "").unwrap();
    let mut role: serde_json::Value = serde_json::from_str(&rules).unwrap();
    role["metadata"] = json!({ "name": name });
    role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!(["events"]));
    bed.plane.apply(&[role]);
    let controller = Controller::launch_with(bed.kubeconfig(), namespace, |_| {});
    controller.wait_until_ready();
    for name in ["a", "b", "c"] {
        bed.plane.apply(&[objects::route(namespace, name, &format!("{name}.example.com"), "chat")]);
        wait_until_programmed(&bed, namespace, name);
    }
    controller.wait_for_log("cannot publish Events");
    let log = controller.log();
    assert_eq!(log.lines().filter(|line| line.contains("WARN") && line.contains("Events")).count(), 1, "{log}");
}
