//! Why a request is not served. Each reason knows whose fault it is; status, log level and label follow from it.

use std::sync::Arc;

use http::StatusCode;

use super::handshake::{BadSwitch, Fault};
use crate::table::{NoEndpoint, ObjectName};

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The client asked for what cannot be had.
    Client,
    /// The backend did not do its part.
    Backend,
    /// The configuration, or this process.
    Us,
}

/// Why a request gets an answer of our own. The text is the answer's body, so it tells nothing of what else exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
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
    #[error("dot segments, %2f, %5c, backslashes and NUL are not allowed in a path")]
    AmbiguousPath,
    #[error("CONNECT is not served")]
    Connect,
    #[error("chunked is the only transfer coding served, and once only")]
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
    #[error("no route matches")]
    NotFound,
    #[error(
        "only WebSocket handshakes are served here, and the request has no \"Upgrade: websocket\": if the client sent \
         it, a proxy or CDN on the way has removed it"
    )]
    NoUpgrade,
    #[error("the route {0} cannot be read")]
    Unreadable(ObjectName),
    #[error("{0}")]
    Faulty(Arc<str>),
    #[error("all backendRefs have weight 0")]
    NoWeight,
    #[error("the Service {0} has no endpoint that serves")]
    NoneReady(ObjectName),
    #[error("no endpoint of the Service {0} accepts connections")]
    Unreachable(ObjectName),
    #[error("no endpoint of the Service {0} accepted a connection in time")]
    ConnectTimeout(ObjectName),
    #[error("the backend did not answer the handshake in time")]
    HandshakeTimeout,
    #[error("the backend did not answer in time")]
    AnswerTimeout,
    #[error("the backend's answer is not usable: {0}")]
    BadSwitch(#[from] BadSwitch),
    #[error("the backend closed the connection or sent what is no HTTP")]
    BadAnswer,
}

impl From<NoEndpoint> for Refusal {
    fn from(reason: NoEndpoint) -> Self {
        match reason {
            NoEndpoint::Faulty(why) | NoEndpoint::Unresolved(why) => Self::Faulty(why),
            NoEndpoint::NoWeight => Self::NoWeight,
            NoEndpoint::NoneReady(service) => Self::NoneReady(service),
        }
    }
}

impl Refusal {
    /// The side, the status and the label of the handshake that ended so.
    fn facts(&self) -> (Side, StatusCode, &'static str) {
        use Side::{Backend, Client, Us};
        match self {
            Self::Handshake(Fault::Method) => (Client, StatusCode::METHOD_NOT_ALLOWED, "faulty"),
            Self::Handshake(Fault::NoUpgrade | Fault::NoConnection | Fault::Version) | Self::NoUpgrade => {
                (Client, StatusCode::UPGRADE_REQUIRED, "faulty")
            }
            Self::MalformedHead
            | Self::ContentLength
            | Self::NoHost
            | Self::RepeatedHost
            | Self::MalformedHost
            | Self::MalformedTarget
            | Self::AmbiguousPath
            | Self::Handshake(Fault::Key | Fault::Body) => (Client, StatusCode::BAD_REQUEST, "faulty"),
            Self::HeadTooLarge => (Client, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "faulty"),
            Self::TargetTooLong => (Client, StatusCode::URI_TOO_LONG, "faulty"),
            Self::HeadTimeout | Self::BodyTimeout => (Client, StatusCode::REQUEST_TIMEOUT, "faulty"),
            Self::HttpVersion => (Client, StatusCode::HTTP_VERSION_NOT_SUPPORTED, "faulty"),
            Self::Connect | Self::TransferCoding => (Client, StatusCode::NOT_IMPLEMENTED, "faulty"),
            Self::Misdirected => (Client, StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::Redirect(_) => (Client, StatusCode::PERMANENT_REDIRECT, "insecure"),
            Self::Insecure => (Client, StatusCode::FORBIDDEN, "insecure"),
            Self::NotFound => (Client, StatusCode::NOT_FOUND, "no_route"),
            Self::Unreadable(_) | Self::Faulty(_) | Self::NoWeight => {
                (Us, StatusCode::SERVICE_UNAVAILABLE, "misconfigured")
            }
            Self::NoneReady(_) => (Backend, StatusCode::SERVICE_UNAVAILABLE, "no_endpoint"),
            Self::Unreachable(_) => (Backend, StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
            Self::ConnectTimeout(_) | Self::HandshakeTimeout | Self::AnswerTimeout => {
                (Backend, StatusCode::GATEWAY_TIMEOUT, "timeout")
            }
            Self::BadSwitch(_) | Self::BadAnswer => (Backend, StatusCode::BAD_GATEWAY, "bad_answer"),
        }
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.facts().1
    }

    /// What a handshake that ended so is counted as.
    pub(super) fn label(&self) -> &'static str {
        self.facts().2
    }

    /// Whether the connection closes with the answer: where the end of the request is in doubt. One that is misdirected
    /// closes nothing, since the connection is good for the hosts that it was opened for.
    pub(super) fn closes(&self) -> bool {
        matches!(
            self,
            Self::BodyTimeout
                | Self::TransferCoding
                | Self::Handshake(Fault::Body)
                | Self::Connect
                | Self::NoHost
                | Self::RepeatedHost
        )
    }

    /// Notes it, as loud as it deserves: what clients do wrong is not the operator's concern.
    pub(super) fn log(&self, route: Option<&ObjectName>) {
        let route = route.map(tracing::field::display);
        match self.facts().0 {
            Side::Client => tracing::debug!(route, refusal = %self, "request refused"),
            Side::Backend => tracing::warn!(route, refusal = %self, "backend failed"),
            Side::Us => tracing::info!(route, refusal = %self, "route cannot serve"),
        }
    }
}
