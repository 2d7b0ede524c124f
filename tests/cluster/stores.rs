//! What the stores keep of the cluster's objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use switchyard::{
    compile::SERVICE_NAME_LABEL,
    source::{Changes, KubernetesSource, Source},
    table::ObjectName,
};

use crate::support::{Backend, Bed, block_on, eventually, objects};

/// A route, a Service, a slice and a Secret, with metadata as other programs write it.
fn decorated(namespace: &str, host: &str, app_protocol: &str, backends: &[&Backend]) -> [Value; 4] {
    let (certificate, key) = objects::certificate(host);
    let mut service = objects::service(namespace, "chat");
    service["spec"]["ports"][0]["appProtocol"] = app_protocol.into();
    let objects = [
        objects::route(namespace, "chat", host, "chat"),
        service,
        objects::slice(namespace, "chat", "chat", backends),
        objects::tls_secret(namespace, "chat", &certificate, &key),
    ];
    objects.map(|mut object| {
        object["metadata"]["annotations"] = json!({ "example.com/large": "x".repeat(1_000) });
        object["metadata"]["labels"]["example.com/team"] = "edge".into();
        object
    })
}

/// The stored metadata of each.
fn kept(source: &KubernetesSource, namespace: &str) -> [ObjectMeta; 4] {
    let (view, chat) = (source.view(), ObjectName::new(namespace, "chat"));
    [
        view.routes[0].metadata.clone(),
        view.services[&chat].metadata.clone(),
        view.slices[&chat][0].metadata.clone(),
        view.secrets[&chat].metadata.clone(),
    ]
}

/// Whether unused fields have been dropped. The names of a route's managers are needed.
fn is_trimmed(metadata: &ObjectMeta) -> bool {
    let ObjectMeta { annotations, labels, managed_fields, .. } = metadata;
    annotations.is_none()
        && labels.iter().flatten().all(|(label, _)| label == SERVICE_NAME_LABEL)
        && managed_fields.iter().flatten().all(|entry| entry.fields_v1.is_none() && entry.time.is_none())
}

#[test]
fn metadata_is_trimmed_before_it_is_kept_after_a_list_and_after_a_change() {
    let Some(bed) = Bed::shared() else { return };
    let namespace = bed.namespace("trimmed");
    let backend = Backend::start("trimmed", 27);
    bed.plane.apply(&decorated(namespace, "trimmed.example.com", "http", &[&backend]));
    let source = block_on(async {
        let source = KubernetesSource::start(&bed.client(), &[namespace.to_owned()], &Changes::default());
        source.synced().await;
        source
    });
    let listed = kept(&source, namespace);
    assert!(listed.iter().all(is_trimmed), "{listed:?}");
    bed.plane.apply(&decorated(namespace, "other.example.com", "kubernetes.io/ws", &[]));
    let changed = eventually(|| {
        let now = kept(&source, namespace);
        let are_new = now.iter().zip(&listed).all(|(now, listed)| now.resource_version != listed.resource_version);
        if are_new { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert!(changed.iter().all(is_trimmed), "{changed:?}");
}
