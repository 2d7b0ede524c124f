//! Ending tunnels from outside: which ones, and what their peers are told.

use std::{net::IpAddr, sync::Arc};

use super::{TunnelHandle, end::Cause};
use crate::table::{EndpointId, ObjectName};

/// Why tunnels are ended, and the Close for both peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The cause, for metrics and the log.
    pub cause: Cause,
    /// The status code of the Close frame (RFC 6455 §7.4).
    pub code: u16,
    /// The reason in the Close frame, at most 123 bytes.
    pub reason: &'static str,
}

impl Ending {
    /// The process is stopping, and another one takes over.
    pub const SHUTDOWN: Self =
        Self { cause: Cause::Shutdown, code: 1012, reason: "server restarting, please reconnect" };
}

/// Selects tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All tunnels.
    All,
    /// The one with this number.
    Tunnel(u64),
    /// Those of a route.
    Route(ObjectName),
    /// Those of a rule.
    Rule {
        /// The rule's route.
        route: ObjectName,
        /// Its name, or its position in the route.
        rule: Arc<str>,
    },
    /// Those connected to an endpoint.
    Endpoint(EndpointId),
    /// Those of a client address.
    Client(IpAddr),
}

impl Selector {
    /// Whether a tunnel is selected.
    #[must_use]
    pub fn selects(&self, tunnel: &TunnelHandle) -> bool {
        match self {
            Self::All => true,
            Self::Tunnel(id) => tunnel.id == *id,
            Self::Route(route) => tunnel.route.name == *route,
            Self::Rule { route, rule } => tunnel.route.name == *route && tunnel.rule == *rule,
            Self::Endpoint(endpoint) => tunnel.endpoint.id == *endpoint,
            Self::Client(client) => tunnel.client == *client,
        }
    }
}
