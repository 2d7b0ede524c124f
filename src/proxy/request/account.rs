//! What remains of a request: its line in the log.

use super::refusal::{Refusal, Side};
use crate::{
    proxy::bounds::throttle::Throttle,
    table::{Endpoint, ObjectName},
};

/// Logs it, as loud as it deserves: what clients do wrong is not the operator's concern. What a route or a backend
/// does wrong it does with each request, so such lines are limited.
pub(crate) fn log_refusal(
    refusal: &Refusal,
    throttle: &Throttle,
    route: Option<&ObjectName>,
    endpoint: Option<&Endpoint>,
) {
    let (side, _, label) = refusal.facts();
    let about = refusal.subject().map(tracing::field::display);
    let (route, endpoint) = (route.map(ToString::to_string), endpoint.map(|endpoint| &*endpoint.name));
    if side == Side::Client {
        tracing::debug!(route, %refusal, about, "request refused");
        return;
    }
    let Some(unlogged) = throttle.pass(&[route.as_deref().unwrap_or_default(), label]) else { return };
    let more = (unlogged > 0).then_some(unlogged);
    if side == Side::Backend {
        tracing::warn!(route, endpoint, %refusal, about, more, "backend failed");
    } else {
        tracing::info!(route, %refusal, about, more, "route cannot serve");
    }
}
