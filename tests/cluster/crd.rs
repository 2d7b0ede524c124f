//! The CRD and what the API server makes of objects.

use std::{fs, path::Path};

use crate::support::{Bed, objects};

#[test]
fn the_api_server_takes_the_crd_and_shows_its_columns() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("columns");
    bed.plane.apply(&[objects::route(namespace, "chat", "columns.example.com", "chat")]);
    let shown = bed.plane.kubectl(&["get", "wsr", "-n", namespace], "").unwrap();
    let head: Vec<_> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["NAME", "HOSTS", "ACCEPTED", "RESOLVED", "AGE"]);
    assert!(shown.contains("columns.example.com"), "{shown}");
}

#[test]
fn kubectl_explains_every_field() {
    let Some(bed) = Bed::shared() else { return };
    let explain = |field: &str| bed.plane.kubectl(&["explain", field], "");
    let fields = bed.plane.kubectl(&["explain", "websocketroute.spec", "--recursive"], "").unwrap();
    assert!(fields.contains("sessionPersistence"), "{fields}");
    let weight = explain("websocketroute.spec.rules.backendRefs.weight").unwrap();
    assert!(weight.contains("Default: 1"), "{weight}");
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
    for_each_object("good", |name, text| {
        if let Err(error) = dry_run(bed, text) {
            panic!("{name}: {error}");
        }
    });
}

#[test]
fn the_api_server_refuses_every_bad_object() {
    let Some(bed) = Bed::shared() else { return };
    for_each_object("bad", |name, text| {
        assert!(dry_run(bed, text).is_err(), "{name} was taken");
    });
}

fn dry_run(bed: &Bed, text: &str) -> Result<String, String> {
    bed.plane.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], text)
}

fn for_each_object(verdict: &str, mut check: impl FnMut(&str, &str)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/objects").join(verdict);
    let Ok(files) = fs::read_dir(&folder) else { return };
    for file in files.map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            check(&name, &fs::read_to_string(file.path()).unwrap());
        }
    }
}
