//! Metrics, with a method for each thing that happens, so that no caller builds labels.
//!
//! Label values come from enums and object names, never from requests; series go away with what they describe.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::table::ObjectName;

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the backend.
    ToBackend,
    /// From the backend to the client.
    ToClient,
}

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    handshake_duration: Histogram,
    tunnel_duration: Histogram,
    table_build_duration: Histogram,
    config_to_table: Histogram,
    table_generation: Gauge,
    table_routes: Gauge,
    lease_holder: Gauge,
    series: std::sync::Arc<Series>,
}

/// What is counted by object, as plain maps: a series of the client library could not be listed, hence not removed.
#[derive(Debug, Default)]
struct Series {
    bytes: [AtomicU64; 2],
    frames: [AtomicU64; 2],
    tls_handshakes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    routes: Mutex<BTreeMap<ObjectName, RouteSeries>>,
    endpoints: Mutex<BTreeMap<(ObjectName, Box<str>), u64>>,
}

#[derive(Clone, Debug, Default)]
struct RouteSeries {
    tunnels_open: u64,
    handshakes: BTreeMap<&'static str, u64>,
    closes: BTreeMap<(&'static str, &'static str), u64>,
    requests: BTreeMap<u16, u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("switchyard");
        let series = std::sync::Arc::new(Series::default());
        registry.register_collector(Box::new(series.clone()));
        let mut histogram = |name: &str, help: &str, start, factor, length| {
            let histogram = Histogram::new(exponential_buckets(start, factor, length));
            registry.register(name, help, histogram.clone());
            histogram
        };
        let handshake = "From the head of an upgrade request to the answer that switches protocols";
        let handshake_duration = histogram("handshake_duration_seconds", handshake, 0.001, 2.0, 15);
        // From a quarter of a second to twelve days.
        let tunnel_duration = histogram("tunnel_duration_seconds", "How long tunnels were open", 0.25, 4.0, 12);
        let build = "How long building a table took";
        let table_build_duration = histogram("table_build_duration_seconds", build, 0.0005, 2.0, 14);
        let config = "From a change of an object to the table that serves it";
        let config_to_table = histogram("config_to_table_seconds", config, 0.001, 2.0, 16);
        let (table_generation, table_routes) = (Gauge::default(), Gauge::default());
        registry.register("table_generation", "Tables published since the start", table_generation.clone());
        registry.register("table_routes", "Routes in the current table", table_routes.clone());
        let lease_holder = Gauge::default();
        let help = "Whether this replica holds the Lease of its class and writes statuses: 1, else 0";
        registry.register("lease_holder", help, lease_holder.clone());
        Self {
            registry,
            handshake_duration,
            tunnel_duration,
            table_build_duration,
            config_to_table,
            table_generation,
            table_routes,
            lease_holder,
            series,
        }
    }

    /// A request was answered; the route is absent where none was found.
    pub fn request(&self, route: Option<&ObjectName>, code: u16) {
        self.route(route, |series| *series.requests.entry(code).or_default() += 1);
    }

    /// An upgrade request came to an end.
    pub fn handshake(&self, route: Option<&ObjectName>, result: &'static str) {
        self.route(route, |series| *series.handshakes.entry(result).or_default() += 1);
    }

    /// An upgrade request was answered with 101 after this time.
    pub fn handshake_duration(&self, duration: Duration) {
        self.handshake_duration.observe(duration.as_secs_f64());
    }

    /// A tunnel was opened to an endpoint of a Service.
    pub fn tunnel_opened(&self, route: &ObjectName, service: &ObjectName, endpoint: &str) {
        self.route(Some(route), |series| series.tunnels_open += 1);
        *lock(&self.series.endpoints).entry((service.clone(), endpoint.into())).or_default() += 1;
    }

    /// A tunnel that was counted by [`Metrics::tunnel_opened`] has ended.
    pub fn tunnel_closed(&self, route: &ObjectName, service: &ObjectName, endpoint: &str, end: TunnelClose) {
        let TunnelClose { closer, cause, duration } = end;
        self.route(Some(route), |series| {
            series.tunnels_open = series.tunnels_open.saturating_sub(1);
            *series.closes.entry((closer, cause)).or_default() += 1;
        });
        self.tunnel_duration.observe(duration.as_secs_f64());
        let (mut endpoints, key) = (lock(&self.series.endpoints), (service.clone(), Box::from(endpoint)));
        if let Some(open) = endpoints.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                endpoints.remove(&key);
            }
        }
    }

    /// So many bytes were passed on through a tunnel, and with them the headers of so many frames.
    pub fn passed(&self, direction: Direction, bytes: u64, frames: u64) {
        self.series.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
        self.series.frames[direction as usize].fetch_add(frames, Ordering::Relaxed);
    }

    /// A TLS handshake with a client came to an end.
    pub fn tls_handshake(&self, result: &'static str, version: &'static str) {
        *lock(&self.series.tls_handshakes).entry((result, version)).or_default() += 1;
    }

    /// A table was published.
    pub fn table_published(&self, generation: u64, routes: usize) {
        self.table_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.table_routes.set(i64::try_from(routes).unwrap_or(i64::MAX));
    }

    /// This replica has become the one that writes statuses, or no longer is.
    pub fn lease_holder(&self, is_holder: bool) {
        self.lease_holder.set(i64::from(is_holder));
    }

    /// A table was built, whether or not it differed from the one before.
    pub fn table_built(&self, duration: Duration) {
        self.table_build_duration.observe(duration.as_secs_f64());
    }

    /// A change of an object is being served after this time.
    pub fn config_to_table(&self, duration: Duration) {
        self.config_to_table.observe(duration.as_secs_f64());
    }

    /// Forgets the routes that are gone, but for those that still have tunnels.
    pub fn retain_routes(&self, keep: impl Fn(&ObjectName) -> bool) {
        let unrouted = |name: &ObjectName| name.name.is_empty();
        lock(&self.series.routes).retain(|name, series| unrouted(name) || series.tunnels_open > 0 || keep(name));
    }

    /// All of them, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut encoded = String::new();
        text::encode(&mut encoded, &self.registry).expect("writing to a string does not fail");
        encoded
    }

    fn route(&self, route: Option<&ObjectName>, change: impl FnOnce(&mut RouteSeries)) {
        let mut routes = lock(&self.series.routes);
        match route {
            Some(route) => match routes.get_mut(route) {
                Some(series) => change(series),
                None => change(routes.entry(route.clone()).or_default()),
            },
            None => change(routes.entry(ObjectName::new("", "")).or_default()),
        }
    }
}

/// How a tunnel ended, as metrics see it.
#[derive(Clone, Copy, Debug)]
pub struct TunnelClose {
    /// Who ended it.
    pub closer: &'static str,
    /// Why.
    pub cause: &'static str,
    /// How long it was open.
    pub duration: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let directions = |counts: &[AtomicU64; 2]| {
            let count = |direction: usize| counts[direction].load(Ordering::Relaxed);
            [([("direction", "to_backend")], count(0)), ([("direction", "to_client")], count(1))]
        };
        counters(&mut encoder, "bytes", "Bytes passed on through tunnels", directions(&self.bytes))?;
        let help = "WebSocket frames passed on through tunnels, without the proxy's own";
        counters(&mut encoder, "frames", help, directions(&self.frames))?;
        // Copied, and written after the lock is gone: requests wait for it.
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
        gauges(&mut encoder, "endpoint_tunnels_open", "Open tunnels of an endpoint", endpoints)?;
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
        counters(encoder, "handshakes", "Upgrade requests by how they ended", handshakes)?;
        let closes = named().flat_map(|(namespace, name, series)| {
            let labels = move |(closer, cause)| {
                [("namespace", namespace), ("route", name), ("closer", closer), ("cause", cause)]
            };
            series.closes.iter().map(move |(end, count)| (labels(*end), *count))
        });
        counters(encoder, "closes", "Tunnels that ended, by who ended them and why", closes)?;
        let requests = named().flat_map(|(namespace, name, series)| {
            let labels = move |code: &u16| {
                [("namespace", namespace.to_owned()), ("route", name.to_owned()), ("code", code.to_string())]
            };
            series.requests.iter().map(move |(code, count)| (labels(code), *count))
        });
        counters(encoder, "requests", "Requests answered, upgrades included", requests)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn close() -> TunnelClose {
        TunnelClose { closer: "client", cause: "closed", duration: Duration::from_secs(3) }
    }

    #[test]
    fn every_metric_has_the_prefix_and_counters_end_in_total_once() {
        let metrics = Metrics::new();
        let (route, service) = (ObjectName::new("shop", "chat"), ObjectName::new("shop", "chat-svc"));
        metrics.request(Some(&route), 200);
        metrics.request(None, 404);
        metrics.handshake(Some(&route), "switched");
        metrics.tunnel_opened(&route, &service, "chat-0");
        metrics.passed(Direction::ToClient, 5, 1);
        metrics.tls_handshake("ok", "TLSv1.3");
        metrics.table_published(3, 2);
        let text = metrics.encode();
        for line in [
            r#"switchyard_requests_total{namespace="shop",route="chat",code="200"} 1"#,
            r#"switchyard_requests_total{namespace="",route="",code="404"} 1"#,
            r#"switchyard_handshakes_total{namespace="shop",route="chat",result="switched"} 1"#,
            r#"switchyard_tunnels_open{namespace="shop",route="chat"} 1"#,
            r#"switchyard_endpoint_tunnels_open{namespace="shop",service="chat-svc",endpoint="chat-0"} 1"#,
            r#"switchyard_bytes_total{direction="to_client"} 5"#,
            r#"switchyard_tls_handshakes_total{result="ok",version="TLSv1.3"} 1"#,
            "switchyard_table_generation 3",
            "switchyard_table_routes 2",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("total_total"));
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("switchyard_")));
    }

    #[test]
    fn series_go_away_with_what_they_describe() {
        let metrics = Metrics::new();
        let (route, service) = (ObjectName::new("shop", "chat"), ObjectName::new("shop", "chat-svc"));
        metrics.tunnel_opened(&route, &service, "chat-0");
        metrics.retain_routes(|_| false);
        assert!(metrics.encode().contains("tunnels_open{namespace=\"shop\""), "a tunnel outlives its route");
        metrics.tunnel_closed(&route, &service, "chat-0", close());
        assert!(!metrics.encode().contains("endpoint=\"chat-0\""));
        assert!(metrics.encode().contains("closer=\"client\",cause=\"closed\"} 1"));
        metrics.retain_routes(|_| false);
        assert!(!metrics.encode().contains("route=\"chat\""));
    }
}
