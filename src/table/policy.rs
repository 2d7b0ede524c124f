//! How the requests of a rule are handled.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::choices::{
    Algorithm, DEFAULT_BACKEND_CONNECT_TIMEOUT, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_PING_INTERVAL, DEFAULT_PING_TIMEOUT,
    EscapedSlashes, NonUpgrade, Secure,
};

/// The settings of a rule other than its matches and backends. It is created when a route is compiled, and its fields
/// are never copied individually. The default applies to a rule without settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How an endpoint of a backend is chosen.
    pub algorithm: Algorithm,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Which ends the proxy pings.
    pub keepalive: Keepalive,
    /// How sessions are kept; `None` without persistence.
    pub persistence: Option<Persistence>,
    /// Whose requests are served.
    pub clients: ClientNetworks,
    /// What happens to requests that are not a WebSocket upgrade.
    pub non_upgrade: NonUpgrade,
    /// What happens to requests whose path contains `%2F` or `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// Networks whose clients are served, and those whose clients are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNetworks {
    /// Served; all if there are none.
    pub allow: Box<[IpNet]>,
    /// Not served, even if allowed.
    pub deny: Box<[IpNet]>,
}

impl ClientNetworks {
    /// Whether a client is served. An IPv4 address that is mapped into IPv6 is the IPv4 address.
    #[must_use]
    pub fn admit(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let contains = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        (self.allow.is_empty() || contains(&self.allow)) && !contains(&self.deny)
    }
}

/// Time limits; `None` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From an upgrade request's head to the backend's response.
    pub handshake: Option<Duration>,
    /// From forwarding the head of any other request to the head of the response.
    pub response: Option<Duration>,
    /// One connection attempt.
    pub backend_connect: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    /// From the 101 to the end.
    pub max_duration: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Some(DEFAULT_HANDSHAKE_TIMEOUT),
            response: None,
            backend_connect: Some(DEFAULT_BACKEND_CONNECT_TIMEOUT),
            idle: None,
            max_duration: None,
        }
    }
}

/// Which ends the proxy pings, and how; `None` means no pings to that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Pings to the client.
    pub client: Option<Pings>,
    /// Pings to the backend.
    pub backend: Option<Pings>,
}

/// Pings to one end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// An end that has sent nothing for this long is sent a ping; never zero.
    pub interval: Duration,
    /// A tunnel is closed if that end sends nothing for this long after a ping; `None` means never.
    pub timeout: Option<Duration>,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { client: Some(Pings::default()), backend: None }
    }
}

impl Default for Pings {
    fn default() -> Self {
        Self { interval: DEFAULT_PING_INTERVAL, timeout: Some(DEFAULT_PING_TIMEOUT) }
    }
}

/// How the session token is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// The scope to which a token is bound, besides its endpoint.
    pub scope: Arc<str>,
    /// The name of the cookie.
    pub cookie: Arc<str>,
    /// The attributes of `Set-Cookie` except `Secure`, exactly as sent, each with its leading `; `.
    pub attributes: Arc<str>,
    /// When the `Secure` attribute is added.
    pub secure: Secure,
    /// The age at which a session gets a new endpoint.
    pub max_age: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(networks: &[&str]) -> Box<[IpNet]> {
        networks.iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn deny_wins_over_allow_and_nothing_allowed_means_everyone() {
        let admits = |allow: &[&str], deny: &[&str], client: &str| {
            ClientNetworks { allow: networks(allow), deny: networks(deny) }.admit(client.parse().unwrap())
        };
        assert!(admits(&[], &[], "192.0.2.1") && admits(&[], &[], "2001:db8::1"));
        assert!(admits(&["10.0.0.0/8"], &["10.6.0.0/16"], "10.5.0.1"));
        assert!(!admits(&["10.0.0.0/8"], &["10.6.0.0/16"], "10.6.0.1"));
        assert!(!admits(&["10.0.0.0/8"], &[], "192.0.2.1") && !admits(&["10.0.0.0/8"], &[], "2001:db8::1"));
        assert!(admits(&["2001:db8::/32"], &["192.0.2.0/24"], "2001:db8::1"));
        assert!(!admits(&[], &["192.0.2.0/24"], "::ffff:192.0.2.1"), "a mapped address");
        assert!(!admits(&[], &["0.0.0.0/0"], "192.0.2.1") && admits(&[], &["0.0.0.0/0"], "2001:db8::1"));
    }
}
