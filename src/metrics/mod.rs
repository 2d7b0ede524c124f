//! Metrics, with one method per event, so that callers do not build labels.
//!
//! Label values come from enums and object names, never from requests; series are removed with the objects they
//! describe.

pub mod log;
mod series;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::text,
    metrics::{
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use self::series::{Series, code_label, lock};
use crate::table::{Endpoint, ObjectName, RouteState};

/// The direction of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the backend.
    ToBackend,
    /// From the backend to the client.
    ToClient,
}

/// Bytes held for clients and backends: received and not yet taken. One number for the process, which shares its
/// memory.
pub static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

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
    series: Arc<Series>,
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
        let series = Arc::new(Series::default());
        registry.register_collector(Box::new(series.clone()));
        let mut histogram = |name: &str, help: &str, start, factor, length| {
            let histogram = Histogram::new(exponential_buckets(start, factor, length));
            registry.register(name, help, histogram.clone());
            histogram
        };
        let handshake = "From the head of an upgrade request to the 101";
        let handshake_duration = histogram("handshake_duration_seconds", handshake, 0.001, 2.0, 15);
        // From a quarter of a second to twelve days.
        let tunnel_duration = histogram("tunnel_duration_seconds", "How long tunnels were open", 0.25, 4.0, 12);
        let build = "How long building a table took";
        let table_build_duration = histogram("table_build_duration_seconds", build, 0.0005, 2.0, 14);
        let config = "Time from a change of an object to the table that serves it";
        let config_to_table = histogram("config_to_table_seconds", config, 0.001, 2.0, 16);
        let (table_generation, table_routes) = (Gauge::default(), Gauge::default());
        registry.register("table_generation", "Tables published since startup", table_generation.clone());
        registry.register("table_routes", "Routes in the current table", table_routes.clone());
        let lease_holder = Gauge::default();
        let help = "Whether this replica holds the Lease of its class and writes statuses: 1 or 0";
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

    /// A request was answered; the route is absent if none matched. Unregistered codes are counted by class.
    pub fn request(&self, route: Option<&Arc<RouteState>>, code: u16) {
        self.series.route(route).requests.add(code_label(code));
    }

    /// A connection or request was refused for one of a few reasons; the route is absent if none matched.
    pub fn refusal(&self, route: Option<&Arc<RouteState>>, reason: &'static str) {
        self.series.route(route).refusals.add(reason);
    }

    /// An upgrade request ended.
    pub fn handshake(&self, route: Option<&Arc<RouteState>>, result: &'static str) {
        self.series.route(route).handshakes.add(result);
    }

    /// An upgrade request got its 101 after this time.
    pub fn handshake_duration(&self, duration: Duration) {
        self.handshake_duration.observe(duration.as_secs_f64());
    }

    /// A tunnel was opened to an endpoint of a Service.
    pub fn tunnel_opened(&self, route: &Arc<RouteState>, service: &ObjectName, endpoint: &Endpoint) {
        self.series.route(Some(route)).tunnels.open();
        self.series.endpoint(service, endpoint).open();
    }

    /// A tunnel counted by [`Metrics::tunnel_opened`] was closed.
    pub fn tunnel_closed(&self, route: &RouteState, endpoint: &Endpoint, end: TunnelClose) {
        let TunnelClose { closer, cause, duration } = end;
        route.tunnels.close();
        route.closes.add((closer, cause));
        endpoint.state.tunnels.close();
        self.tunnel_duration.observe(duration.as_secs_f64());
    }

    /// Bytes, and the headers of frames, were forwarded through a tunnel.
    pub fn passed(&self, direction: Direction, bytes: u64, frames: u64) {
        self.series.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
        self.series.frames[direction as usize].fetch_add(frames, Ordering::Relaxed);
    }

    /// A TLS handshake with a client ended.
    pub fn tls_handshake(&self, result: &'static str, version: &'static str) {
        *lock(&self.series.tls_handshakes).entry((result, version)).or_default() += 1;
    }

    /// A table was published.
    pub fn table_published(&self, generation: u64, routes: usize) {
        self.table_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.table_routes.set(i64::try_from(routes).unwrap_or(i64::MAX));
    }

    /// This replica started or stopped writing statuses.
    pub fn lease_holder(&self, is_holder: bool) {
        self.lease_holder.set(i64::from(is_holder));
    }

    /// A table was built, whether or not it differs from the previous one.
    pub fn table_built(&self, duration: Duration) {
        self.table_build_duration.observe(duration.as_secs_f64());
    }

    /// A change of an object was served after this time.
    pub fn config_to_table(&self, duration: Duration) {
        self.config_to_table.observe(duration.as_secs_f64());
    }

    /// All metrics, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut encoded = String::new();
        text::encode(&mut encoded, &self.registry).expect("writing to a string does not fail");
        encoded
    }
}

/// How a tunnel ended, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct TunnelClose {
    /// Who closed it.
    pub closer: &'static str,
    /// Why.
    pub cause: &'static str,
    /// How long it was open.
    pub duration: Duration,
}

#[cfg(test)]
mod tests;
