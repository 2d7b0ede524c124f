//! Settings for all connections of the process.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use crate::proxy::{bounds::budget, fields::protected::ProtectedFields};

/// Settings of the proxy that do not depend on routes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many threads serve connections; at least one.
    pub threads: usize,
    /// How many bytes clients and backends may make each thread hold.
    pub held_per_thread: usize,
    /// The port at which clients reach the TLS listener, for redirects; `None` means 443.
    pub public_https_port: Option<u16>,
    /// Peers whose `Forwarded` and `X-Forwarded-*` fields are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The request fields that only trusted proxies may send.
    pub protected_fields: ProtectedFields,
    /// How long a stopping process keeps accepting, so that load balancers can remove it.
    pub shutdown_delay: Duration,
    /// The time over which the ends of tunnels are spread when the process stops.
    pub drain_window: Duration,
    /// How long requests in flight may take when the process stops, beyond the drain window.
    pub request_grace: Duration,
    /// From the first byte of a request to the end of its head; for the first request, from the start of the
    /// connection.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub keep_alive_timeout: Duration,
    /// The time limit for a TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// How long a client that has closed its half may wait without receiving a byte, in a request or in a tunnel.
    pub half_closed_timeout: Duration,
    /// How long a client may neither send what it announced nor take what it requested, in the middle of a request's
    /// body or of its response. It does not limit waiting for the backend, or tunnels.
    pub stall_timeout: Duration,
    /// How many bytes per second a client must send of a body, or take of a response, while the proxy waits for it, on
    /// average over each `stall_timeout` of waiting; 0 for no minimum. As with `stall_timeout`, time spent waiting for
    /// the backend does not count.
    pub min_rate: u32,
    /// How long a body after `Expect: 100-continue` is held for a backend that sends no response.
    pub continue_timeout: Duration,
    /// How long unused connections to backends are kept. Node closes them after 5 s, so this is shorter.
    pub pool_idle_timeout: Duration,
    /// The maximum number of unused connections kept for an endpoint.
    pub pool_idle_per_endpoint: usize,
    /// The maximum number of connections with clients; each may need one with a backend.
    pub max_connections: usize,
    /// The maximum number of connections of one client address, an IPv6 client being its /64; 0 means no limit. Trusted
    /// proxies are exempt.
    pub max_connections_per_client: u32,
    /// How long a frame may take to be complete when the proxy ends a tunnel, and then how long a peer may take to
    /// answer the Close.
    pub close_timeout: Duration,
    /// How long a closing connection waits for the peer to close too.
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
    /// Whether a peer is trusted to describe the client in front of it.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
