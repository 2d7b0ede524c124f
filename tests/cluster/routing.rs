//! From `kubectl apply` to a socket.

use serde_json::json;

use crate::support::{Backend, Bed, Client, Controller, eventually, objects};

#[test]
fn an_applied_route_is_served_and_a_changed_one_too() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("serves");
    let (blue, green) = (Backend::start("blue", 11), Backend::start("green", 12));
    let controller = Controller::start(bed, namespace);
    bed.plane.apply(&[
        objects::service(namespace, "blue"),
        objects::service(namespace, "green"),
        objects::slice(namespace, "blue", "blue-1", &[&blue]),
        objects::slice(namespace, "green", "green-1", &[&green]),
        objects::route(namespace, "chat", "serves.example.com", "blue"),
    ]);
    let mut open = controller.wait_for_backend("serves.example.com", "blue");
    bed.plane.apply(&[objects::route(namespace, "chat", "serves.example.com", "green")]);
    controller.wait_for_backend("serves.example.com", "green");
    assert_eq!(open.echo("still there").unwrap(), "still there");

    bed.plane.delete(namespace, "wsr", "chat");
    eventually(|| match Client::connect(controller.http(), "serves.example.com", "/") {
        Err(error) if error.contains("404") => Ok(()),
        other => Err(format!("{:?}", other.map(|client| client.backend))),
    });
    assert_eq!(open.echo("even now").unwrap(), "even now");
}

#[test]
fn an_endpoint_in_two_slices_at_once_is_one_endpoint() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("slices");
    let (one, two) = (Backend::start("one", 13), Backend::start("two", 14));
    let controller = Controller::start(bed, namespace);
    bed.plane.apply(&[
        objects::service(namespace, "chat"),
        objects::slice(namespace, "chat", "chat-1", &[&one]),
        objects::slice(namespace, "chat", "chat-2", &[&one]),
        objects::slice(namespace, "chat", "chat-3", &[&two]),
        objects::slice(namespace, "chat", "chat-4", &[]),
        objects::route(namespace, "chat", "slices.example.com", "chat"),
    ]);
    bed.wait_for(namespace, "chat", "BackendsReady", "True", "EndpointsReady");
    controller.wait_for_backend("slices.example.com", "one");
    // With least connections, six sockets are three for each; a backend counted twice would have four.
    let sockets: Vec<_> =
        (0..6).map(|_| Client::connect(controller.http(), "slices.example.com", "/").unwrap()).collect();
    assert_eq!(sockets.iter().filter(|socket| socket.backend == "one").count(), 3);

    // Removing an endpoint from a slice keeps it if another slice has it.
    bed.plane.delete(namespace, "endpointslice", "chat-1");
    bed.plane.apply(&[objects::slice(namespace, "chat", "chat-3", &[])]);
    for _ in 0..3 {
        controller.wait_for_backend("slices.example.com", "one");
    }
}

#[test]
fn a_terminating_endpoint_gets_no_new_sessions_and_keeps_its_own() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("leaving");
    let (old, new) = (Backend::start("old", 15), Backend::start("new", 16));
    let controller = Controller::start(bed, namespace);
    bed.plane.apply(&[
        objects::service(namespace, "chat"),
        objects::slice(namespace, "chat", "chat-old", &[&old]),
        objects::route(namespace, "chat", "leaving.example.com", "chat"),
    ]);
    let mut open = controller.wait_for_backend("leaving.example.com", "old");
    let mut leaving = objects::slice(namespace, "chat", "chat-old", &[&old]);
    leaving["endpoints"][0]["conditions"] = json!({ "ready": false, "serving": true, "terminating": true });
    bed.plane.apply(&[leaving, objects::slice(namespace, "chat", "chat-new", &[&new])]);
    controller.wait_for_backend("leaving.example.com", "new");
    for _ in 0..5 {
        assert_eq!(Client::connect(controller.http(), "leaving.example.com", "/").unwrap().backend, "new");
    }
    assert_eq!(open.echo("here").unwrap(), "here");
}
