//! What the process decides for all connections.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use crate::proxy::{bounds::budget, fields::protected::ProtectedFields};

/// Settings of the proxy, none of which is decided by a route.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many threads serve connections; at least one does.
    pub threads: usize,
    /// What clients and backends may make each thread hold, in bytes.
    pub held_per_thread: usize,
    /// The port that clients reach the TLS listener at, for redirects; nothing stands for 443.
    pub public_https_port: Option<u16>,
    /// Peers whose `Forwarded` and `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The request fields that only trusted proxies may send.
    pub protected_fields: ProtectedFields,
    /// How long a stopping process still accepts, so that load balancers can take it out.
    pub shutdown_delay: Duration,
    /// Over how long the ends of tunnels are spread when the process stops.
    pub drain_window: Duration,
    /// How long requests in flight may take when the process stops, beyond the drain window.
    pub request_grace: Duration,
    /// From the first byte of a request to the end of its head; the first request's from the connection's start.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub keep_alive_timeout: Duration,
    /// How long a TLS handshake may take.
    pub tls_handshake_timeout: Duration,
    /// How long a client that has closed its half may wait without receiving a byte, in a request or in a tunnel.
    pub half_closed_timeout: Duration,
    /// How long a client may neither send what it promised nor take what it asked for: it is waited for in the middle of
    /// a request's body, or its answer is not read. Waiting for the backend is not limited by it, nor is a tunnel.
    pub stall_timeout: Duration,
    /// How many bytes a second a client has to send of a body, or to take of a response, while it is waited for, on
    /// average over each `stall_timeout` of waiting; 0 for any number. As with `stall_timeout`, time in which the
    /// backend is waited for does not count.
    pub min_rate: u32,
    /// How long a body behind `Expect: 100-continue` is held for a backend that says nothing.
    pub continue_timeout: Duration,
    /// How long unused connections to backends are kept. Node closes its after 5 s, so this is shorter.
    pub pool_idle_timeout: Duration,
    /// How many unused connections are kept for an endpoint.
    pub pool_idle_per_endpoint: usize,
    /// How many connections with clients there may be; each may need one with a backend.
    pub max_connections: usize,
    /// How many connections one client address may have, an IPv6 client being its /64; 0 means no limit. Trusted proxies
    /// are exempt.
    pub max_connections_per_client: u32,
    /// How long a frame may take to become whole when the proxy ends a tunnel, and then how long a peer may take to
    /// answer the Close.
    pub close_timeout: Duration,
    /// How long a closing connection waits for the peer to close as well.
    pub linger_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 1,
            held_per_thread: budget::BUDGET,
            public_https_port: None,
            trusted_proxies: Vec::new(),
            protected_fields: ProtectedFields::default(),
            shutdown_delay: Duration::ZERO,
            drain_window: Duration::from_secs(60),
            request_grace: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            tls_handshake_timeout: Duration::from_secs(10),
            half_closed_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            min_rate: 64,
            continue_timeout: Duration::from_secs(3),
            pool_idle_timeout: Duration::from_millis(3500),
            pool_idle_per_endpoint: 64,
            max_connections: usize::MAX,
            max_connections_per_client: 0,
            close_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Whether a peer's word about the client before it is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
