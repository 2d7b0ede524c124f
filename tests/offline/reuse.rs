//! What a build reuses from the previous one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;
use switchyard::{
    compile::{
        ClusterView, CompileSettings, Compiled, Memory, SecretObject, ServiceObject, SliceObject, Surroundings,
        compile, object_name,
    },
    table::{Backend, ObjectName, Tenancy},
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn build(view: &ClusterView, memory: &mut Memory) -> Compiled {
    let settings = CompileSettings {
        class: "switchyard".into(),
        tenancy: Tenancy::default(),
        surroundings: Surroundings::Cluster { own: &[] },
        default_certificate: Some(ObjectName::new("shop", "default-tls")),
    };
    compile(view, &settings, memory, NOW)
}

fn view() -> ClusterView {
    let mut view = ClusterView::default();
    for name in ["chat", "game"] {
        let route = json!({
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "className": "switchyard", "hostnames": [format!("{name}.example.com")], "rules": [
                { "backendRefs": [{ "name": name, "port": 80 }] },
            ] },
        });
        view.routes.push(Arc::new(serde_json::from_value(route).unwrap()));
        let service =
            json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": { "ports": [{ "port": 80 }] } });
        let service: ServiceObject = serde_json::from_value(service).unwrap();
        view.services.insert(object_name(&service.metadata), Arc::new(service));
        set_endpoints(&mut view, name, &["uid-1", "uid-2"]);
    }
    view
}

fn set_endpoints(view: &mut ClusterView, service: &str, uids: &[&str]) {
    let endpoint = |(position, uid): (usize, &&str)| json!({ "addresses": [format!("10.0.0.{}", position + 1)], "targetRef": { "uid": uid } });
    let slice = json!({
        "metadata": { "name": service, "namespace": "shop", "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "port": 8080 }],
        "endpoints": uids.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
    });
    let slice: SliceObject = serde_json::from_value(slice).unwrap();
    view.slices.insert(slice.service().unwrap(), vec![Arc::new(slice)]);
}

fn backend(compiled: &Compiled, route: &str) -> Arc<Backend> {
    let verdict = compiled.verdicts.iter().find(|verdict| &*verdict.route.name == route).unwrap();
    verdict.rules[0].backends[0].target.clone().unwrap()
}

#[test]
fn a_backend_that_did_not_change_is_the_same_object_in_the_next_table() {
    let (mut view, mut memory) = (view(), Memory::default());
    let first = build(&view, &mut memory);
    set_endpoints(&mut view, "chat", &["uid-1", "uid-3"]);
    let second = build(&view, &mut memory);
    assert!(Arc::ptr_eq(&backend(&first, "game"), &backend(&second, "game")));
    let (before, after) = (backend(&first, "chat"), backend(&second, "chat"));
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(&before.endpoints[0], &after.endpoints[0]), "uid-1 is still the same");
    assert!(Arc::ptr_eq(&before.turn, &after.turn), "round robin continues");
}

#[test]
fn objects_that_were_read_again_and_say_the_same_make_an_equal_table() {
    let (mut view, mut memory) = (view(), Memory::default());
    let first = build(&view, &mut memory);
    set_endpoints(&mut view, "chat", &["uid-1", "uid-2"]);
    let second = build(&view, &mut memory);
    assert_eq!(first.table, second.table);
    assert!(Arc::ptr_eq(&backend(&first, "chat"), &backend(&second, "chat")));
}

#[test]
fn an_endpoint_that_flaps_keeps_its_count_while_a_tunnel_holds_it() {
    let (mut view, mut memory) = (view(), Memory::default());
    let guard = backend(&build(&view, &mut memory), "chat").endpoints[0].state.enter();
    set_endpoints(&mut view, "chat", &[]);
    assert!(backend(&build(&view, &mut memory), "chat").endpoints.is_empty());
    set_endpoints(&mut view, "chat", &["uid-1"]);
    let back = build(&view, &mut memory);
    assert_eq!(backend(&back, "chat").endpoints[0].state.in_use(), 1);
    drop(guard);
    assert_eq!(backend(&back, "chat").endpoints[0].state.in_use(), 0);
}

#[test]
fn a_new_pod_on_an_old_address_is_another_endpoint() {
    let (mut view, mut memory) = (view(), Memory::default());
    let guard = backend(&build(&view, &mut memory), "chat").endpoints[0].state.enter();
    set_endpoints(&mut view, "chat", &["uid-9"]);
    let after = build(&view, &mut memory);
    assert_eq!(backend(&after, "chat").endpoints[0].state.in_use(), 0);
    drop(guard);
}

#[test]
fn the_order_of_objects_in_a_view_makes_no_difference() {
    let mut reversed = view();
    reversed.routes.reverse();
    let (one, other) = (build(&view(), &mut Memory::default()), build(&reversed, &mut Memory::default()));
    assert_eq!(one.table, other.table);
    assert_eq!(one.verdicts, other.verdicts);
}

#[test]
fn a_certificate_is_read_once_and_looked_at_again_when_it_expires() {
    let mut view = view();
    let missing = build(&view, &mut Memory::default());
    assert_eq!(missing.next_look, None);
    let problem = "--default-certificate: there is no Secret shop/default-tls of type kubernetes.io/tls";
    assert_eq!(missing.setting_problems, [problem]);

    let mut parameters = rcgen::CertificateParams::new(["chat.example.com".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let secret: SecretObject = serde_json::from_value(json!({
        "metadata": { "name": "default-tls", "namespace": "shop" },
        "type": "kubernetes.io/tls",
        "data": { "tls.crt": encode(&certificate.pem()), "tls.key": encode(&key.serialize_pem()) },
    }))
    .unwrap();
    view.secrets.insert(object_name(&secret.metadata), Arc::new(secret));
    let compiled = build(&view, &mut Memory::default());
    assert!(compiled.table.default_identity().is_some());
    let mut memory = Memory::default();
    let (one, other) = (build(&view, &mut memory), build(&view, &mut memory));
    let identity = |compiled: &Compiled| compiled.table.default_identity().unwrap().clone();
    assert!(Arc::ptr_eq(&identity(&one), &identity(&other)), "the proxy identifies it by pointer");
    let expiry = NOW + Duration::from_secs(1_893_456_000);
    assert_eq!(compiled.next_look, Some(expiry));
}

fn encode(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}
