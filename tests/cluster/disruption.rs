//! Disruptions of clusters. Each test has its own control plane.

use std::{process::Command, thread::sleep, time::Duration};

use serde_json::json;

use crate::support::{Backend, Bed, Client, Controller, objects};

#[test]
fn a_controller_that_starts_before_the_crd_waits_and_says_so_once() {
    let Some(bed) = Bed::bare() else { return };
    let namespace = bed.namespace("early");
    let controller = Controller::launch(&bed, namespace);
    controller.wait_for_log("does not know WebSocketRoute");
    sleep(Duration::from_secs(3));
    let log = controller.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("WARN") && line.contains("does not know")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("switchyard crd"), "{}", told[0]);
    assert!(!controller.is_ready());

    bed.install_crd();
    controller.wait_until_ready();
    bed.plane.apply(&[objects::route(namespace, "chat", "early.example.com", "chat")]);
    bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
}

#[test]
fn a_controller_serves_on_while_the_api_server_is_away_and_then_catches_up() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("restart");
    let (blue, green) = (Backend::start("blue", 21), Backend::start("green", 22));
    let controller = Controller::start(&bed, namespace);
    bed.plane.apply(&[
        objects::service(namespace, "chat"),
        objects::slice(namespace, "chat", "chat-1", &[&blue]),
        objects::route(namespace, "chat", "restart.example.com", "chat"),
    ]);
    let mut open = controller.wait_for_backend("restart.example.com", "blue");
    bed.plane.restart_api_server(|| {
        controller.wait_for_log("watch failed");
        assert_eq!(Client::connect(controller.http(), "restart.example.com", "/").unwrap().backend, "blue");
        assert!(controller.is_ready());
    });
    bed.plane.apply(&[objects::slice(namespace, "chat", "chat-1", &[&green])]);
    controller.wait_for_backend("restart.example.com", "green");
    assert_eq!(open.echo("here").unwrap(), "here");
}

#[test]
fn a_watch_that_has_expired_is_started_anew() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("expired");
    let (blue, green) = (Backend::start("blue", 23), Backend::start("green", 24));
    let controller = Controller::start(&bed, namespace);
    bed.plane.apply(&[
        objects::service(namespace, "chat"),
        objects::slice(namespace, "chat", "chat-1", &[&blue]),
        objects::route(namespace, "chat", "expired.example.com", "chat"),
    ]);
    controller.wait_for_backend("expired.example.com", "blue");
    // While the API server is down, the history that the watches would continue from is discarded.
    bed.plane.restart_api_server(|| compact(&bed.plane.etcd_url()));
    bed.plane.apply(&[objects::slice(namespace, "chat", "chat-1", &[&green])]);
    controller.wait_for_backend("expired.example.com", "green");
    bed.plane.delete(namespace, "wsr", "chat");
    controller.wait_for_log("listing again");
}

/// Advances etcd's history and discards all but its end, through its JSON gateway.
fn compact(etcd: &str) {
    let post = |path: &str, body: serde_json::Value| -> serde_json::Value {
        let url = format!("{etcd}{path}");
        let output = Command::new("curl").args(["-sSf", "-d", &body.to_string(), &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut revision = json!(null);
    for _ in 0..10 {
        let answer = post("/v3/kv/put", json!({ "key": "c3dpdGNoeWFyZA==", "value": "eA==" }));
        revision = answer["header"]["revision"].clone();
    }
    post("/v3/kv/compaction", json!({ "revision": revision, "physical": true }));
}

#[test]
fn an_object_that_is_not_readable_is_told_so_and_can_be_deleted() {
    let Some(bed) = Bed::bare() else { return };
    let namespace = bed.namespace("unreadable");
    bed.plane.apply(&[lax_crd()]);
    let arguments = ["wait", "--for=condition=Established", "crd/websocketroutes.switchyard.dev", "--timeout=20s"];
    bed.plane.kubectl(&arguments, "").unwrap();
    let mut nonsense = objects::route(namespace, "nonsense", "unreadable.example.com", "chat");
    nonsense["spec"]["rules"] = json!("all of them");
    let mut late = objects::route(namespace, "late", "late.example.com", "chat");
    late["spec"]["className"] = json!("late");
    late["spec"]["rules"][0]["nonUpgradeRequests"] = json!(7);
    bed.plane.apply(&[nonsense, late]);
    let controller = Controller::start(&bed, namespace);
    let told = bed.wait_for(namespace, "nonsense", "Accepted", "False", "Invalid");
    assert!(told.message.contains("rules"), "{told:?}");
    let refused = Client::connect(controller.http(), "unreadable.example.com", "/").err().unwrap();
    assert!(refused.contains("503"), "{refused}");

    // The same objects under the real schema, which they violate. One of them has no status yet.
    bed.install_crd();
    bed.plane.apply(&[objects::route(namespace, "fine", "fine.example.com", "chat")]);
    bed.wait_for(namespace, "fine", "Accepted", "True", "Accepted");
    let _late = Controller::start(&bed, "late");
    bed.wait_for(namespace, "late", "Accepted", "False", "Invalid");
    let version = || bed.route(namespace, "nonsense").unwrap().metadata.resource_version;
    let before = version();
    sleep(Duration::from_secs(2));
    assert_eq!(version(), before);
    bed.plane.delete(namespace, "wsr", "nonsense");
    crate::support::eventually(|| match Client::connect(controller.http(), "unreadable.example.com", "/") {
        Err(error) if error.contains("404") => Ok(()),
        other => Err(format!("{:?}", other.map(|client| client.backend))),
    });
}

/// A CRD with the same name that accepts anything.
fn lax_crd() -> serde_json::Value {
    let mut crd = serde_json::to_value(switchyard::api::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    crd
}

#[test]
fn lists_are_streamed_where_the_api_server_does_that() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("streams");
    bed.plane.apply(&[objects::route(namespace, "chat", "streams.example.com", "chat")]);
    let lists = || {
        let metrics = bed.plane.kubectl(&["get", "--raw", "/metrics"], "").unwrap();
        let lists = metrics.lines().filter(|line| {
            let has = |text: &str| line.contains(text);
            has("apiserver_request_total{") && has(r#"verb="LIST""#) && has(r#"resource="websocketroutes""#)
        });
        lists.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = lists();
    let controller = Controller::start(&bed, namespace);
    bed.wait_for(namespace, "chat", "Accepted", "True", "Accepted");
    assert_eq!(lists(), before);
    assert!(!controller.log().contains("asking for pages"), "{}", controller.log());
}

#[test]
fn lists_come_in_pages_where_the_api_server_refuses_to_stream_them() {
    let Some(bed) = Bed::with_flags(&["--feature-gates=WatchList=false"]) else { return };
    bed.install_crd();
    let namespace = bed.namespace("pages");
    bed.plane.apply(&[objects::route(namespace, "chat", "pages.example.com", "chat")]);
    let controller = Controller::start(&bed, namespace);
    bed.wait_for(namespace, "chat", "Programmed", "True", "Programmed");
    assert!(controller.log().contains("asking for pages"), "{}", controller.log());
    let log = controller.log();
    assert!(!log.contains("cannot") && !log.contains("watch failed"), "{log}");
}
