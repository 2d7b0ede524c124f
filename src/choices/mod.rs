//! The choices that a route offers: the values to choose from, and what applies where nothing is chosen.
//!
//! A leaf, so that what users write (`api`) and what the proxy reads (`table`) are the same values, defined once.

use std::time::Duration;

/// The class that a route belongs to when it names none.
pub const DEFAULT_CLASS_NAME: &str = "switchyard";
/// The share of a backend reference that states no weight.
pub const DEFAULT_WEIGHT: i32 = 1;
/// `timeouts.handshake` of a rule that states none.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// `timeouts.backendConnect` of a rule that states none.
pub const DEFAULT_BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `keepalive.pingInterval` of a rule that states none.
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(25);
/// `keepalive.pingTimeout` of a rule that states none.
pub const DEFAULT_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// `sessionPersistence.cookie.path` of a rule that states none.
pub const DEFAULT_COOKIE_PATH: &str = "/";
/// `sessionPersistence.cookie.httpOnly` of a rule that states none.
pub const DEFAULT_COOKIE_HTTP_ONLY: bool = true;

/// A value that is one of a few. The default is what applies where a user chooses nothing.
pub trait Choice: Copy + Default + Eq + 'static {
    /// What is chosen, for schemas.
    const TITLE: &'static str;
    /// The values, in the order in which they are listed.
    const VALUES: &'static [Self];

    /// The value as it is written.
    fn as_str(self) -> &'static str;
}

/// Defines an enum whose values are written as they are named here.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_meta])* $value,)+
        }

        impl Choice for $name {
            const TITLE: &'static str = stringify!($name);
            const VALUES: &'static [Self] = &[$(Self::$value),+];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => stringify!($value),)+
                }
            }
        }
    };
}

choice! {
    /// How a path is compared.
    PathMatchType {
        /// The path or any below it, by whole segments.
        #[default]
        PathPrefix,
        /// This path only.
        Exact,
        /// The paths that a regular expression matches as a whole.
        RegularExpression,
    }
}

choice! {
    /// How a value is compared.
    TextMatchType {
        /// This value only.
        #[default]
        Exact,
        /// The values that a regular expression matches as a whole.
        RegularExpression,
    }
}

choice! {
    /// What happens to a request that should have come over TLS.
    InsecurePolicy {
        /// It is served.
        Allow,
        /// It is answered with 308 and the secure URL.
        #[default]
        Redirect,
        /// It is answered with 403.
        Deny,
    }
}

choice! {
    /// Whom the proxy pings.
    KeepaliveTarget {
        /// The client.
        #[default]
        Client,
        /// The backend.
        Backend,
        /// The client and the backend, each for itself.
        Both,
        /// Nobody.
        None,
    }
}

choice! {
    /// What carries the session's token.
    SessionPersistenceType {
        /// A cookie.
        #[default]
        Cookie,
    }
}

choice! {
    /// How long a browser keeps the cookie.
    LifetimeType {
        /// Until the browser ends.
        #[default]
        Session,
        /// For `absoluteTimeout`.
        Permanent,
    }
}

choice! {
    /// The `SameSite` attribute.
    SameSite {
        /// Also with top-level navigation from other sites.
        #[default]
        Lax,
        /// Only with requests from the same site.
        Strict,
        /// With all requests; needs a secure cookie.
        None,
    }
}

choice! {
    /// When a cookie gets its `Secure` attribute.
    Secure {
        /// When the client came over TLS.
        #[default]
        Auto,
        /// Always.
        Always,
        /// Never.
        Never,
    }
}

choice! {
    /// How an endpoint is chosen for a new session.
    Algorithm {
        /// The one with the fewest open tunnels and requests, ties at random.
        #[default]
        LeastConnections,
        /// Each in turn.
        RoundRobin,
        /// Any.
        Random,
    }
}

choice! {
    /// What happens to a request that is not a WebSocket upgrade.
    NonUpgrade {
        /// It is passed to the backend.
        #[default]
        Proxy,
        /// It is answered with 426.
        Reject,
    }
}

choice! {
    /// What happens to a request whose path contains an escaped slash or backslash, which backends read differently.
    EscapedSlashes {
        /// It is answered with 400.
        #[default]
        Reject,
        /// It is passed to the backend as it was sent; for matching, the escape is an ordinary character.
        Keep,
    }
}
