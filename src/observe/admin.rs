//! The admin port: probes, metrics, and what is served now. Read-only.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::{ApiTokens, OpenTunnels, routes, tunnels};
use crate::{source::Report, table::Host};

/// How long a client may take over the head of a request.
const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Tells what is wrong with the files that routes come from, each as `file:line: field: message`.
pub type FileProblems = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the admin port tells of.
#[derive(Clone)]
pub struct Admin {
    /// Whether requests should be sent here.
    pub ready: Arc<Readiness>,
    /// Writes the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What became of the routes.
    pub reports: tokio::sync::watch::Receiver<Report>,
    /// What is wrong with the files that routes come from.
    pub file_problems: FileProblems,
    /// The tunnels that are open.
    pub tunnels: OpenTunnels,
    /// What opens the API to clients that are not on this machine, if anything does.
    pub tokens: Option<Arc<ArcSwap<ApiTokens>>>,
}

/// Whether requests should be sent to this process: not before the first table is published, not once it stops.
#[derive(Debug, Default)]
pub struct Readiness {
    published: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// The first table is published.
    pub fn published(&self) {
        self.published.store(true, Ordering::Release);
    }

    /// The process is to stop.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Err("stopping\n")
        } else if self.published.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("no routing table yet: waiting for the first list of every kind\n")
        }
    }
}

impl Admin {
    /// Serves for ever.
    pub async fn run(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tokio::spawn(self.clone().serve(stream, peer));
                }
                Err(error) => {
                    warn!(%error, "the admin port cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        let service = service_fn(|request| {
            let response = self.answer(&request, peer);
            async { Ok::<_, Infallible>(response) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
            debug!(%error, %peer, "a connection to the admin port ended early");
        }
    }

    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "the admin port is read-only\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.ready.check() {
                Ok(()) => text(StatusCode::OK, "ok\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                reply(StatusCode::OK, kind, (self.metrics)())
            }
            path if path.starts_with("/api/") => self.refusal(request, peer).unwrap_or_else(|| self.api(request.uri())),
            _ => not_found(),
        }
    }

    /// The answer to who may not use the API.
    fn refusal(&self, request: &Request<Incoming>, peer: SocketAddr) -> Option<Response<Full<Bytes>>> {
        if is_local(request, peer) {
            return None;
        }
        let Some(tokens) = &self.tokens else {
            let why = "the API answers to loopback clients only: use kubectl port-forward, or --admin-token-file\n";
            return Some(text(StatusCode::FORBIDDEN, why));
        };
        let (why, challenge) = match request.headers().get(header::AUTHORIZATION) {
            Some(authorization) if tokens.load().open(authorization) => return None,
            Some(_) => {
                debug!(%peer, "somebody sent the API a token that is none of --admin-token-file");
                (
                    "this is none of the tokens of --admin-token-file\n",
                    r#"Bearer realm="switchyard", error="invalid_token""#,
                )
            }
            // RFC 6750 §3.1: no error code for who did not know that a token is needed.
            None => ("the API takes a bearer token of --admin-token-file\n", r#"Bearer realm="switchyard""#),
        };
        let mut response = text(StatusCode::UNAUTHORIZED, why);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        Some(response)
    }

    fn api(&self, uri: &Uri) -> Response<Full<Bytes>> {
        match uri.path() {
            "/api/v1/routes" => json(&routes::describe(&self.reports.borrow(), (self.file_problems)())),
            "/api/v1/tunnels" => match tunnels::Filter::parse(uri.query().unwrap_or_default()) {
                Ok(filter) => json(&tunnels::list((self.tunnels)(), &filter)),
                Err(why) => text(StatusCode::BAD_REQUEST, why + "\n"),
            },
            _ => not_found(),
        }
    }
}

fn not_found() -> Response<Full<Bytes>> {
    text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /metrics, /api/v1/routes and /api/v1/tunnels\n")
}

/// Whether a request comes from this machine and means it: a page of another site that a browser was made to resolve
/// to loopback names its own host.
fn is_local(request: &Request<Incoming>, peer: SocketAddr) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| Host::parse(host).ok());
    let names_loopback =
        host.is_some_and(|host| host.as_str() == "localhost" || host.address().is_some_and(|ip| ip.is_loopback()));
    peer.ip().to_canonical().is_loopback() && names_loopback
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body.into())
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_string_pretty(value).expect("a value of strings and numbers has a JSON form");
    reply(StatusCode::OK, "application/json", body + "\n")
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
