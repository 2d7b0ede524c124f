//! How the requests of a rule are treated, whichever of them it is.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::choices::{
    Algorithm, DEFAULT_BACKEND_CONNECT_TIMEOUT, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_PING_INTERVAL, DEFAULT_PING_TIMEOUT,
    EscapedSlashes, NonUpgrade, Secure,
};

/// What a rule decides beside its matches and its backends. Compiling a route makes it, and nothing copies its fields
/// one by one. The default is what applies to a rule that states nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How an endpoint of a backend is chosen.
    pub algorithm: Algorithm,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Whom the proxy pings.
    pub keepalive: Keepalive,
    /// How sessions are kept, if they are.
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

/// How long things may take; `None` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From an upgrade request's head to the backend's answer.
    pub handshake: Option<Duration>,
    /// From another request's head, as passed on, to the head of the answer.
    pub response: Option<Duration>,
    /// One attempt to connect.
    pub backend_connect: Option<Duration>,
    /// Without a byte either way.
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

/// Whom the proxy pings, and how; `None` means no pings to that end.
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
    /// An end that sent nothing for so long is sent a ping; never zero.
    pub interval: Duration,
    /// The tunnel of an end that sends nothing for so long after a ping left is ended; nothing where it never is.
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

/// How a session's token travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// What a token is bound to, beside its endpoint.
    pub scope: Arc<str>,
    /// Name of the cookie.
    pub cookie: Arc<str>,
    /// The attributes of `Set-Cookie` but for `Secure`, as they are sent, each with its leading `; `.
    pub attributes: Arc<str>,
    /// When the `Secure` attribute is added.
    pub secure: Secure,
    /// The age at which a session gets another endpoint.
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
