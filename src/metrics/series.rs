//! Counts per object, and their encoding.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{
        Mutex,
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
use crate::table::ObjectName;

/// Counts per object, in plain maps: the client library's families cannot list their series, and so cannot remove them.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) bytes: [AtomicU64; 2],
    pub(super) frames: [AtomicU64; 2],
    pub(super) tls_handshakes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    pub(super) routes: Mutex<BTreeMap<ObjectName, RouteSeries>>,
    pub(super) endpoints: Mutex<BTreeMap<(ObjectName, Box<str>), u64>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RouteSeries {
    pub(super) tunnels_open: u64,
    pub(super) handshakes: BTreeMap<&'static str, u64>,
    pub(super) closes: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) requests: BTreeMap<CodeLabel, u64>,
    pub(super) refusals: BTreeMap<&'static str, u64>,
}

/// A status as a label. Backends choose statuses, so there is one value for each one registered with IANA and one for
/// the rest of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CodeLabel {
    Registered(u16),
    Class(u16),
    Other,
}

impl CodeLabel {
    pub(super) fn of(code: u16) -> Self {
        // The statuses with a reason in the `http` crate are the registered ones.
        let is_registered = StatusCode::from_u16(code).is_ok_and(|status| status.canonical_reason().is_some());
        match code / 100 {
            _ if is_registered => Self::Registered(code),
            class @ 1..=5 => Self::Class(class),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for CodeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered(code) => write!(f, "{code}"),
            Self::Class(class) => write!(f, "{class}xx"),
            Self::Other => f.write_str("other"),
        }
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
        let endpoints = lock(&self.endpoints).clone();
        let endpoints = endpoints.iter().map(|((service, endpoint), open)| {
            let labels =
                [("namespace", &*service.namespace), ("service", &*service.name), ("endpoint", endpoint.as_ref())];
            (labels, *open)
        });
        gauges(&mut encoder, "endpoint_tunnels_open", "Open tunnels by endpoint", endpoints)?;
        self.encode_routes(&mut encoder)
    }
}

impl Series {
    fn encode_routes(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let routes = lock(&self.routes).clone();
        let named = || routes.iter().map(|(name, series)| (&*name.namespace, &*name.name, series));
        let open = named().filter(|(_, name, _)| !name.is_empty());
        let open = open.map(|(namespace, name, series)| (route_labels(namespace, name), series.tunnels_open));
        gauges(encoder, "tunnels_open", "Open tunnels", open)?;
        let handshakes = named().flat_map(|(namespace, name, series)| {
            let labels = move |result| [("namespace", namespace), ("route", name), ("result", result)];
            series.handshakes.iter().map(move |(result, count)| (labels(*result), *count))
        });
        counters(encoder, "handshakes", "Upgrade requests by result", handshakes)?;
        let closes = named().flat_map(|(namespace, name, series)| {
            let labels = move |(closer, cause)| {
                [("namespace", namespace), ("route", name), ("closer", closer), ("cause", cause)]
            };
            series.closes.iter().map(move |(end, count)| (labels(*end), *count))
        });
        counters(encoder, "closes", "Closed tunnels by who closed them and why", closes)?;
        let requests = named().flat_map(|(namespace, name, series)| {
            let labels = move |code: &CodeLabel| {
                [("namespace", namespace.to_owned()), ("route", name.to_owned()), ("code", code.to_string())]
            };
            series.requests.iter().map(move |(code, count)| (labels(code), *count))
        });
        counters(encoder, "requests", "Requests answered, upgrades included", requests)?;
        let refusals = named().flat_map(|(namespace, name, series)| {
            let labels = move |reason| [("namespace", namespace), ("route", name), ("reason", reason)];
            series.refusals.iter().map(move |(reason, count)| (labels(*reason), *count))
        });
        counters(encoder, "refusals", "Connections and requests refused, by reason", refusals)
    }
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
