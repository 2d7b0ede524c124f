//! Counts per object, and their encoding.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::HELD_BYTES;
use crate::table::{Counts, Endpoint, EndpointState, ObjectName, RouteState, TunnelCount};

/// Counts of the process, and the objects that have counts of their own. Those are listed when they are first counted,
/// and no longer once nothing uses them. Counting takes no lock of the process, except for TLS handshakes.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) bytes: [AtomicU64; 2],
    pub(super) frames: [AtomicU64; 2],
    pub(super) tls_handshakes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// For requests that no route matches.
    unrouted: Arc<RouteState>,
    routes: Mutex<Vec<Weak<RouteState>>>,
    endpoints: Mutex<Vec<ListedEndpoint>>,
}

/// An endpoint by the labels of its series.
#[derive(Debug)]
struct ListedEndpoint {
    service: ObjectName,
    name: Arc<str>,
    state: Weak<EndpointState>,
}

impl Default for Series {
    fn default() -> Self {
        let (bytes, frames, tls_handshakes, routes, endpoints) = Default::default();
        let unrouted = RouteState::new(ObjectName::new("", ""));
        Self { bytes, frames, tls_handshakes, unrouted, routes, endpoints }
    }
}

/// The labels of status codes that are not registered: 1 to 5 for the rest of a class, and this for all others.
const OTHER: u16 = 0;

/// Backends choose statuses, so there is one label for each code registered with IANA, one for the rest of each class,
/// and one for everything else.
pub(super) fn code_label(code: u16) -> u16 {
    // The statuses with a reason in the `http` crate are the registered ones.
    let is_registered = StatusCode::from_u16(code).is_ok_and(|status| status.canonical_reason().is_some());
    match code / 100 {
        _ if is_registered => code,
        class @ 1..=5 => class,
        _ => OTHER,
    }
}

fn code_text(label: u16) -> String {
    match label {
        OTHER => "other".to_owned(),
        class @ 1..=5 => format!("{class}xx"),
        code => code.to_string(),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let directions = |counts: &[AtomicU64; 2]| {
            let count = |direction: usize| counts[direction].load(Ordering::Relaxed);
            [([("direction", "to_backend")], count(0)), ([("direction", "to_client")], count(1))]
        };
        counters(&mut encoder, "bytes", "Bytes forwarded through tunnels", directions(&self.bytes))?;
        let help = "WebSocket frames forwarded through tunnels, excluding the proxy's own";
        counters(&mut encoder, "frames", help, directions(&self.frames))?;
        let gauge = ConstGauge::new(i64::try_from(HELD_BYTES.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        let help = "Bytes received and not yet taken by their receivers";
        gauge.encode(encoder.encode_descriptor("held_bytes", help, None, MetricType::Gauge)?)?;
        // Copied, and written after the lock is released: requests wait for it.
        let handshakes = lock(&self.tls_handshakes).clone();
        let handshakes =
            handshakes.iter().map(|((result, version), count)| ([("result", *result), ("version", *version)], *count));
        counters(&mut encoder, "tls_handshakes", "TLS handshakes with clients", handshakes)?;
        let endpoints = self.listed_endpoints();
        let endpoints = endpoints.iter().map(|(service, endpoint, open)| {
            let labels = [("namespace", &*service.namespace), ("service", &*service.name), ("endpoint", &**endpoint)];
            (labels, *open as u64)
        });
        gauges(&mut encoder, "endpoint_tunnels_open", "Open tunnels by endpoint", endpoints)?;
        self.encode_routes(&mut encoder)
    }
}

impl Series {
    /// The counts of a route, which is listed from now on, or those of requests without one.
    pub(super) fn route<'a>(&'a self, route: Option<&'a Arc<RouteState>>) -> &'a RouteState {
        let Some(route) = route else { return &self.unrouted };
        if route.tunnels.list() {
            lock(&self.routes).push(Arc::downgrade(route));
        }
        route
    }

    /// The open tunnels of an endpoint, which is listed from now on.
    pub(super) fn endpoint<'a>(&self, service: &ObjectName, endpoint: &'a Endpoint) -> &'a TunnelCount {
        if endpoint.state.tunnels.list() {
            let state = Arc::downgrade(&endpoint.state);
            lock(&self.endpoints).push(ListedEndpoint { service: service.clone(), name: endpoint.name.clone(), state });
        }
        &endpoint.state.tunnels
    }

    /// The routes in use, by name, with the one for requests without a route.
    fn listed_routes(&self) -> Vec<Arc<RouteState>> {
        let mut routes = lock(&self.routes);
        routes.retain(|route| route.strong_count() > 0);
        let mut routes: Vec<_> = routes.iter().filter_map(Weak::upgrade).chain([self.unrouted.clone()]).collect();
        routes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        routes
    }

    /// The endpoints with open tunnels, by name, with their number.
    fn listed_endpoints(&self) -> Vec<(ObjectName, Arc<str>, usize)> {
        let mut endpoints = lock(&self.endpoints);
        endpoints.retain(|endpoint| endpoint.state.strong_count() > 0);
        let open = |endpoint: &ListedEndpoint| {
            let open = endpoint.state.upgrade()?.tunnels.count();
            (open > 0).then(|| (endpoint.service.clone(), endpoint.name.clone(), open))
        };
        let mut open: Vec<_> = endpoints.iter().filter_map(open).collect();
        drop(endpoints);
        open.sort_unstable();
        open
    }

    fn encode_routes(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let routes = self.listed_routes();
        let named = || routes.iter().map(|route| (&*route.name.namespace, &*route.name.name, route));
        let open = named().filter(|(_, name, _)| !name.is_empty());
        let open = open.map(|(namespace, name, route)| (route_labels(namespace, name), route.tunnels.count() as u64));
        gauges(encoder, "tunnels_open", "Open tunnels", open)?;
        let handshakes = named().flat_map(|(namespace, name, route)| {
            let labels = move |result| [("namespace", namespace), ("route", name), ("result", result)];
            sorted(&route.handshakes).into_iter().map(move |(result, count)| (labels(result), count))
        });
        counters(encoder, "handshakes", "Upgrade requests by result", handshakes)?;
        let closes = named().flat_map(|(namespace, name, route)| {
            let labels = move |(closer, cause)| {
                [("namespace", namespace), ("route", name), ("closer", closer), ("cause", cause)]
            };
            sorted(&route.closes).into_iter().map(move |(end, count)| (labels(end), count))
        });
        counters(encoder, "closes", "Closed tunnels by who closed them and why", closes)?;
        let requests = named().flat_map(|(namespace, name, route)| {
            let labels = move |code| {
                [("namespace", namespace.to_owned()), ("route", name.to_owned()), ("code", code_text(code))]
            };
            sorted(&route.requests).into_iter().map(move |(code, count)| (labels(code), count))
        });
        counters(encoder, "requests", "Requests answered, upgrades included", requests)?;
        let refusals = named().flat_map(|(namespace, name, route)| {
            let labels = move |reason| [("namespace", namespace), ("route", name), ("reason", reason)];
            sorted(&route.refusals).into_iter().map(move |(reason, count)| (labels(reason), count))
        });
        counters(encoder, "refusals", "Connections and requests refused, by reason", refusals)
    }
}

fn sorted<K: Copy + Ord>(counts: &Counts<K>) -> Vec<(K, u64)> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_unstable();
    counts
}

fn route_labels<'a>(namespace: &'a str, name: &'a str) -> [(&'static str, &'a str); 2] {
    [("namespace", namespace), ("route", name)]
}

fn counters<L: EncodeLabelSet + Debug>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (L, u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in series {
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<L: EncodeLabelSet + Debug>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (L, u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, count) in series {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
