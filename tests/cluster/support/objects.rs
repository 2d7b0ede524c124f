//! Objects as users write them.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};

use super::Backend;

/// A route of a class for a host, with one rule that sends everything to port 80 of a Service.
pub fn route(namespace: &str, name: &str, host: &str, service: &str) -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "metadata": { "namespace": namespace, "name": name },
        // Each test has its own class, so that controllers ignore each other's routes.
        "spec": {
            "className": namespace,
            "hostnames": [host],
            "rules": [{ "backendRefs": [{ "name": service, "port": 80 }] }],
        },
    })
}

/// A Service with a named port 80 and no selector: the test writes its slices.
pub fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "ports": [{ "name": "ws", "port": 80 }] },
    })
}

/// A slice of a Service with these backends, which all listen on the same port.
pub fn slice(namespace: &str, service: &str, name: &str, backends: &[&Backend]) -> Value {
    let port = backends.first().map_or(1, |backend| backend.address.port());
    let endpoints: Vec<_> = backends
        .iter()
        .map(|backend| json!({ "addresses": [backend.address.ip().to_string()], "conditions": { "ready": true } }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "namespace": namespace, "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "ws", "port": port }],
        "endpoints": endpoints,
    })
}

/// A certificate for a host, and its key, as PEM.
pub fn certificate(host: &str) -> (String, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([host.to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

/// A Secret of type `kubernetes.io/tls`.
pub fn tls_secret(namespace: &str, name: &str, certificate: &str, key: &str) -> Value {
    let data = BTreeMap::from([("tls.crt", STANDARD.encode(certificate)), ("tls.key", STANDARD.encode(key))]);
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": { "namespace": namespace, "name": name },
        "data": data,
    })
}

/// The bytes of a PEM certificate.
pub fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}
