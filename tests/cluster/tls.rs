//! Certificates from Secrets.

use serde_json::json;

use crate::support::{Bed, Controller, certificate_sent, eventually, objects};

#[test]
fn a_changed_certificate_is_sent_to_the_next_client() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("rotation");
    let host = "rotation.example.com";
    let controller = Controller::start(bed, namespace);
    let (first, second) = (objects::certificate(host), objects::certificate(host));
    bed.plane.apply(&[
        objects::tls_secret(namespace, "chat-tls", &first.0, &first.1),
        objects::service(namespace, "chat"),
        secure_route(namespace, host),
    ]);
    wait_for_certificate(&controller, host, &first.0);
    bed.plane.apply(&[objects::tls_secret(namespace, "chat-tls", &second.0, &second.1)]);
    wait_for_certificate(&controller, host, &second.0);
}

#[test]
fn a_deleted_certificate_fails_handshakes_and_is_told() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("deleted");
    let host = "deleted.example.com";
    let controller = Controller::start(bed, namespace);
    let (certificate, key) = objects::certificate(host);
    bed.plane.apply(&[
        objects::tls_secret(namespace, "chat-tls", &certificate, &key),
        objects::service(namespace, "chat"),
        secure_route(namespace, host),
    ]);
    wait_for_certificate(&controller, host, &certificate);
    bed.wait_for(namespace, "chat", "ResolvedRefs", "True", "ResolvedRefs");
    bed.plane.delete(namespace, "secret", "chat-tls");
    bed.wait_for(namespace, "chat", "ResolvedRefs", "False", "InvalidCertificateRef");
    certificate_sent(controller.https(), host).unwrap_err();
}

#[test]
fn a_key_that_does_not_match_is_told_and_mended() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("mismatch");
    let host = "mismatch.example.com";
    let controller = Controller::start(bed, namespace);
    let (certificate, key) = objects::certificate(host);
    let (_, other_key) = objects::certificate(host);
    bed.plane.apply(&[
        objects::tls_secret(namespace, "chat-tls", &certificate, &other_key),
        objects::service(namespace, "chat"),
        secure_route(namespace, host),
    ]);
    let told = bed.wait_for(namespace, "chat", "ResolvedRefs", "False", "InvalidCertificateRef");
    assert!(told.message.contains("chat-tls"), "{told:?}");
    certificate_sent(controller.https(), host).unwrap_err();
    bed.plane.apply(&[objects::tls_secret(namespace, "chat-tls", &certificate, &key)]);
    wait_for_certificate(&controller, host, &certificate);
    bed.wait_for(namespace, "chat", "ResolvedRefs", "True", "ResolvedRefs");
}

#[test]
fn a_secret_of_another_type_is_no_certificate() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("opaque");
    let host = "opaque.example.com";
    let _controller = Controller::start(bed, namespace);
    let (certificate, key) = objects::certificate(host);
    let mut secret = objects::tls_secret(namespace, "chat-tls", &certificate, &key);
    secret["type"] = json!("Opaque");
    bed.plane.apply(&[secret, objects::service(namespace, "chat"), secure_route(namespace, host)]);
    bed.wait_for(namespace, "chat", "ResolvedRefs", "False", "InvalidCertificateRef");
}

fn secure_route(namespace: &str, host: &str) -> serde_json::Value {
    let mut route = objects::route(namespace, "chat", host, "chat");
    route["spec"]["tls"] = json!({ "certificateRefs": [{ "name": "chat-tls" }] });
    route
}

fn wait_for_certificate(controller: &Controller, host: &str, pem: &str) {
    let wanted = objects::der(pem);
    eventually(|| match certificate_sent(controller.https(), host) {
        Ok(sent) if sent == wanted => Ok(()),
        Ok(_) => Err("another certificate".to_owned()),
        Err(error) => Err(error),
    });
}
