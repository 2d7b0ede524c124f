//! Objects on which a real API server and the offline reader must agree.

use std::{fs, path::Path};

use switchyard::source::manifest::ManifestKind;

use crate::golden;

#[test]
fn every_good_object_is_accepted() {
    for path in golden::files("objects/good") {
        let manifests = golden::read(&path);
        assert_eq!(golden::without_path(manifests.problems()), [""; 0], "{}", path.display());
        assert!(manifests.view().routes.iter().all(|route| route.spec.is_ok()));
    }
}

#[test]
fn every_bad_object_is_refused_with_the_field_its_line_and_how_to_mend_it() {
    for path in golden::files("objects/bad") {
        let manifests = golden::read(&path);
        let problems = golden::without_path(manifests.problems());
        let expected = golden::expectation(&path);
        let found = problems.iter().find(|problem| problem.contains(&expected));
        let found = found.unwrap_or_else(|| panic!("{}: {problems:#?}", path.display()));
        let line: usize = found.split(':').next().unwrap().parse().unwrap();
        assert!(is_named_on(&path, line, &expected), "{}: {found}", path.display());
    }
}

/// Whether a line of a file contains the field, or its nearest parent if it is missing, or is an entry of its list.
fn is_named_on(path: &Path, line: usize, expected: &str) -> bool {
    let text = fs::read_to_string(path).unwrap();
    let written = text.lines().nth(line - 1).unwrap();
    let field = expected.split(':').next().unwrap();
    let mut around = field.split('.').map(|name| name.split('[').next().unwrap()).rev();
    if expected.contains("required") {
        let is_around = around.any(|name| written.contains(&format!("{name}:")));
        is_around || written.trim_start().starts_with("- ") || !field.contains('.')
    } else {
        let name = around.next().unwrap();
        written.contains(&format!("{name}:")) || field.ends_with(']') && written.contains(['-', '['])
    }
}

#[test]
fn a_refused_route_keeps_its_claims() {
    for path in golden::files("objects/bad") {
        let manifests = golden::read(&path);
        assert_eq!(manifests.view().routes.len(), 1, "{}", path.display());
        let unreadable = manifests.view().routes[0].spec.as_ref().unwrap_err();
        assert!(!unreadable.faults.is_empty());
    }
    let twice = golden::read(&golden::root().join("tests/golden/objects/bad/hostname-twice.yaml"));
    let route = &twice.view().routes[0];
    assert_eq!(route.spec.as_ref().unwrap_err().hostnames, ["chat.example.com", "b.example.com"]);
    assert_eq!(route.class_name(), Some("switchyard"));
}

#[test]
fn every_rule_of_the_schema_has_a_bad_object() {
    let crd = serde_json::to_value(switchyard::api::crd()).unwrap();
    let mut messages = Vec::new();
    collect(&crd, &mut messages);
    let expectations: Vec<_> = golden::files("objects/bad").iter().map(|path| golden::expectation(path)).collect();
    for message in messages {
        let is_expected = |expectation: &String| {
            expectation.split_once(": ").is_some_and(|(_, expected)| message.starts_with(expected))
        };
        assert!(expectations.iter().any(is_expected), "no bad object for the rule: {message}");
    }
}

fn collect(value: &serde_json::Value, messages: &mut Vec<String>) {
    let rules = value["x-kubernetes-validations"].as_array().into_iter().flatten();
    messages.extend(rules.map(|rule| rule["message"].as_str().unwrap().to_owned()));
    let fields = value.as_object().into_iter().flat_map(|fields| fields.values());
    for value in fields.chain(value.as_array().into_iter().flatten()) {
        collect(value, messages);
    }
}

#[test]
fn fields_of_a_route_are_found_by_their_paths() {
    let path = golden::root().join("tests/golden/objects/good/several-rules.yaml");
    let manifests = golden::read(&path);
    let name = switchyard::table::ObjectName::new("golden", "several-rules");
    let line = |field: &str| manifests.locate(ManifestKind::WebSocketRoute, &name, field).unwrap().1;
    let text = fs::read_to_string(&path).unwrap();
    let line_of = |what: &str| 1 + text.lines().position(|line| line.contains(what)).unwrap();
    assert_eq!(line("spec.rules[1].nonUpgradeRequests"), line_of("nonUpgradeRequests"));
    assert_eq!(line("spec.rules[1].backendRefs[0].port"), line_of("name: rest") + 2);
    assert_eq!(line("spec.rules[1].timeouts.idle"), line_of("name: rest"));
    assert_eq!(line("spec.hostnames[0]"), line_of("hostnames:"));
}
