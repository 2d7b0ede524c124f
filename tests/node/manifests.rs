//! The user's manifests: a chat with two versions of its backend, a certificate and a route.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{day::SHOP, node::BACKEND_IMAGE, shared::certificates::Certificates, support::SYSTEM};

/// The host of the chat.
pub(crate) const HOST: &str = "chat.example.com";
/// The name of the route, and of the backend's first version.
pub(crate) const BLUE: &str = "blue";
/// The name of the backend's second version.
pub(crate) const GREEN: &str = "green";

/// An API token for the admin port.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Its Secret.
pub(crate) const TOKENS: &str = "api-tokens";

/// How long a backend pod keeps serving after SIGTERM.
pub(crate) const LINGER_SECONDS: u64 = 12;

/// The namespace.
pub(crate) fn namespace() -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SHOP } })
}

/// A version of the backend: a Deployment, and the Service in front of it.
pub(crate) fn backend(name: &str, replicas: usize) -> [Value; 2] {
    let labels = json!({ "app": name });
    let container = json!({
        "name": "backend",
        "image": BACKEND_IMAGE,
        "imagePullPolicy": "Never",
        "env": [
            { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "LINGER", "value": format!("{LINGER_SECONDS}s") },
        ],
        "ports": [{ "name": "ws", "containerPort": 8080 }],
        "readinessProbe": { "httpGet": { "path": "/", "port": "ws" }, "periodSeconds": 1 },
    });
    let pod = json!({
        "metadata": { "labels": labels },
        "spec": { "containers": [container], "terminationGracePeriodSeconds": LINGER_SECONDS + 8 },
    });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "namespace": SHOP, "name": name },
        "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "template": pod },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": SHOP, "name": name },
        "spec": { "selector": labels, "ports": [{ "name": "ws", "port": 80, "targetPort": "ws" }] },
    });
    [deployment, service]
}

/// The Secret of the route's certificate.
pub(crate) fn certificate(certificates: &Certificates) -> Value {
    let Certificates { chain, key, .. } = certificates;
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": { "namespace": SHOP, "name": "chat-tls" },
        "data": { "tls.crt": STANDARD.encode(chain), "tls.key": STANDARD.encode(key) },
    })
}

/// The route of the chat, to one of the backends, with sticky sessions.
pub(crate) fn route(backend: &str) -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "metadata": { "namespace": SHOP, "name": "chat" },
        "spec": {
            "hostnames": [HOST],
            "tls": { "certificateRefs": [{ "name": "chat-tls" }] },
            "rules": [{ "backendRefs": [{ "name": backend, "port": 80 }], "sessionPersistence": {} }],
        },
    })
}

/// A catch-all route whose backend does not exist: the response is 503.
pub(crate) fn catch_all() -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "metadata": { "namespace": SHOP, "name": "rest" },
        "spec": { "rules": [{ "backendRefs": [{ "name": "nobody", "port": 80 }] }] },
    })
}

/// The Secret with the API token.
pub(crate) fn tokens() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "namespace": SYSTEM, "name": TOKENS },
        "stringData": { "tokens": TOKEN },
    })
}
