//! Manifests beyond single objects: files as users and programs write them.

use std::{fs, sync::Arc};

use proptest::prelude::*;
use switchyard::{
    api::{BackendRef, Chosen, PathMatch, RouteMatch, RouteRule, WebSocketRouteSpec},
    choices::PathMatchType,
    commands::check,
    compile::{Problem, Verdict},
    source::manifest::Manifests,
    table::{NormalPath, ObjectName},
};

use crate::golden;

#[test]
fn files_as_people_and_kubectl_write_them_are_read() {
    for path in golden::files("manifests/good") {
        let manifests = golden::read(&path);
        assert_eq!(golden::without_path(manifests.problems()), [""; 0], "{}", path.display());
    }
}

#[test]
fn files_that_are_wrong_are_told_of_with_their_lines() {
    for path in golden::files("manifests/bad") {
        let problems = golden::without_path(golden::read(&path).problems());
        let expected = golden::expectation(&path);
        assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{}: {problems:#?}", path.display());
        assert_eq!(problems.len(), 1, "{}: {problems:#?}", path.display());
    }
}

#[test]
fn a_list_as_kubectl_prints_it_holds_all_its_objects() {
    let path = golden::root().join("tests/golden/manifests/good/as-kubectl-prints.yaml");
    let manifests = golden::read(&path);
    let view = manifests.view();
    let service = ObjectName::new("shop", "chat");
    assert_eq!(view.services[&service].spec.ports[0].name.as_deref(), Some("ws"));
    assert_eq!(&*view.slices[&service][0].endpoints[0].addresses[0], "127.0.0.1");
    let secret = &view.secrets[&ObjectName::new("shop", "chat-tls")];
    assert_eq!(secret.data.certificate.as_ref().unwrap().0, b"certificate");
}

#[test]
fn text_in_a_secret_is_read_and_the_namespace_is_default() {
    let path = golden::root().join("tests/golden/manifests/good/strings.yaml");
    let manifests = golden::read(&path);
    let secret = &manifests.view().secrets[&ObjectName::new("default", "chat-tls")];
    assert_eq!(secret.data.certificate.as_ref().unwrap().0, b"-----BEGIN CERTIFICATE-----\n");
}

#[test]
fn only_manifests_are_read_and_subfolders_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("a/b")).unwrap();
    fs::create_dir(folder.path().join(".git")).unwrap();
    for (file, name) in [("a/b/one.yaml", "one"), ("two.yml", "two"), ("three.JSON", "three")] {
        let text = format!(
            r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}"}}, "spec": {{"ports": [{{"port": 80}}]}}}}"#
        );
        fs::write(folder.path().join(file), text).unwrap();
    }
    for ignored in [".one.yaml.swp", ".hidden.yaml", "one.yaml~", "#one.yaml#", "4913", ".git/one.yaml", "README.md"] {
        fs::write(folder.path().join(ignored), "kind: Nothing").unwrap();
    }
    let manifests = Manifests::read(&[folder.path().to_owned()], &Manifests::default());
    assert_eq!(golden::without_path(manifests.problems()), [""; 0]);
    assert_eq!((manifests.files(), manifests.view().services.len()), (3, 3));
}

#[test]
fn a_folder_is_read_once_however_many_links_lead_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: chat}\nspec: {ports: [{port: 80}]}\n";
    fs::create_dir(folder.path().join("below")).unwrap();
    fs::write(folder.path().join("below/chat.yaml"), text).unwrap();
    std::os::unix::fs::symlink(".", folder.path().join("loop")).unwrap();
    std::os::unix::fs::symlink("below", folder.path().join("other")).unwrap();
    let manifests = Manifests::read(&[folder.path().to_owned()], &Manifests::default());
    assert_eq!(manifests.view().services.len(), 1);
    let problems: Vec<_> = manifests.problems().iter().map(ToString::to_string).collect();
    let told = |name: &str| format!("{}: already read through another path", folder.path().join(name).display());
    assert_eq!(problems, [told("loop"), told("other")]);
}

#[test]
fn what_is_no_file_in_a_folder_is_never_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.yaml");
    // Without a writer, opening it would block for ever.
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket.yaml")).unwrap();
    let manifests = Manifests::read(&[folder.path().to_owned()], &Manifests::default());
    assert_eq!(golden::without_path(manifests.problems()), [""; 0]);
}

#[test]
fn a_path_that_is_not_there_and_a_file_that_is_no_text_are_problems() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary.yaml");
    fs::write(&binary, b"a: 1\nb: \xff\n").unwrap();
    let missing = folder.path().join("missing");
    let manifests = Manifests::read(&[missing.clone(), binary.clone()], &Manifests::default());
    let problems: Vec<_> = manifests.problems().iter().map(ToString::to_string).collect();
    let expected = [
        format!("{}:2: must be UTF-8 text", binary.display()),
        format!("{}: no such file or directory", missing.display()),
    ];
    assert_eq!(problems, expected);
}

#[test]
fn what_the_compiler_says_is_told_at_the_field_that_it_names() {
    let path = golden::root().join("tests/golden/objects/good/several-rules.yaml");
    let manifests = golden::read(&path);
    let problem = Problem {
        path: "spec.rules[1].backendRefs[0].port".into(),
        reason: switchyard::api::ConditionReason::UnknownPort,
        message: "Service golden/chat has no port 8080".into(),
    };
    let verdict = Verdict {
        route: ObjectName::new("golden", "several-rules"),
        uid: None,
        generation: 0,
        conditions: Vec::new(),
        problems: vec![problem],
        warnings: Vec::new(),
        hostnames: Arc::default(),
        rules: Arc::default(),
    };
    let problems = check::problems(&manifests, &[verdict]);
    assert_eq!(
        golden::without_path(&problems),
        ["17: spec.rules[1].backendRefs[0].port: Service golden/chat has no port 8080"]
    );
}

fn route() -> impl Strategy<Value = WebSocketRouteSpec> {
    let label = "[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?";
    let host = "([*][.])?[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?[.]example[.]com";
    let path = prop_oneof![Just(PathMatchType::Exact), Just(PathMatchType::PathPrefix)];
    let matches = (path, "/[!-\"$-$&->@-\\[\\]-~]{0,20}")
        .prop_filter("ambiguous", |(_, path)| NormalPath::parse(path).is_ok())
        .prop_map(|(type_, value)| RouteMatch {
            path: Some(PathMatch { type_: Chosen::Known(type_), value }),
            ..RouteMatch::default()
        });
    let backend = (label, 1..=65535, 0..=1_000_000).prop_map(|(name, port, weight)| BackendRef { name, port, weight });
    let rule = (proptest::collection::vec(matches, 0..4), proptest::collection::vec(backend, 1..4)).prop_map(
        |(matches, backend_refs)| RouteRule {
            name: None,
            matches,
            backend_refs,
            timeouts: None,
            keepalive: None,
            session_persistence: None,
            load_balancing: None,
            non_upgrade_requests: None,
            clients: None,
            escaped_slashes: None,
        },
    );
    let hostnames = proptest::collection::btree_set(host, 0..4);
    (hostnames, label, proptest::collection::vec(rule, 1..4)).prop_map(|(hostnames, class_name, rules)| {
        WebSocketRouteSpec { class_name, hostnames: hostnames.into_iter().collect(), tls: None, rules }
    })
}

/// Reads a text as the only file.
fn read_text(text: &str) -> Manifests {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.yaml");
    fs::write(&path, text).unwrap();
    golden::read(&path)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_route_is_read_back_as_it_was_written(spec in route()) {
        let object = serde_json::json!({
            "apiVersion": "switchyard.dev/v1alpha1",
            "kind": "WebSocketRoute",
            "metadata": { "name": "chat" },
            "spec": spec,
        });
        let manifests = read_text(&serde_yaml::to_string(&object).unwrap());
        // Plain scalars of serde_yaml that YAML 1.1 reads differently, such as the name 1e3, are rejected
        // intentionally.
        prop_assume!(manifests.problems().iter().all(|problem| !problem.message.contains("quote it")));
        prop_assert_eq!(golden::without_path(manifests.problems()), Vec::<String>::new());
        prop_assert_eq!(manifests.view().routes[0].spec.as_ref().unwrap(), &spec);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in TEXT) {
        prop_assert!(read_text(&text).view().routes.is_empty());
    }

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(at in 0_usize..2000, with in "\\PC{0,3}|\n|\t") {
        let files = golden::files("manifests/good");
        let text = fs::read_to_string(&files[at % files.len()]).unwrap();
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let manifests = read_text(&format!("{}{with}{}", &text[..at], &text[at..]));
        prop_assert!(manifests.problems().iter().all(|problem| !problem.message.is_empty()));
    }
}

/// Fragments of YAML, in any order.
const TEXT: &str = r"(---\n|[a-z]+:|[ ]{1,4}|- |\n|\[|\{|\}|\]|,|&a |\*a|!!str |\||>|'|\x22|#|\t|%|\PC){0,60}";
