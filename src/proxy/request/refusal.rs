//! Why a request is not served. Each reason determines who is at fault; status, log level and label follow from it.

use std::sync::Arc;

use http::StatusCode;

use super::handshake::{BadSwitch, HandshakeFault};
use crate::table::{AmbiguousPath, NoEndpoint, ObjectName};

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client sent a request that cannot be served.
    Client,
    /// The backend failed.
    Backend,
    /// The configuration, or this process.
    Us,
}

/// Why a request gets a response from the proxy itself. The text is that of the response, so it does not reveal what
/// else exists; [`Refusal::subject`] is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request head is malformed")]
    MalformedHead,
    #[error("Content-Length is malformed or contradicts itself")]
    ContentLength,
    #[error("the request head is larger than 64 KiB or has more than 100 fields")]
    HeadTooLarge,
    #[error("the request target is longer than 65534 bytes")]
    TargetTooLong,
    #[error("the request head did not arrive in time")]
    HeadTimeout,
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    #[error("the request body is malformed or ended too early")]
    MalformedBody,
    #[error("only HTTP/1.1 is supported here")]
    HttpVersion,
    #[error("Host is missing")]
    NoHost,
    #[error("Host must be given only once")]
    RepeatedHost,
    #[error("Host is malformed")]
    MalformedHost,
    #[error("the request target is malformed")]
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
    #[error("Transfer-Encoding must be chunked and nothing else")]
    TransferCoding,
    #[error("{0}")]
    Handshake(#[from] HandshakeFault),
    #[error("the certificate of this connection was not selected for this host; open a new connection")]
    Misdirected,
    /// The URL is for `Location` only: its query must not appear in the log.
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
         it, a proxy or CDN in between has removed it"
    )]
    NoUpgrade,
    #[error("the route for this host is not valid; see its status")]
    Unreadable(ObjectName),
    #[error("the rule for this request is not valid; see the status of its route")]
    Faulty(Arc<str>),
    #[error("a backend of this route cannot be used; see the status of the route")]
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
    /// Classifies a failed exchange with a backend.
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
    /// The side, the status and the handshake label.
    pub(super) fn facts(&self) -> (Side, StatusCode, &'static str) {
        use Side::{Backend, Client, Us};
        match self {
            Self::Handshake(HandshakeFault::Method) | Self::Trace => (Client, StatusCode::METHOD_NOT_ALLOWED, "faulty"),
            Self::Handshake(HandshakeFault::NoUpgrade | HandshakeFault::NoConnection | HandshakeFault::Version)
            | Self::NoUpgrade => (Client, StatusCode::UPGRADE_REQUIRED, "faulty"),
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
            | Self::Handshake(HandshakeFault::Key | HandshakeFault::Body) => {
                (Client, StatusCode::BAD_REQUEST, "faulty")
            }
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

    /// The label of a handshake that ends with this refusal.
    pub(crate) fn label(&self) -> &'static str {
        self.facts().2
    }

    /// The `reason` label of a refusal by the rule's policy.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Client => Some("clients"),
            _ => None,
        }
    }

    /// Whether the connection closes with the response, because the end of the request is uncertain. A misdirected
    /// request does not close it, since the connection is valid for the hosts that it was opened for.
    pub(crate) fn closes(&self) -> bool {
        matches!(
            self,
            Self::BodyTimeout
                | Self::MalformedBody
                | Self::TransferCoding
                | Self::Handshake(HandshakeFault::Body)
                | Self::Connect
                | Self::NoHost
                | Self::RepeatedHost
        )
    }

    /// What the refusal is about, which is not revealed to clients.
    pub(super) fn subject(&self) -> Option<&dyn std::fmt::Display> {
        match self {
            Self::Unreadable(name) | Self::NoneReady(name) => Some(name),
            Self::Faulty(why) | Self::Unresolved(why) => Some(why),
            _ => None,
        }
    }
}
