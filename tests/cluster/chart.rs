//! The chart.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::support::{Bed, Controller, RELEASE, SYSTEM, block_on, chart, objects};

#[test]
fn the_chart_is_free_of_lint() {
    let Some(bed) = Bed::shared() else { return };
    let said = bed.plane.helm(&["lint", "--strict", &chart()]).unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
}

#[test]
fn the_api_server_takes_all_that_the_chart_renders() {
    let Some(bed) = Bed::shared() else { return };
    let full = "trustedProxies={10.0.0.0/8,192.168.0.0/16},allowSharedHostnames=true,threads=4,\
                defaultCertificate=a/b,extraArgs={--drain-window=10m}";
    for values in ["replicaCount=3", "service.type=ClusterIP", full] {
        let rendered = bed.plane.helm(&["template", RELEASE, &chart(), "-n", SYSTEM, "--set", values]).unwrap();
        let arguments = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        if let Err(error) = bed.plane.kubectl(&arguments, &rendered) {
            panic!("{values}: {error}");
        }
    }
}

#[test]
fn the_chart_meets_the_restricted_pod_security_standard() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("restricted");
    let label = "pod-security.kubernetes.io/enforce=restricted";
    bed.plane.kubectl(&["label", "namespace", namespace, label], "").unwrap();
    let deployment =
        bed.plane.helm(&["template", "sy", &chart(), "-n", namespace, "-s", "templates/deployment.yaml"]).unwrap();
    let deployment: serde_json::Value = serde_yaml::from_str(&deployment).unwrap();
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "switchyard".into();
    pod["metadata"]["namespace"] = namespace.into();
    pod["spec"]["serviceAccountName"] = "default".into();
    bed.plane.apply(&[pod]);
}

#[test]
fn a_value_that_the_chart_does_not_know_is_refused() {
    let Some(bed) = Bed::shared() else { return };
    let error = bed.plane.helm(&["template", RELEASE, &chart(), "--set", "replicas=3"]).unwrap_err();
    assert!(error.contains("replicas"), "{error}");
}

#[test]
fn the_session_key_survives_an_upgrade() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("upgrade");
    let values = "rbac.create=false,serviceAccount.create=false,serviceAccount.name=default,className=upgrade";
    let arguments =
        ["upgrade", "--install", "sy", &chart(), "-n", namespace, "--skip-crds", "--wait=hookOnly", "--set", values];
    bed.plane.helm(&arguments).unwrap();
    let before = session_key(bed, namespace);
    bed.plane.helm(&arguments).unwrap();
    assert_eq!(session_key(bed, namespace), before);
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, before.trim_ascii()).unwrap();
    assert_eq!(key.len(), 32);
}

fn session_key(bed: &Bed, namespace: &str) -> Vec<u8> {
    let secret = block_on(Api::<Secret>::namespaced(bed.client(), namespace).get("sy-switchyard-session-key")).unwrap();
    secret.data.unwrap().remove("keys").unwrap().0
}

#[test]
fn the_controller_says_which_right_it_lacks() {
    let Some(bed) = Bed::bare() else { return };
    bed.install_crd();
    let namespace = bed.namespace("rights");
    let rule = r#"[{"op": "remove", "path": "/rules/1"}]"#;
    bed.plane.kubectl(&["patch", "clusterrole", RELEASE, "--type=json", "-p", rule], "").unwrap();
    bed.plane.apply(&[objects::route(namespace, "chat", "rights.example.com", "chat")]);
    let controller = Controller::start(&bed, namespace);
    controller.wait_for_log("cannot patch resource");
    let log = controller.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("cannot write the status")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("websocketroutes/status") && told[0].contains("WARN"), "{}", told[0]);
}
