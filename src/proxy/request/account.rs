//! The account of a request: its counts, and its log line if it was refused.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    handshake::Intent,
    refusal::{Refusal, Side},
};
use crate::{
    proxy::shared::Shared,
    table::{Endpoint, RouteState},
};

/// One for each request. It is counted once: by the first method that records its result, or, when dropped, as
/// abandoned by the client.
pub(crate) struct Account {
    shared: Arc<Shared>,
    /// When its head was complete.
    pub started: Instant,
    /// The route that the request belongs to, once known.
    route: OnceLock<Arc<RouteState>>,
    /// The endpoint that was tried last.
    endpoint: OnceLock<Arc<Endpoint>>,
    is_handshake: AtomicBool,
    is_counted: AtomicBool,
}

impl Account {
    /// Opens the account of a request whose head has just arrived.
    pub(crate) fn open(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            started: Instant::now(),
            route: OnceLock::new(),
            endpoint: OnceLock::new(),
            is_handshake: AtomicBool::new(false),
            is_counted: AtomicBool::new(false),
        }
    }

    /// Records what the request asks for: handshakes are also counted by result.
    pub(super) fn asks_for(&self, intent: Intent) {
        self.is_handshake.store(intent != Intent::Plain, Ordering::Relaxed);
    }

    /// The client has a WebSocket connection.
    pub(crate) fn switch(&self) {
        self.count(StatusCode::SWITCHING_PROTOCOLS, "switched");
        self.shared.metrics.handshake_duration(self.started.elapsed());
    }

    /// The client gets this response from a backend.
    pub(crate) fn respond(&self, status: StatusCode) {
        self.count(status, "refused");
    }

    /// The client gets a response from the proxy itself.
    pub(crate) fn refuse(&self, refusal: &Refusal) {
        self.log(refusal);
        if let Some(reason) = refusal.reason() {
            self.shared.metrics.refusal(self.route.get(), reason);
        }
        self.count(refusal.status(), refusal.label());
    }

    /// The client left before it got a response.
    pub(crate) fn leave(&self) {
        if self.route.get().is_some() {
            self.count_handshake("client_gone");
        }
    }

    /// Records the route that the request belongs to.
    pub(super) fn belongs_to(&self, route: &Arc<RouteState>) {
        let _first = self.route.set(route.clone());
    }

    /// Records the endpoint that was tried last.
    pub(crate) fn tried(&self, endpoint: Option<Arc<Endpoint>>) {
        endpoint.map(|endpoint| self.endpoint.set(endpoint));
    }

    fn count(&self, status: StatusCode, result: &'static str) {
        self.shared.metrics.request(self.route.get(), status.as_u16());
        self.count_handshake(result);
    }

    fn count_handshake(&self, result: &'static str) {
        if !self.is_counted.swap(true, Ordering::Relaxed) && self.is_handshake.load(Ordering::Relaxed) {
            self.shared.metrics.handshake(self.route.get(), result);
        }
    }

    /// Logs a refusal. Errors of clients are not the operator's concern. A failing route or backend fails every
    /// request, so such lines are throttled.
    fn log(&self, refusal: &Refusal) {
        let (side, _, label) = refusal.facts();
        let about = refusal.subject().map(tracing::field::display);
        let (route, endpoint) = (self.route.get().map(|route| route.name.to_string()), self.endpoint.get());
        if side == Side::Client {
            tracing::debug!(route, %refusal, about, "request refused");
            return;
        }
        let kind = [route.as_deref().unwrap_or_default(), label];
        let Some(unlogged) = self.shared.throttle.pass(&kind) else { return };
        let (endpoint, more) = (endpoint.map(|endpoint| &*endpoint.name), (unlogged > 0).then_some(unlogged));
        if side == Side::Backend {
            tracing::warn!(route, endpoint, %refusal, about, more, "backend failed");
        } else {
            tracing::info!(route, %refusal, about, more, "route cannot serve");
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.leave();
    }
}
