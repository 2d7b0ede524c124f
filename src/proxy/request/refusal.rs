//! Why a request is not served. Each reason knows whose fault it is; status, log level and label follow from it.

use std::sync::Arc;

use http::StatusCode;

use super::handshake::{BadSwitch, Fault};
use crate::table::{AmbiguousPath, NoEndpoint, ObjectName};

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client asked for what cannot be had.
    Client,
    /// The backend did not do its part.
    Backend,
    /// The configuration, or this process.
    Us,
}

/// Why a request gets a response of our own. The text is that of the response, so it reveals nothing about what else
/// exists; [`Refusal::subject`] is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the head of the request is malformed")]
    MalformedHead,
    #[error("Content-Length is malformed or contradicts itself")]
    ContentLength,
    #[error("the head of the request is larger than 64 KiB, or has more than 100 fields")]
    HeadTooLarge,
    #[error("the target of the request is longer than 65534 bytes")]
    TargetTooLong,
    #[error("the head of the request did not arrive in time")]
    HeadTimeout,
    #[error("the body of the request did not arrive in time")]
    BodyTimeout,
    #[error("the body of the request is malformed, or ended too early")]
    MalformedBody,
    #[error("only HTTP/1.1 is served here")]
    HttpVersion,
    #[error("Host is missing")]
    NoHost,
    #[error("there is more than one Host")]
    RepeatedHost,
    #[error("Host is malformed")]
    MalformedHost,
    #[error("the target of the request is malformed")]
    MalformedTarget,
    #[error("the scheme of the target must be http or https")]
    Scheme,
    #[error("Connection names more than 64 options")]
    ConnectionOptions,
    #[error("{0}")]
    AmbiguousPath(#[from] AmbiguousPath),
    #[error("%2F and %5C are not allowed in this path")]
    EscapedSlash,
    #[error("CONNECT is not supported")]
    Connect,
    #[error("TRACE is not supported")]
    Trace,
    #[error("the only transfer coding supported is a single chunked")]
    TransferCoding,
    #[error("{0}")]
    Handshake(#[from] Fault),
    #[error("this connection's certificate was not chosen for this host: open another connection")]
    Misdirected,
    /// The URL is for `Location` only: its query must not come into the log.
    #[error("this host is served over TLS only")]
    Redirect(String),
    #[error("this host is served over TLS only")]
    Insecure,
    #[error("clients with this address are not allowed")]
    Client,
    #[error("no route matches")]
    NotFound,
    #[error(
        "only WebSocket handshakes are served here, and the request has no \"Upgrade: websocket\": if the client sent \
         it, a proxy or CDN on the way has removed it"
    )]
    NoUpgrade,
    #[error("the route for this host is not valid; its status says why")]
    Unreadable(ObjectName),
    #[error("the rule for this request is not valid; the status of its route says why")]
    Faulty(Arc<str>),
    #[error("a backend of this route cannot be used; the status of the route says why")]
    Unresolved(Arc<str>),
    #[error("no backend of this route has a weight above 0")]
    NoWeight,
    #[error("no endpoint is ready for this request")]
    NoneReady(ObjectName),
    #[error("no endpoint accepts connections")]
    Unreachable,
    #[error("no endpoint accepted a connection in time")]
    ConnectTimeout,
    #[error("the backend did not respond to the handshake in time")]
    HandshakeTimeout,
    #[error("the backend did not respond in time")]
    ResponseTimeout,
    #[error("the backend's response to the handshake is not valid: {0}")]
    BadSwitch(#[from] BadSwitch),
    #[error("{0}")]
    BadResponse(#[from] BadResponse),
}

/// What is wrong with a backend's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadResponse {
    #[error("the backend closed the connection without a complete response")]
    Closed,
    #[error("the backend's response is not valid HTTP/1.1")]
    Head,
    #[error("the backend's response has a transfer coding other than a single chunked")]
    TransferCoding,
    #[error("the Content-Length of the backend's response is malformed or contradicts itself")]
    ContentLength,
    #[error("the body of the backend's response is malformed or incomplete")]
    Body,
}

impl BadResponse {
    /// What a failed exchange with a backend came to.
    pub(crate) fn of(error: &hyper::Error) -> Self {
        if error.is_parse() { Self::Head } else { Self::Closed }
    }
}

impl From<NoEndpoint> for Refusal {
    fn from(reason: NoEndpoint) -> Self {
        match reason {
            NoEndpoint::Faulty(why) => Self::Faulty(why),
            NoEndpoint::Unresolved(why) => Self::Unresolved(why),
            NoEndpoint::NoWeight => Self::NoWeight,
            NoEndpoint::NoneReady(service) => Self::NoneReady(service),
        }
    }
}

impl Refusal {
    /// The side, the status and the label of the handshake that ended so.
    pub(super) fn facts(&self) -> (Side, StatusCode, &'static str) {
        use Side::{Backend, Client, Us};
        match self {
            Self::Handshake(Fault::Method) | Self::Trace => (Client, StatusCode::METHOD_NOT_ALLOWED, "faulty"),
            Self::Handshake(Fault::NoUpgrade | Fault::NoConnection | Fault::Version) | Self::NoUpgrade => {
                (Client, StatusCode::UPGRADE_REQUIRED, "faulty")
            }
            Self::MalformedHead
            | Self::ContentLength
            | Self::NoHost
            | Self::RepeatedHost
            | Self::MalformedHost
            | Self::MalformedTarget
            | Self::Scheme
            | Self::ConnectionOptions
            | Self::AmbiguousPath(_)
            | Self::EscapedSlash
            | Self::MalformedBody
            | Self::Handshake(Fault::Key | Fault::Body) => (Client, StatusCode::BAD_REQUEST, "faulty"),
            Self::HeadTooLarge => (Client, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "faulty"),
            Self::TargetTooLong => (Client, StatusCode::URI_TOO_LONG, "faulty"),
            Self::HeadTimeout | Self::BodyTimeout => (Client, StatusCode::REQUEST_TIMEOUT, "faulty"),
            Self::HttpVersion => (Client, StatusCode::HTTP_VERSION_NOT_SUPPORTED, "faulty"),
            Self::Connect | Self::TransferCoding => (Client, StatusCode::NOT_IMPLEMENTED, "faulty"),
            Self::Misdirected => (Client, StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::Redirect(_) => (Client, StatusCode::PERMANENT_REDIRECT, "insecure"),
            Self::Insecure => (Client, StatusCode::FORBIDDEN, "insecure"),
            Self::Client => (Client, StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (Client, StatusCode::NOT_FOUND, "no_route"),
            Self::Unreadable(_) | Self::Faulty(_) | Self::Unresolved(_) | Self::NoWeight => {
                (Us, StatusCode::SERVICE_UNAVAILABLE, "misconfigured")
            }
            Self::NoneReady(_) => (Backend, StatusCode::SERVICE_UNAVAILABLE, "no_endpoint"),
            Self::Unreachable => (Backend, StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
            Self::ConnectTimeout | Self::HandshakeTimeout | Self::ResponseTimeout => {
                (Backend, StatusCode::GATEWAY_TIMEOUT, "timeout")
            }
            Self::BadSwitch(_) | Self::BadResponse(_) => (Backend, StatusCode::BAD_GATEWAY, "bad_answer"),
        }
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        self.facts().1
    }

    /// What a handshake that ended so is counted as.
    pub(crate) fn label(&self) -> &'static str {
        self.facts().2
    }

    /// The reason that a refusal by the rule's own policy is counted as.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Client => Some("clients"),
            _ => None,
        }
    }

    /// Whether the connection closes with the response: where the end of the request is in doubt. One that is misdirected
    /// closes nothing, since the connection is good for the hosts that it was opened for.
    pub(crate) fn closes(&self) -> bool {
        matches!(
            self,
            Self::BodyTimeout
                | Self::MalformedBody
                | Self::TransferCoding
                | Self::Handshake(Fault::Body)
                | Self::Connect
                | Self::NoHost
                | Self::RepeatedHost
        )
    }

    /// What the refusal is about, which clients are not told.
    pub(super) fn subject(&self) -> Option<&dyn std::fmt::Display> {
        match self {
            Self::Unreadable(name) | Self::NoneReady(name) => Some(name),
            Self::Faulty(why) | Self::Unresolved(why) => Some(why),
            _ => None,
        }
    }
}
