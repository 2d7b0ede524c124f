//! The chart in a cluster: what the API server accepts, what users may do, and what survives upgrades.

use std::{collections::BTreeMap, fs, path::PathBuf};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Bed, Controller, block_on, chart, eventually, objects};

/// The golden renderings, of release `switchyard` in the namespace `switchyard-system`; `tests/chart` checks that helm
/// renders them.
fn renderings() -> Vec<PathBuf> {
    let folder = format!("{}/tests/golden/chart", env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_rendering = |file: &PathBuf| file.is_file() && !file.to_str().unwrap().ends_with(".values.yaml");
    let files: Vec<_> = files.filter(is_rendering).collect();
    assert!(files.len() >= 12);
    files
}

fn rendering(name: &str) -> Vec<Value> {
    let file = format!("{}/tests/golden/chart/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(file).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap()).collect()
}

#[test]
fn the_api_server_takes_all_that_the_chart_renders() {
    let Some(bed) = Bed::shared() else { return };
    bed.plane.apply_text(include_str!("servicemonitors.yaml"));
    let arguments =
        ["wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com", "--timeout=20s"];
    bed.plane.kubectl(&arguments, "").unwrap();
    for namespace in ["shop", "games", "2048", "monitoring"] {
        bed.namespace(namespace);
    }
    for file in renderings() {
        let file = file.to_str().unwrap();
        let arguments = ["apply", "--dry-run=server", "--validate=strict", "-f", file];
        if let Err(error) = bed.plane.kubectl(&arguments, "") {
            panic!("{file}: {error}");
        }
    }
}

/// The pods of a rendering, proxy and test, for the API server to validate in a namespace.
fn pods(name: &str, namespace: &str) -> Vec<Value> {
    let pod = |mut object: Value| {
        let mut pod = match object["kind"].as_str() {
            Some("Deployment" | "DaemonSet") => object["spec"]["template"].take(),
            Some("Pod") => object,
            _ => return None,
        };
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        let role = pod["metadata"]["labels"]["app.kubernetes.io/name"].as_str().unwrap().to_owned();
        pod["metadata"] = json!({ "namespace": namespace, "name": format!("{name}-{role}") });
        pod["spec"]["serviceAccountName"] = "default".into();
        Some(pod)
    };
    rendering(name).into_iter().filter_map(pod).collect()
}

fn restricted<'a>(bed: &Bed, name: &'a str) -> &'a str {
    let namespace = bed.namespace(name);
    bed.plane.kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"], "").unwrap();
    namespace
}

#[test]
fn the_chart_meets_the_restricted_pod_security_standard() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = restricted(bed, "restricted");
    let pods = ["defaults", "daemonset", "openshift", "what-exists"].map(|name| pods(name, namespace)).concat();
    assert_eq!(pods.len(), 8, "a proxy and a test of each");
    bed.plane.apply(&pods);
}

#[test]
fn host_ports_are_all_that_the_restricted_standard_finds_in_a_daemon_set_with_host_ports() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = restricted(bed, "host-ports");
    let pod = pods("daemonset-host-ports", namespace).remove(0);
    let error = bed.plane.kubectl(&["apply", "-f", "-"], &pod.to_string()).unwrap_err();
    let (_, violations) = error.split_once("violates PodSecurity \"restricted:latest\": ").expect(&error);
    assert!(violations.starts_with("hostPort (container \"switchyard\" uses hostPorts 8000, 8443)"), "{error}");
    assert_eq!(violations.matches("container").count(), 1, "{error}");
}

#[test]
fn the_session_key_survives_an_upgrade() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("upgrade");
    let values = "rbac.create=false,serviceAccount.create=false,serviceAccount.name=default,className=upgrade";
    let arguments =
        ["upgrade", "--install", "sy", &chart(), "-n", namespace, "--skip-crds", "--wait=hookOnly", "--set", values];
    let upgrade = |more: &[&str]| bed.plane.helm(&[&arguments[..], more].concat());
    upgrade(&[]).unwrap();
    let secret = "sy-switchyard-session-key";
    let key = |entry: &str| session_keys(bed, namespace, secret).remove(entry);
    let before = key("keys").unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, before.trim_ascii()).unwrap();
    assert_eq!(bytes.len(), 32);
    upgrade(&[]).unwrap();
    assert_eq!(key("keys").as_ref(), Some(&before));
    // Renaming the entry does not generate a new key.
    let renamed = ["--set", "sessionKey.entry=ring"];
    upgrade(&renamed).unwrap();
    assert_eq!((key("ring").as_ref(), key("keys")), (Some(&before), None));
    // With several keys, the chart does not guess.
    let more = r#"{"stringData": {"old": "b25lIG9uZSBvbmUgb25lIG9uZSBvbmUgb25lIG9uZSE="}}"#;
    bed.plane.kubectl(&["patch", "secret", secret, "-n", namespace, "-p", more], "").unwrap();
    let error = upgrade(&[]).unwrap_err();
    assert!(error.contains("sessionKey.entry must be an entry of the Secret"), "{error}");
    assert!(error.contains("(old, ring), got keys"), "{error}");
    upgrade(&renamed).unwrap();
    assert_eq!(key("ring"), Some(before));
    // Once the user has taken it over, it belongs to the user.
    let ours = ["--set", "sessionKey.entry=ring,sessionKey.existingSecret=sy-switchyard-session-key"];
    upgrade(&ours).unwrap();
    let fresh = "dHdvIHR3byB0d28gdHdvIHR3byB0d28gdHdvIHR3byE=";
    let patch = json!({ "stringData": { "ring": fresh } }).to_string();
    bed.plane.kubectl(&["patch", "secret", secret, "-n", namespace, "-p", &patch], "").unwrap();
    upgrade(&[&ours[..], &["--set", "threads=2"]].concat()).unwrap();
    bed.plane.helm(&["rollback", "sy", "-n", namespace, "--wait=hookOnly"]).unwrap();
    assert_eq!(key("ring").as_deref(), Some(fresh.as_bytes()));
}

fn session_keys(bed: &Bed, namespace: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
    let secret = block_on(Api::<Secret>::namespaced(bed.client(), namespace).get(name)).unwrap();
    secret.data.unwrap().into_iter().map(|(entry, key)| (entry, key.0)).collect()
}

#[test]
fn switching_autoscaling_on_lets_no_pod_go() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("autoscaling");
    let values = "rbac.create=false,serviceAccount.create=false,serviceAccount.name=default,className=autoscaling";
    let chart = chart();
    let arguments = ["upgrade", "--install", "sy", &chart, "-n", namespace, "--skip-crds", "--wait=hookOnly"];
    let count = || {
        let path = "jsonpath={.spec.replicas}";
        bed.plane.kubectl(&["get", "deployment", "sy-switchyard", "-n", namespace, "-o", path], "").unwrap()
    };
    let replicas = |more: &str| {
        let values = format!("{values},{more}");
        bed.plane.helm(&[&arguments[..], &["--set", &values]].concat()).unwrap();
        count()
    };
    assert_eq!(replicas("replicaCount=4"), "4");
    assert_eq!(replicas("autoscaling.enabled=true"), "4");
    bed.plane.kubectl(&["scale", "deployment", "sy-switchyard", "-n", namespace, "--replicas=6"], "").unwrap();
    assert_eq!(replicas("autoscaling.enabled=true,threads=2"), "6", "the autoscaler's number stays");
    let off = |more: &[&str]| {
        bed.plane.helm(&[&arguments[..], &["--set", &format!("{values},replicaCount=3")], more].concat())
    };
    let error = off(&[]).unwrap_err();
    assert!(error.contains(".spec.replicas"), "no pods are removed without being asked: {error}");
    assert_eq!(count(), "6");
    off(&["--force-conflicts"]).unwrap();
    assert_eq!(count(), "3");
}

/// Whether a user may do something, such as `create websocketroutes`.
fn may(bed: &Bed, who: &str, namespace: &str, what: &str) -> bool {
    let (verb, resource) = what.split_once(' ').unwrap();
    let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
    let part = format!("--subresource={part}");
    let arguments = ["auth", "can-i", verb, resource, &part, "--as", who, "-n", namespace];
    // It fails if the answer is no.
    bed.plane.kubectl(&arguments, "").is_ok_and(|answer| answer.trim() == "yes")
}

#[test]
fn who_may_edit_a_namespace_may_write_its_routes_and_no_others_where_that_is_asked_for() {
    let Some(bed) = Bed::shared() else { return };
    let (ours, theirs) = (bed.namespace("users"), bed.namespace("others"));
    let template = ["template", "users", &chart(), "-n", ours, "-s", "templates/user-roles.yaml"];
    let asked = ["--set", "rbac.aggregateToEdit=true"];
    let rendered = bed.plane.helm(&[&template[..], &asked].concat()).unwrap();
    bed.plane.apply_text(&rendered);
    for role in ["view", "edit", "admin"] {
        let (name, role, user) = (role, format!("--clusterrole={role}"), format!("--user=jane-{role}"));
        bed.plane.kubectl(&["create", "rolebinding", name, "-n", ours, &role, &user], "").unwrap();
    }
    for (user, can_write) in [("jane-view", false), ("jane-edit", true), ("jane-admin", true)] {
        // A controller aggregates the rules to Kubernetes' own roles.
        eventually(|| may(bed, user, ours, "list websocketroutes").then_some(()).ok_or_else(|| user.to_owned()));
        for write in ["create", "patch", "delete"] {
            assert_eq!(may(bed, user, ours, &format!("{write} websocketroutes")), can_write, "{user} {write}");
        }
        assert!(!may(bed, user, ours, "patch websocketroutes/status"), "{user}");
        assert!(!may(bed, user, theirs, "list websocketroutes"), "{user}");
    }
}

#[test]
fn who_may_create_roles_only_can_install_the_chart_for_their_namespaces() {
    let Some(bed) = Bed::shared() else { return };
    let (system, shop) = (bed.namespace("team-system"), bed.namespace("team-shop"));
    for namespace in [system, shop] {
        let everything = json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] });
        bed.plane.apply(&[json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": { "namespace": namespace, "name": "owner" },
            "rules": [everything],
        })]);
        let bind = ["create", "rolebinding", "owner", "-n", namespace, "--role=owner", "--user=owner"];
        bed.plane.kubectl(&bind, "").unwrap();
    }
    let install = ["install", "team", &chart(), "-n", system, "--skip-crds", "--wait=hookOnly", "--kube-as-user=owner"];
    let whole = bed.plane.helm(&install).unwrap_err();
    assert!(whole.contains("forbidden"), "the owner of two namespaces cannot have a ClusterRole: {whole}");
    let values = ["--replace", "--set", "watchNamespaces={team-shop},className=team"];
    bed.plane.helm(&[&install[..], &values].concat()).unwrap();
    let account = format!("system:serviceaccount:{system}:team-switchyard");
    for right in ["watch websocketroutes", "list secrets", "list services", "list endpointslices.discovery.k8s.io"] {
        assert!(may(bed, &account, shop, right), "{right}");
        assert!(!may(bed, &account, "default", right) && !may(bed, &account, system, right), "{right} elsewhere");
    }
    assert!(may(bed, &account, shop, "patch websocketroutes/status"));
    assert!(may(bed, &account, shop, "create events.events.k8s.io"));
    assert!(may(bed, &account, system, "create leases") && !may(bed, &account, shop, "create leases"));
    // A controller needs nothing else.
    let token = bed.plane.kubectl(&["create", "token", "team-switchyard", "-n", system, "--duration=1h"], "").unwrap();
    let controller = Controller::launch_with(&bed.plane.kubeconfig("team", token.trim()), "team", |command| {
        command.arg("--namespaces=team-shop").env("POD_NAMESPACE", system);
    });
    controller.wait_until_ready();
    let mut route = objects::route(shop, "chat", "team.example.com", "chat");
    route["spec"]["className"] = "team".into();
    bed.plane.apply(&[route]);
    bed.wait_for(shop, "chat", "Programmed", "True", "Programmed");
    let log = controller.log();
    assert!(!log.contains("cannot") && !log.contains("watch failed"), "{log}");
}

#[test]
fn the_crd_is_installed_upgraded_and_kept_as_the_charts_page_says() {
    let Some(bed) = Bed::bare() else { return };
    let namespace = bed.namespace("edge");
    let helm = |arguments: &[&str]| bed.plane.helm(&[arguments, &["-n", namespace]].concat()).unwrap();
    let (chart, wait) = (chart(), "--wait=hookOnly");
    let apply_crd = || {
        let crds = helm(&["show", "crds", &chart]);
        bed.plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &crds).unwrap();
    };
    // The first installation installs it.
    let notes = helm(&["install", "edge", &chart, wait]);
    assert!(notes.contains("rollout status deployment/edge-switchyard") && !notes.contains("WARNING"), "{notes}");
    // If there is none, the notes warn.
    bed.plane.kubectl(&["delete", "crd", "websocketroutes.switchyard.dev"], "").unwrap();
    let notes = helm(&["upgrade", "edge", &chart, wait]);
    assert!(notes.contains("WARNING: the CRD of WebSocketRoute was not found"), "{notes}");
    apply_crd();
    // If there is an older one, without some field, they warn too.
    let field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rules/items/properties/keepalive";
    let older = json!([{ "op": "remove", "path": field }]).to_string();
    bed.plane.kubectl(&["patch", "crd", "websocketroutes.switchyard.dev", "--type=json", "-p", &older], "").unwrap();
    let notes = helm(&["upgrade", "edge", &chart, wait]);
    assert!(notes.contains("WARNING: the cluster's CRD of WebSocketRoute differs from this chart's"), "{notes}");
    apply_crd();
    let notes = helm(&["upgrade", "edge", &chart, wait]);
    assert!(!notes.contains("WARNING"), "{notes}");
    let mut route = objects::route(namespace, "chat", "edge.example.com", "chat");
    route["spec"]["rules"][0]["keepalive"] = json!({ "pingInterval": "10s" });
    eventually(|| bed.plane.kubectl(&["apply", "--validate=strict", "-f", "-"], &route.to_string()));
    // Without the release, routes and key stay; the next one reuses them.
    let key = session_keys(&bed, namespace, "edge-switchyard-session-key");
    helm(&["uninstall", "edge"]);
    assert!(bed.route(namespace, "chat").is_ok());
    helm(&["install", "edge", &chart, wait]);
    assert_eq!(session_keys(&bed, namespace, "edge-switchyard-session-key"), key);
}

#[test]
fn the_controller_says_which_right_it_lacks() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("rights");
    let rule = r#"[{"op": "remove", "path": "/rules/1"}]"#;
    let granted = bed.grant(namespace);
    bed.plane.kubectl(&["patch", "clusterrole", &granted, "--type=json", "-p", rule], "").unwrap();
    bed.plane.apply(&[objects::route(namespace, "chat", "rights.example.com", "chat")]);
    let controller = Controller::launch_with(bed.kubeconfig(), namespace, |_| {});
    controller.wait_until_ready();
    controller.wait_for_log("cannot patch resource");
    let log = controller.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("cannot write the status")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("websocketroutes/status") && told[0].contains("WARN"), "{}", told[0]);
}
