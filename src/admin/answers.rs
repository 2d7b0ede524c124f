//! The responses of each path of the admin port.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tracing::debug;

use super::{
    access,
    render::{AdminDocument, Renderer, Unavailable},
};
use crate::admin::{ApiTokens, Readiness, tunnels::Filter};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) type AdminAnswer = Response<Full<Bytes>>;

/// Answers requests. Never does anything slow: probes are answered in between.
pub(super) struct Answers {
    pub(super) ready: Arc<Readiness>,
    pub(super) tokens: Option<Arc<ArcSwap<ApiTokens>>>,
    pub(super) renderer: Renderer,
}

impl Answers {
    pub(super) async fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> AdminAnswer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let answer = text(StatusCode::METHOD_NOT_ALLOWED, "the admin port is read-only: use GET or HEAD\n");
            return with(answer, header::ALLOW, "GET, HEAD");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.ready.check() {
                Ok(()) => text(StatusCode::OK, "ok\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" if access::may_scrape(request, peer) => {
                self.rendered(AdminDocument::Metrics, OPEN_METRICS).await
            }
            "/metrics" => text(
                StatusCode::FORBIDDEN,
                "requests from this machine must have the host localhost or an IP address: \
                 the page of another site could have sent this one\n",
            ),
            path if path.starts_with("/api/") => match self.refusal(request, peer) {
                Some(refusal) => refusal,
                None => self.api(request).await,
            },
            _ => not_found(),
        }
    }

    /// The response to clients that may not use the API.
    fn refusal(&self, request: &Request<Incoming>, peer: SocketAddr) -> Option<AdminAnswer> {
        if access::is_local(request, peer) {
            return None;
        }
        let Some(tokens) = &self.tokens else {
            let why = "the API serves loopback clients only: use kubectl port-forward or --admin-token-file\n";
            return Some(text(StatusCode::FORBIDDEN, why));
        };
        let (why, challenge) = match request.headers().get(header::AUTHORIZATION) {
            Some(authorization) if tokens.load().open(authorization) => return None,
            Some(_) => {
                debug!(%peer, "a request to the API had a token that is not in --admin-token-file");
                (
                    "invalid token: it is not in --admin-token-file\n",
                    r#"Bearer realm="switchyard", error="invalid_token""#,
                )
            }
            // RFC 6750 §3.1: no error code for a request without a token.
            None => ("the API requires a bearer token from --admin-token-file\n", r#"Bearer realm="switchyard""#),
        };
        Some(with(text(StatusCode::UNAUTHORIZED, why), header::WWW_AUTHENTICATE, challenge))
    }

    async fn api(&self, request: &Request<Incoming>) -> AdminAnswer {
        match request.uri().path() {
            "/api/v1/routes" => self.rendered(AdminDocument::Routes, JSON).await,
            "/api/v1/tunnels" => match Filter::parse(request.uri().query().unwrap_or_default()) {
                Ok(filter) => self.rendered(AdminDocument::Tunnels(filter), JSON).await,
                Err(why) => text(StatusCode::BAD_REQUEST, why + "\n"),
            },
            _ => not_found(),
        }
    }

    async fn rendered(&self, document: AdminDocument, kind: &'static str) -> AdminAnswer {
        match self.renderer.bytes(document).await {
            Ok(body) => reply(StatusCode::OK, kind, body),
            Err(Unavailable::Busy) => {
                let why = "too many responses are waiting for slow clients; try again later\n";
                with(text(StatusCode::SERVICE_UNAVAILABLE, why), header::RETRY_AFTER, "5")
            }
            Err(Unavailable::Failed) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the response could not be rendered; see the log for the cause\n",
            ),
        }
    }
}

fn not_found() -> AdminAnswer {
    text(StatusCode::NOT_FOUND, "not found; available: /livez, /readyz, /metrics, /api/v1/routes, /api/v1/tunnels\n")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> AdminAnswer {
    reply(status, TEXT, body.into())
}

fn reply(status: StatusCode, kind: &'static str, body: Bytes) -> AdminAnswer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    with(answer, header::CONTENT_TYPE, kind)
}

fn with(mut answer: AdminAnswer, field: header::HeaderName, value: &'static str) -> AdminAnswer {
    answer.headers_mut().insert(field, HeaderValue::from_static(value));
    answer
}
