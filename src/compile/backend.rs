//! Backend references, resolved to Services and the endpoints behind them.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::{
    api::{BackendRef, ConditionReason},
    table::{Backend, Endpoint, EndpointId, EndpointRegistry, ObjectName, Phase},
};

use super::{ClusterView, Problem, ServiceObject, ServicePort, SliceEndpoint, SliceObject};

/// The backends of the last build, to be used again where nothing changed, and what outlasts all builds.
#[derive(Debug, Default)]
pub(super) struct Backends {
    registry: EndpointRegistry,
    before: HashMap<(ObjectName, u16), Resolved>,
    now: HashMap<(ObjectName, u16), Resolved>,
}

/// A backend with the objects that it was made from.
#[derive(Debug)]
struct Resolved {
    service: Arc<ServiceObject>,
    slices: Vec<Arc<SliceObject>>,
    backend: Arc<Backend>,
}

impl Backends {
    /// The backend that a reference in `namespace` names, or what is wrong with it; `path` writes the reference's field.
    pub(super) fn resolve(
        &mut self,
        view: &ClusterView,
        namespace: &Arc<str>,
        reference: &BackendRef,
        path: impl Fn() -> String,
    ) -> Result<Arc<Backend>, Problem> {
        let name = ObjectName::new(namespace.clone(), reference.name.as_str());
        let problem = |field: &str, reason, message| Problem { path: format!("{}.{field}", path()), reason, message };
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
            .map_err(|_| problem("port", ConditionReason::UnknownPort, format!("{} is no port", port.port)))?;
        Ok(self.backend(view, name, number, service, port))
    }

    /// Forgets what was not resolved since the last call.
    pub(super) fn end_build(&mut self) {
        self.before = std::mem::take(&mut self.now);
        self.registry.prune();
    }

    fn backend(
        &mut self,
        view: &ClusterView,
        name: ObjectName,
        number: u16,
        service: &Arc<ServiceObject>,
        port: &ServicePort,
    ) -> Arc<Backend> {
        let key = (name, number);
        if let Some(resolved) = self.now.get(&key) {
            return resolved.backend.clone();
        }
        let slices = view.slices.get(&key.0).map_or(&[][..], Vec::as_slice);
        let before = self.before.remove(&key);
        let backend = match &before {
            Some(before) if before.is_made_from(service, slices) => before.backend.clone(),
            _ => self.build(&key, port, slices, before.as_ref().map(|resolved| &resolved.backend)),
        };
        let resolved = Resolved { service: service.clone(), slices: slices.to_vec(), backend: backend.clone() };
        self.now.insert(key, resolved);
        backend
    }

    fn build(
        &mut self,
        (name, number): &(ObjectName, u16),
        port: &ServicePort,
        slices: &[Arc<SliceObject>],
        before: Option<&Arc<Backend>>,
    ) -> Arc<Backend> {
        let mut found = Vec::new();
        for slice in slices {
            self.collect(name, *number, port, slice, &mut found);
        }
        let endpoints = merge(found).into_iter().map(|endpoint| reuse(endpoint, before)).collect();
        let turn = before.map_or_else(Arc::default, |before| before.turn.clone());
        let backend = Backend { service: name.clone(), port: *number, endpoints, turn };
        match before {
            Some(before) if **before == backend => before.clone(),
            _ => Arc::new(backend),
        }
    }

    fn collect(
        &mut self,
        name: &ObjectName,
        number: u16,
        port: &ServicePort,
        slice: &SliceObject,
        found: &mut Vec<Endpoint>,
    ) {
        let Some(target_port) = target_port(port, slice) else { return };
        for endpoint in &slice.endpoints {
            let Some(phase) = phase(endpoint) else { continue };
            let addresses: Box<[SocketAddr]> = addresses(endpoint, target_port);
            let Some(first) = addresses.first() else { continue };
            let target = endpoint.target_ref.as_ref();
            let id = match target.and_then(|target| target.uid.as_deref()) {
                Some(uid) => EndpointId::new(name, number, &uid),
                None => EndpointId::new(name, number, first),
            };
            let pod = target.and_then(|target| target.name.as_deref());
            let endpoint_name = pod.map_or_else(|| first.to_string().into(), Arc::from);
            let state = self.registry.state(&id);
            found.push(Endpoint { id, name: endpoint_name, addresses, phase, state });
        }
    }
}

impl Resolved {
    fn is_made_from(&self, service: &Arc<ServiceObject>, slices: &[Arc<SliceObject>]) -> bool {
        let same_slices = self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(one, other)| Arc::ptr_eq(one, other));
        same_slices && Arc::ptr_eq(&self.service, service)
    }
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

/// Backends speak plain HTTP/1.1. A port that asks for TLS is never spoken to in plaintext.
fn check_protocol(name: &ObjectName, port: &ServicePort) -> Result<(), String> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    if protocol != "TCP" {
        return Err(format!("port {} of Service {name} is {protocol}, but TCP is needed", port.port));
    }
    match port.app_protocol.as_deref() {
        Some(tls @ ("https" | "kubernetes.io/wss")) => Err(format!(
            "port {} of Service {name} asks for TLS by appProtocol {tls}, which this version cannot speak to backends",
            port.port
        )),
        Some(other @ ("kubernetes.io/h2c" | "grpc")) => Err(format!(
            "port {} of Service {name} asks for HTTP/2 by appProtocol {other}; backends are spoken to in HTTP/1.1",
            port.port
        )),
        _ => Ok(()),
    }
}

/// The port of a slice that stands for the Service's port: the one of the same name.
fn target_port(port: &ServicePort, slice: &SliceObject) -> Option<u16> {
    let named = |name: &Option<String>| name.clone().unwrap_or_default();
    let wanted = named(&port.name);
    let is_it = |candidate: &&super::SlicePort| {
        named(&candidate.name) == wanted && candidate.protocol.as_deref().unwrap_or("TCP") == "TCP"
    };
    let port = slice.ports.iter().find(is_it)?.port?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Unknown conditions count as the API says: ready unless told otherwise, serving as it is ready.
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

fn addresses(endpoint: &SliceEndpoint, port: u16) -> Box<[SocketAddr]> {
    let parsed = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
    let mut addresses: Vec<_> = parsed.map(|address| SocketAddr::new(address, port)).collect();
    addresses.sort_unstable();
    addresses.into()
}

/// Makes one endpoint of those that several slices name, as they do for two address families, and for a moment when
/// an endpoint moves to another slice.
fn merge(mut found: Vec<Endpoint>) -> Vec<Endpoint> {
    found.sort_by(|one, other| one.id.cmp(&other.id));
    found.dedup_by(|next, kept| {
        let same = next.id == kept.id;
        if same {
            let mut addresses = [&*kept.addresses, &*next.addresses].concat();
            addresses.sort_unstable();
            addresses.dedup();
            kept.addresses = addresses.into();
            // A stale slice costs one attempt to connect; an endpoint passed over by mistake would cost a session.
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
