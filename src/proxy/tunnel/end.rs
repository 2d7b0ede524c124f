//! How a tunnel ended.

use std::{fmt, time::Duration};

/// Who ended a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// The proxy.
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
    /// No byte arrived for the rule's `timeouts.idle`.
    Idle,
    /// It reached the rule's `timeouts.maxDuration`.
    MaxDuration,
    /// One side had closed, and the other neither sent anything nor closed.
    HalfClosed,
    /// The closer did not answer a ping within the rule's `keepalive.pingTimeout`.
    PingTimeout,
    /// The proxy ended it, and a side accepted neither the rest of its frame nor the Close in time.
    Stalled,
    /// The process is stopping.
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

/// How a tunnel ended, as reported in its metric and its log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Who ended it.
    pub closer: Closer,
    /// Why.
    pub cause: Cause,
    /// The status code of the first Close frame, as seen on the wire (RFC 6455 §7.4). `None` without such a frame, or
    /// if it has no code.
    pub code: Option<u16>,
    /// From the 101 to the end.
    pub duration: Duration,
    /// Bytes from the client to the backend.
    pub bytes_to_backend: u64,
    /// Bytes from the backend to the client.
    pub bytes_to_client: u64,
    /// Frames from the client to the backend. The proxy's own pings and the pongs to them are not counted.
    pub frames_to_backend: u64,
    /// Frames from the backend to the client.
    pub frames_to_client: u64,
}

impl fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.cause.as_str(), self.closer.as_str())
    }
}
