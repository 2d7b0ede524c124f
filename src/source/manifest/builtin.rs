//! Services, EndpointSlices and Secrets: the API server's checks of the fields that routing reads.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Secret, Service},
        discovery::v1::{Endpoint, EndpointSlice},
    },
};
use serde_json::Value;

use super::{position::child, typed, violation::Violation};
use crate::compile::{
    SERVICE_NAME_LABEL, SecretData, SecretObject, ServiceObject, ServicePort, ServiceSpec, SliceConditions,
    SliceEndpoint, SliceObject, SlicePort, TargetRef,
};

type Read<T> = Result<T, Vec<Violation>>;

/// A Service, with the fields that routing needs.
pub(super) fn service(value: &Value) -> Read<ServiceObject> {
    let Service { metadata, spec, .. } = typed::read(value, "")?;
    let spec = spec.unwrap_or_default();
    let ports: Vec<_> = spec.ports.unwrap_or_default().into_iter().map(service_port).collect();
    let is_portless = spec.type_.as_deref() == Some("ExternalName") || spec.cluster_ip.as_deref() == Some("None");
    let mut violations = service_faults(&ports);
    if ports.is_empty() && !is_portless {
        violations.push(violation("spec.ports", "is required"));
    }
    if let Some(unknown) = spec.type_.as_deref().filter(|type_| !SERVICE_TYPES.contains(type_)) {
        violations.push(violation("spec.type", format!("must be one of {}, got {unknown}", SERVICE_TYPES.join(", "))));
    }
    sound(violations, ServiceObject { metadata, spec: ServiceSpec { type_: spec.type_, ports } })
}

const SERVICE_TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

fn service_port(port: k8s_openapi::api::core::v1::ServicePort) -> ServicePort {
    ServicePort { name: port.name, port: port.port, protocol: port.protocol, app_protocol: port.app_protocol }
}

fn service_faults(ports: &[ServicePort]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        violations.extend(port_fault(format!("{field}.port"), port.port));
        violations.extend(protocol_fault(format!("{field}.protocol"), port.protocol.as_deref()));
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            violations.push(violation(format!("{field}.name"), "is required for a Service with several ports"));
        } else if !name.is_empty() && !names.insert(name) {
            violations.push(violation(format!("{field}.name"), format!("duplicate of another port's name {name}")));
        }
        if !numbers.insert((port.port, port.protocol.as_deref().unwrap_or("TCP"))) {
            violations.push(violation(format!("{field}.port"), format!("duplicate of {}", port.port)));
        }
    }
    violations
}

/// An EndpointSlice, with the fields that routing needs.
pub(super) fn slice(value: &Value) -> Read<SliceObject> {
    let EndpointSlice { metadata, address_type, endpoints, ports } = typed::read(&without_newer_hints(value), "")?;
    let mut violations = Vec::new();
    if !metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SERVICE_NAME_LABEL)) {
        let field = format!("metadata.labels[{SERVICE_NAME_LABEL}]");
        violations.push(violation(field, "is required: it names the Service of these endpoints"));
    }
    if !matches!(&*address_type, "IPv4" | "IPv6" | "FQDN") {
        violations.push(violation("addressType", format!("must be IPv4, IPv6 or FQDN, got {address_type:?}")));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        address_faults(&address_type, index, endpoint, &mut violations);
    }
    let ports: Vec<_> = ports.unwrap_or_default().into_iter().map(slice_port).collect();
    for (index, port) in ports.iter().enumerate() {
        violations.extend(port.port.and_then(|number| port_fault(format!("ports[{index}].port"), number)));
        violations.extend(protocol_fault(format!("ports[{index}].protocol"), port.protocol.as_deref()));
    }
    let endpoints = endpoints.into_iter().map(slice_endpoint).collect();
    sound(violations, SliceObject { metadata, address_type, endpoints, ports })
}

/// Removes hints, which clusters write and the oldest supported version of the types does not know.
fn without_newer_hints(value: &Value) -> Value {
    let mut value = value.clone();
    for endpoint in value.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(hints) = endpoint.get_mut("hints").and_then(Value::as_object_mut) {
            hints.remove("forNodes");
        }
    }
    value
}

fn slice_port(port: k8s_openapi::api::discovery::v1::EndpointPort) -> SlicePort {
    SlicePort { name: port.name, port: port.port, protocol: port.protocol }
}

fn slice_endpoint(endpoint: Endpoint) -> SliceEndpoint {
    let conditions = endpoint.conditions.unwrap_or_default();
    SliceEndpoint {
        addresses: endpoint.addresses.into_iter().map(Into::into).collect(),
        conditions: SliceConditions {
            ready: conditions.ready,
            serving: conditions.serving,
            terminating: conditions.terminating,
        },
        target_ref: endpoint
            .target_ref
            .map(|target| TargetRef { name: target.name.map(Into::into), uid: target.uid.map(Into::into) }),
    }
}

fn address_faults(address_type: &str, index: usize, endpoint: &Endpoint, violations: &mut Vec<Violation>) {
    let field = format!("endpoints[{index}].addresses");
    if endpoint.addresses.is_empty() {
        violations.push(violation(&*field, "must have at least 1 entry"));
    }
    for (number, address) in endpoint.addresses.iter().enumerate() {
        let is_right = match address_type {
            "IPv4" => address.parse::<Ipv4Addr>().is_ok(),
            "IPv6" => address.parse::<Ipv6Addr>().is_ok(),
            _ => true,
        };
        if !is_right {
            violations.push(violation(
                format!("{field}[{number}]"),
                format!("must be an {address_type} address, got {address}"),
            ));
        }
    }
}

/// A Secret, with the fields that TLS needs.
pub(super) fn secret(value: &Value) -> Read<SecretObject> {
    let unencoded = base64_faults(value);
    if !unencoded.is_empty() {
        return Err(unencoded);
    }
    let Secret { metadata, type_, data, string_data, .. } = typed::read(value, "")?;
    let mut values = data.unwrap_or_default();
    let texts = string_data.unwrap_or_default();
    values.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    let data = SecretData { certificate: values.remove("tls.crt"), key: values.remove("tls.key") };
    let mut violations = Vec::new();
    if type_.as_deref() == Some(crate::compile::TLS_SECRET_TYPE) {
        for (key, value) in [("tls.crt", &data.certificate), ("tls.key", &data.key)] {
            if value.is_none() {
                violations.push(violation(format!("data[{key}]"), "is required"));
            }
        }
    }
    sound(violations, SecretObject { metadata, type_, data })
}

/// The type's own error would only report which byte is invalid.
fn base64_faults(secret: &Value) -> Vec<Violation> {
    let values = secret.get("data").and_then(Value::as_object).into_iter().flatten();
    let texts = values.filter_map(|(key, value)| Some((key, value.as_str()?)));
    let unencoded = texts.filter(|(_, text)| STANDARD.decode(text).is_err());
    unencoded.map(|(key, _)| violation(child("data", key), "must be base64; put plain text under stringData")).collect()
}

fn port_fault(field: String, port: i32) -> Option<Violation> {
    (!(1..=65535).contains(&port)).then(|| violation(field, format!("must be between 1 and 65535, got {port}")))
}

fn protocol_fault(field: String, protocol: Option<&str>) -> Option<Violation> {
    let unknown = protocol.filter(|protocol| !PROTOCOLS.contains(protocol))?;
    Some(violation(field, format!("must be one of {}, got {unknown:?}", PROTOCOLS.join(", "))))
}

fn violation(field: impl Into<String>, message: impl Into<String>) -> Violation {
    Violation { field: field.into(), message: message.into() }
}

fn sound<T>(violations: Vec<Violation>, object: T) -> Read<T> {
    if violations.is_empty() { Ok(object) } else { Err(violations) }
}
