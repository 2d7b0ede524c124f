//! Statuses that users see.

use std::{thread::sleep, time::Duration};

use serde_json::json;

use crate::support::{Backend, Bed, Controller, eventually, objects};

#[test]
fn a_route_that_is_all_right_says_so() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("fine");
    let backend = Backend::start("fine", 17);
    let _controller = Controller::start(bed, namespace);
    bed.plane.apply(&[
        objects::service(namespace, "chat"),
        objects::slice(namespace, "chat", "chat-1", &[&backend]),
        objects::route(namespace, "chat", "fine.example.com", "chat"),
    ]);
    let accepted = bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
    assert_eq!(accepted.observed_generation, Some(1));
    bed.wait_for(namespace, "chat", "ResolvedRefs", "True", "ResolvedRefs");
    bed.wait_for(namespace, "chat", "BackendsReady", "True", "EndpointsReady");
    let shown = bed.plane.kubectl(&["get", "wsr", "-n", namespace, "--no-headers"], "").unwrap();
    assert_eq!(shown.split_whitespace().nth(2), Some("True"), "{shown}");
}

#[test]
fn each_mistake_ends_in_the_condition_with_its_reason() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("mistakes");
    let _controller = Controller::start(bed, namespace);
    let route = |name: &str| objects::route(namespace, name, &format!("{name}.example.com"), name);
    let mut port = route("port");
    port["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(81);
    let mut protocol = objects::service(namespace, "protocol");
    protocol["spec"]["ports"][0]["appProtocol"] = json!("kubernetes.io/wss");
    let mut external = objects::service(namespace, "external");
    external["spec"] = json!({ "type": "ExternalName", "externalName": "example.org", "ports": [{ "port": 80 }] });
    let mut certificate = route("certificate");
    certificate["spec"]["tls"] = json!({ "certificateRefs": [{ "name": "nowhere" }] });
    bed.plane.apply(&[
        route("missing"),
        objects::service(namespace, "port"),
        port,
        protocol,
        route("protocol"),
        external,
        route("external"),
        objects::service(namespace, "certificate"),
        certificate,
        objects::service(namespace, "idle"),
        route("idle"),
    ]);
    let told = |route: &str, type_: &str, reason: &str| bed.wait_for(namespace, route, type_, "False", reason);
    assert!(told("missing", "ResolvedRefs", "BackendNotFound").message.contains("missing"));
    assert!(told("port", "ResolvedRefs", "UnknownPort").message.contains("81"));
    told("protocol", "ResolvedRefs", "UnsupportedProtocol");
    told("external", "ResolvedRefs", "UnsupportedValue");
    assert!(told("certificate", "ResolvedRefs", "InvalidCertificateRef").message.contains("nowhere"));
    told("idle", "BackendsReady", "NoReadyEndpoints");
    bed.wait_for(namespace, "idle", "Accepted", "True", "Accepted");
}

#[test]
fn the_younger_of_two_routes_with_one_claim_is_told_who_won() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("conflict");
    let _controller = Controller::start(bed, namespace);
    bed.plane.apply(&[objects::route(namespace, "elder", "conflict.example.com", "chat")]);
    bed.wait_for(namespace, "elder", "Accepted", "True", "Accepted");
    // Creation times have whole seconds.
    sleep(Duration::from_millis(1100));
    bed.plane.apply(&[objects::route(namespace, "a-younger", "conflict.example.com", "chat")]);
    let told = bed.wait_for(namespace, "a-younger", "Accepted", "False", "Conflicted");
    assert!(told.message.contains("conflict/elder"), "{told:?}");
    bed.plane.delete(namespace, "wsr", "elder");
    bed.wait_for(namespace, "a-younger", "Accepted", "True", "Accepted");
}

#[test]
fn a_status_is_written_once_and_its_times_stay() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("once");
    let controller = Controller::start(bed, namespace);
    bed.plane.apply(&[objects::route(namespace, "chat", "once.example.com", "chat")]);
    let told = bed.wait_for(namespace, "chat", "ResolvedRefs", "False", "BackendNotFound");
    let version = || bed.route(namespace, "chat").unwrap().metadata.resource_version;
    let before = version();
    drop(controller);
    // Another controller of the class has nothing to write.
    let controller = Controller::start(bed, namespace);
    sleep(Duration::from_secs(2));
    assert_eq!(version(), before);

    bed.plane.apply(&[objects::service(namespace, "chat")]);
    let resolved = bed.wait_for(namespace, "chat", "ResolvedRefs", "True", "ResolvedRefs");
    assert!(resolved.last_transition_time > told.last_transition_time);
    let accepted = bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
    assert!(accepted.last_transition_time <= told.last_transition_time);
    drop(controller);
}

#[test]
fn a_status_that_somebody_overwrites_is_mended() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("mended");
    let _controller = Controller::start(bed, namespace);
    bed.plane.apply(&[objects::route(namespace, "chat", "mended.example.com", "chat")]);
    bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
    let patch = json!({ "status": { "conditions": [] } }).to_string();
    let arguments = ["patch", "wsr", "chat", "-n", namespace, "--subresource=status", "--type=merge", "-p", &patch];
    bed.plane.kubectl(&arguments, "").unwrap();
    bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
}

#[test]
fn a_route_that_changes_its_class_is_handed_over() {
    let Some(bed) = Bed::shared() else { return };
    let (blue, green) = (bed.namespace("class-blue"), bed.namespace("class-green"));
    let _blue = Controller::start(bed, blue);
    bed.plane.apply(&[objects::route(blue, "chat", "class.example.com", "chat")]);
    bed.wait_for(blue, "chat", "Accepted", "True", "Accepted");

    let set_class = |class: &str| {
        let patch = json!({ "spec": { "className": class } }).to_string();
        bed.plane.kubectl(&["patch", "wsr", "chat", "-n", blue, "--type=merge", "-p", &patch], "").unwrap();
    };
    let managers = || {
        let managed = bed.route(blue, "chat").unwrap().metadata.managed_fields.unwrap_or_default();
        managed.into_iter().filter_map(|entry| entry.manager).filter(|name| name.starts_with("switchyard/")).collect()
    };
    set_class(green);
    eventually(|| {
        let route = bed.route(blue, "chat")?;
        let managers: Vec<String> = managers();
        let told = route.status.conditions.iter().any(|condition| condition.type_ == "ResolvedRefs");
        if managers.is_empty() && !told { Ok(()) } else { Err(format!("{managers:?} {:?}", route.status)) }
    });
    let _green = Controller::start(bed, green);
    bed.wait_for(blue, "chat", "Accepted", "True", "Accepted");
    assert_eq!(managers(), [format!("switchyard/{green}")]);
    set_class(blue);
    eventually(|| {
        let managers: Vec<String> = managers();
        if managers == ["switchyard/class-blue"] { Ok(()) } else { Err(format!("{managers:?}")) }
    });
    bed.wait_for(blue, "chat", "Accepted", "True", "Accepted");
}
