//! How a tunnel ended.

use std::{fmt, time::Duration};

/// Who ended a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// We.
    Proxy,
}

impl Closer {
    /// Its label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Proxy => "proxy",
        }
    }
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides closed; the closer was first.
    Closed,
    /// The closer's connection broke.
    Reset,
    /// No byte came for the rule's `timeouts.idle`.
    Idle,
    /// It lived for the rule's `timeouts.maxDuration`.
    MaxDuration,
    /// One side had closed, and the other sent nothing more without closing.
    HalfClosed,
    /// The closer did not answer a ping within the rule's `keepalive.pingTimeout`.
    PingTimeout,
    /// We ended it, and a side took neither the rest of its frame nor the Close in time.
    Stalled,
    /// The process stops.
    Shutdown,
}

impl Cause {
    /// Its label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::MaxDuration => "max_duration",
            Self::HalfClosed => "half_closed",
            Self::PingTimeout => "ping_timeout",
            Self::Stalled => "stalled",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How a tunnel ended. Its metric and its line in the log come from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Who ended it.
    pub closer: Closer,
    /// Why.
    pub cause: Cause,
    /// The status code of the first Close frame, as seen on the wire (RFC 6455 §7.4). Nothing where there was no such
    /// frame, or none in it.
    pub code: Option<u16>,
    /// From the 101 to the end.
    pub duration: Duration,
    /// Bytes from the client to the backend.
    pub bytes_to_backend: u64,
    /// Bytes from the backend to the client.
    pub bytes_to_client: u64,
    /// Frames from the client to the backend. Pings of ours and their pongs count nowhere.
    pub frames_to_backend: u64,
    /// Frames from the backend to the client.
    pub frames_to_client: u64,
}

impl fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.cause.as_str(), self.closer.as_str())
    }
}
