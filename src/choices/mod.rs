//! The enums of a route, and the defaults of its fields.
//!
//! A leaf module, so that the API (`api`) and the table (`table`) use the same values, defined once.

use std::time::Duration;

/// The class of a route that names none.
pub const DEFAULT_CLASS_NAME: &str = "switchyard";
/// The weight of a backend reference without one.
pub const DEFAULT_WEIGHT: i32 = 1;
/// `timeouts.handshake` of a rule without one.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// `timeouts.backendConnect` of a rule without one.
pub const DEFAULT_BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `keepalive.pingInterval` of a rule without one.
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(25);
/// `keepalive.pingTimeout` of a rule without one.
pub const DEFAULT_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// `sessionPersistence.cookie.path` of a rule without one.
pub const DEFAULT_COOKIE_PATH: &str = "/";
/// `sessionPersistence.cookie.httpOnly` of a rule without one.
pub const DEFAULT_COOKIE_HTTP_ONLY: bool = true;

/// An enum of a route. Its default applies if the field is absent.
pub trait Choice: Copy + Default + Eq + 'static {
    /// The name of the enum, for schemas.
    const TITLE: &'static str;
    /// The values, in the order of the schema.
    const VALUES: &'static [Self];

    /// The value as written in a route.
    fn as_str(self) -> &'static str;
}

/// Defines an enum whose values are written in routes as they are named here.
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
        /// The path and everything below it, by whole segments.
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
    /// What happens to a request that arrives without TLS.
    InsecurePolicy {
        /// Serve it.
        Allow,
        /// Respond with 308 and the https or wss URL.
        #[default]
        Redirect,
        /// Respond with 403.
        Deny,
    }
}

choice! {
    /// Who is pinged.
    KeepaliveTarget {
        /// The client.
        #[default]
        Client,
        /// The backend.
        Backend,
        /// Both, independently.
        Both,
        /// Nobody.
        None,
    }
}

choice! {
    /// Where the session token is carried.
    SessionPersistenceType {
        /// In a cookie.
        #[default]
        Cookie,
    }
}

choice! {
    /// How long browsers keep the cookie.
    LifetimeType {
        /// Until the browser session ends.
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
    /// When the `Secure` attribute is set.
    Secure {
        /// If the client connected over TLS.
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
        /// Forward it to the backend.
        #[default]
        Proxy,
        /// Respond with 426.
        Reject,
    }
}

choice! {
    /// What happens to a request whose path contains an escaped slash or backslash, which backends interpret
    /// differently.
    EscapedSlashes {
        /// Respond with 400.
        #[default]
        Reject,
        /// Forward the path unchanged; for matching, the escape is an ordinary character.
        Keep,
    }
}
