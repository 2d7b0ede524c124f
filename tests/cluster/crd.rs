//! The CRD, and the API server's verdicts on objects.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{Bed, eventually, objects};

#[test]
fn the_api_server_takes_the_crd_and_shows_its_columns() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("columns");
    bed.plane.apply(&[objects::route(namespace, "chat", "columns.example.com", "chat")]);
    let shown = bed.plane.kubectl(&["get", "wsr", "-n", namespace], "").unwrap();
    let head: Vec<_> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["NAME", "HOSTS", "ACCEPTED", "RESOLVED", "PROGRAMMED", "AGE"]);
    assert!(shown.contains("columns.example.com"), "{shown}");
}

#[test]
fn kubectl_explains_every_field() {
    let Some(bed) = Bed::shared() else { return };
    let explain = |field: &str| bed.plane.kubectl(&["explain", field], "");
    // The API server publishes descriptions some time after it serves the CRD.
    let fields = eventually(|| bed.plane.kubectl(&["explain", "websocketroute.spec", "--recursive"], ""));
    assert!(fields.contains("sessionPersistence"), "{fields}");
    let weight = explain("websocketroute.spec.rules.backendRefs.weight").unwrap();
    assert!(weight.contains("Default: 1"), "{weight}");
    let interval = explain("websocketroute.spec.rules.keepalive.pingInterval").unwrap();
    assert!(interval.contains("Default: 25s") && interval.contains("`0s`: no pings"), "{interval}");
}

#[test]
fn before_any_controller_has_looked_a_route_is_pending() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("pending");
    bed.plane.apply(&[objects::route(namespace, "chat", "pending.example.com", "chat")]);
    bed.wait_for(namespace, "chat", "Accepted", "Unknown", "Pending");
}

#[test]
fn the_api_server_takes_every_good_object() {
    let Some(bed) = Bed::shared() else { return };
    assert_eq!(judged_as(bed, "good"), Vec::<String>::new(), "refused");
}

#[test]
fn the_api_server_refuses_every_bad_object() {
    let Some(bed) = Bed::shared() else { return };
    let refused = judged_as(bed, "bad");
    let taken: Vec<_> = names("bad").into_iter().filter(|name| !refused.contains(name)).collect();
    assert_eq!(taken, Vec::<String>::new(), "taken");
}

/// The files in a folder that `kubectl apply` rejects; it continues after each.
fn judged_as(bed: &Bed, verdict: &str) -> Vec<String> {
    bed.namespace("golden");
    let folder = folder(verdict);
    let arguments = ["apply", "--dry-run=server", "--validate=strict", "-f", folder.to_str().unwrap()];
    let errors = bed.plane.kubectl(&arguments, "").err().unwrap_or_default();
    let refused = |name: &String| errors.contains(folder.join(name).to_str().unwrap());
    let names: Vec<_> = names(verdict).into_iter().filter(refused).collect();
    assert!(errors.is_empty() || !names.is_empty(), "{errors}");
    names
}

fn names(verdict: &str) -> Vec<String> {
    let files = fs::read_dir(folder(verdict)).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn folder(verdict: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/objects").join(verdict)
}
