//! Backend references, resolved to Services and the endpoints behind them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    api::{BackendRef, ConditionReason},
    table::{Backend, Endpoint, EndpointId, EndpointState, ObjectName, Phase, StateRegistry, is_dns_subdomain},
};

use super::{ClusterView, Problem, ServiceObject, ServicePort, SliceEndpoint, SliceObject, Surroundings};

/// How many refused addresses a message lists; the rest are counted.
const NAMED_ADDRESSES: usize = 4;

/// The backends of the last build, reused if nothing has changed, and the state that outlives builds.
#[derive(Debug, Default)]
pub(super) struct Backends {
    registry: StateRegistry<EndpointId, EndpointState>,
    before: HashMap<(ObjectName, u16), Built>,
    now: HashMap<(ObjectName, u16), Built>,
}

/// A backend with the objects that it was built from.
#[derive(Debug)]
struct Built {
    service: Arc<ServiceObject>,
    slices: Vec<Arc<SliceObject>>,
    backend: Arc<Backend>,
    refused: Arc<[RefusedAddress]>,
}

/// An address that an endpoint must not have, and the reason.
type RefusedAddress = (IpAddr, &'static str);

/// The result of resolving a reference.
pub(super) struct Resolved {
    pub(super) backend: Arc<Backend>,
    /// The problem with those of its endpoint addresses that are refused.
    pub(super) refused: Option<Problem>,
}

impl Backends {
    /// Resolves a reference in `namespace`; `path` returns the path of the reference's field.
    pub(super) fn resolve(
        &mut self,
        view: &ClusterView,
        surroundings: Surroundings,
        namespace: &Arc<str>,
        reference: &BackendRef,
        path: impl Fn() -> String,
    ) -> Result<Resolved, Problem> {
        let name = ObjectName::new(namespace.clone(), reference.name.as_str());
        let problem =
            |field: &str, reason, message: String| Problem::new(format!("{}.{field}", path()), reason, message);
        let service = view
            .services
            .get(&name)
            .ok_or_else(|| problem("name", ConditionReason::BackendNotFound, format!("there is no Service {name}")))?;
        if service.spec.type_.as_deref() == Some("ExternalName") {
            let message = format!("Service {name} is of type ExternalName, which could reach any address");
            return Err(problem("name", ConditionReason::UnsupportedValue, message));
        }
        let port = find_port(service, reference.port).ok_or_else(|| {
            problem("port", ConditionReason::UnknownPort, unknown_port(&name, service, reference.port))
        })?;
        check_protocol(&name, port)
            .map_err(|message| problem("port", ConditionReason::UnsupportedProtocol, message))?;
        let number = u16::try_from(port.port)
            .map_err(|_| problem("port", ConditionReason::UnknownPort, port_out_of_range(port.port)))?;
        let (backend, refused) = self.backend(view, surroundings, name, number, service, port);
        let refused = (!refused.is_empty())
            .then(|| problem("name", ConditionReason::UnsupportedValue, refused_addresses(&backend.service, &refused)));
        Ok(Resolved { backend, refused })
    }

    /// Ends a build: forgets backends that were not resolved during it.
    pub(super) fn end_build(&mut self) {
        self.before = std::mem::take(&mut self.now);
        self.registry.prune();
    }

    fn backend(
        &mut self,
        view: &ClusterView,
        surroundings: Surroundings,
        name: ObjectName,
        number: u16,
        service: &Arc<ServiceObject>,
        port: &ServicePort,
    ) -> (Arc<Backend>, Arc<[RefusedAddress]>) {
        let key = (name, number);
        if let Some(built) = self.now.get(&key) {
            return (built.backend.clone(), built.refused.clone());
        }
        let slices = view.slices.get(&key.0).map_or(&[][..], Vec::as_slice);
        let before = self.before.remove(&key);
        let (backend, refused) = match &before {
            Some(before) if before.is_built_from(service, slices) => (before.backend.clone(), before.refused.clone()),
            _ => self.build(&key, port, slices, surroundings, before.as_ref().map(|built| &built.backend)),
        };
        let (service, slices) = (service.clone(), slices.to_vec());
        self.now.insert(key, Built { service, slices, backend: backend.clone(), refused: refused.clone() });
        (backend, refused)
    }

    fn build(
        &mut self,
        key @ (name, number): &(ObjectName, u16),
        port: &ServicePort,
        slices: &[Arc<SliceObject>],
        surroundings: Surroundings,
        before: Option<&Arc<Backend>>,
    ) -> (Arc<Backend>, Arc<[RefusedAddress]>) {
        let mut found = FoundEndpoints::default();
        for slice in slices {
            self.collect(key, port, slice, surroundings, &mut found);
        }
        let FoundEndpoints { endpoints, mut refused } = found;
        refused.sort_unstable();
        refused.dedup();
        let endpoints = merge(endpoints).into_iter().map(|endpoint| reuse(endpoint, before)).collect();
        let turn = before.map_or_else(Arc::default, |before| before.turn.clone());
        let backend = Backend { service: name.clone(), port: *number, endpoints, turn };
        let backend = match before {
            Some(before) if **before == backend => before.clone(),
            _ => Arc::new(backend),
        };
        (backend, refused.into())
    }

    fn collect(
        &mut self,
        (name, number): &(ObjectName, u16),
        port: &ServicePort,
        slice: &SliceObject,
        surroundings: Surroundings,
        found: &mut FoundEndpoints,
    ) {
        let Some(target_port) = target_port(port, slice) else { return };
        for endpoint in &slice.endpoints {
            let addresses = found.usable(addresses(endpoint, target_port), surroundings);
            let Some(phase) = phase(endpoint) else { continue };
            let Some(first) = addresses.first() else { continue };
            let target = endpoint.target_ref.as_ref();
            let id = match target.and_then(|target| target.uid.as_deref()).filter(|uid| is_uid(uid)) {
                Some(uid) => EndpointId::new(name, *number, &uid),
                None => EndpointId::new(name, *number, first),
            };
            // The author of the slice chooses the name, and the API server does not validate it.
            let pod = target.and_then(|target| target.name.as_deref()).filter(|name| is_dns_subdomain(name));
            let endpoint_name = pod.map_or_else(|| first.to_string().into(), Arc::from);
            let state = self.registry.get(&id, Arc::default);
            found.endpoints.push(Endpoint { id, name: endpoint_name, addresses, phase, state });
        }
    }
}

/// The endpoints found in the slices of a Service.
#[derive(Default)]
struct FoundEndpoints {
    endpoints: Vec<Endpoint>,
    refused: Vec<RefusedAddress>,
}

impl FoundEndpoints {
    /// The addresses that an endpoint may have; records the others as refused.
    fn usable(&mut self, addresses: Vec<SocketAddr>, surroundings: Surroundings) -> Box<[SocketAddr]> {
        let mut may_be_used = |address: &SocketAddr| match surroundings.refusal(*address) {
            Some(meaning) => {
                self.refused.push((address.ip(), meaning));
                false
            }
            None => true,
        };
        addresses.into_iter().filter(|address| may_be_used(address)).collect()
    }
}

impl Built {
    fn is_built_from(&self, service: &Arc<ServiceObject>, slices: &[Arc<SliceObject>]) -> bool {
        let same_slices = self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(one, other)| Arc::ptr_eq(one, other));
        same_slices && Arc::ptr_eq(&self.service, service)
    }
}

fn refused_addresses(service: &ObjectName, refused: &[RefusedAddress]) -> String {
    let named: Vec<_> =
        refused.iter().take(NAMED_ADDRESSES).map(|(address, meaning)| format!("{address} ({meaning})")).collect();
    let more = refused.len().saturating_sub(NAMED_ADDRESSES);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "Service {service} has endpoint addresses that could lead to the proxy itself or to its node, and are not used: \
         {}{rest}; its other endpoints are served",
        named.join(", ")
    )
}

/// Whether a uid can distinguish endpoints. With an empty uid, all endpoints that have it would become one.
fn is_uid(uid: &str) -> bool {
    !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_graphic())
}

fn find_port(service: &ServiceObject, wanted: i32) -> Option<&ServicePort> {
    let is_tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let mut ports = service.spec.ports.iter().filter(|port| port.port == wanted);
    ports.clone().find(is_tcp).or_else(|| ports.next())
}

fn unknown_port(name: &ObjectName, service: &ServiceObject, wanted: i32) -> String {
    let ports: Vec<_> = service.spec.ports.iter().map(|port| port.port.to_string()).collect();
    format!("Service {name} has no port {wanted}; it has {}", ports.join(", "))
}

fn port_out_of_range(port: i32) -> String {
    format!("must be between 1 and 65535, got {port}")
}

/// Backends are contacted over plaintext HTTP/1.1. A port that requires TLS is never contacted in plaintext.
fn check_protocol(name: &ObjectName, port: &ServicePort) -> Result<(), String> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    if protocol != "TCP" {
        return Err(format!("port {} of Service {name} must be TCP, got {protocol}", port.port));
    }
    match port.app_protocol.as_deref() {
        Some(tls @ ("https" | "kubernetes.io/wss")) => Err(format!(
            "port {} of Service {name} requires TLS (appProtocol {tls}), which this version does not support for backends",
            port.port
        )),
        Some(other @ ("kubernetes.io/h2c" | "grpc")) => Err(format!(
            "port {} of Service {name} requires HTTP/2 (appProtocol {other}), but only HTTP/1.1 is supported",
            port.port
        )),
        _ => Ok(()),
    }
}

/// The port of a slice that corresponds to the Service's port: the one with the same name.
fn target_port(port: &ServicePort, slice: &SliceObject) -> Option<u16> {
    let named = |name: &Option<String>| name.clone().unwrap_or_default();
    let wanted = named(&port.name);
    let is_it = |candidate: &&super::SlicePort| {
        named(&candidate.name) == wanted && candidate.protocol.as_deref().unwrap_or("TCP") == "TCP"
    };
    let port = slice.ports.iter().find(is_it)?.port?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Unknown conditions count as in the API: `ready` defaults to true, `serving` to `ready`.
fn phase(endpoint: &SliceEndpoint) -> Option<Phase> {
    let conditions = endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    if conditions.terminating.unwrap_or(false) {
        serving.then_some(Phase::Draining)
    } else {
        ready.then_some(Phase::Ready)
    }
}

fn addresses(endpoint: &SliceEndpoint, port: u16) -> Vec<SocketAddr> {
    let parsed = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
    let mut addresses: Vec<_> = parsed.map(|address| SocketAddr::new(address, port)).collect();
    addresses.sort_unstable();
    addresses
}

/// Merges endpoints that appear in several slices, as they do with two address families, and briefly when an endpoint
/// moves to another slice.
fn merge(mut found: Vec<Endpoint>) -> Vec<Endpoint> {
    found.sort_by(|one, other| one.id.cmp(&other.id));
    found.dedup_by(|next, kept| {
        let same = next.id == kept.id;
        if same {
            let mut addresses = [&*kept.addresses, &*next.addresses].concat();
            addresses.sort_unstable();
            addresses.dedup();
            kept.addresses = addresses.into();
            // A stale slice costs one connection attempt; skipping an endpoint by mistake would cost a session.
            if next.phase == Phase::Ready {
                kept.phase = Phase::Ready;
            }
        }
        same
    });
    found
}

fn reuse(endpoint: Endpoint, before: Option<&Arc<Backend>>) -> Arc<Endpoint> {
    let same = before.and_then(|before| {
        let position = before.endpoints.binary_search_by(|candidate| candidate.id.cmp(&endpoint.id)).ok()?;
        Some(&before.endpoints[position])
    });
    match same {
        Some(same) if **same == endpoint => same.clone(),
        _ => Arc::new(endpoint),
    }
}
