//! The handshake with the backend, on a connection of its own that never goes to the pool.

use std::future::poll_fn;

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, TE, UPGRADE,
    },
};
use hyper::{body::Incoming, client::conn::http1::Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    body::{self, Body, Guarded},
    dial::{DialError, dial},
    error::Refusal,
    forward,
    handshake::{accept_of, check_switch},
    pool::{self, unreachable},
    routed::Routed,
    tunnel::{Opening, TunnelLimits, frames::Extensions},
};
use crate::table::{Endpoint, InUse};

/// What came of a handshake.
pub(super) enum Outcome {
    /// The 101 for the client, and the tunnel to open behind it.
    Switched(Response<Body>, Box<Opening>),
    /// Any other answer, which is the client's to see. The connection stays one for HTTP.
    Answered(Response<Body>),
}

/// Passes a handshake on, to the first endpoint that takes the connection.
pub(super) async fn upgrade(routed: Routed, request: Request<Body>) -> Result<Outcome, Refusal> {
    match routed.rule.timeouts.handshake {
        Some(limit) => tokio::time::timeout_at(routed.started + limit, attempt(routed, request))
            .await
            .unwrap_or(Err(Refusal::HandshakeTimeout)),
        None => attempt(routed, request).await,
    }
}

async fn attempt(mut routed: Routed, mut request: Request<Body>) -> Result<Outcome, Refusal> {
    let key = prepare(request.headers_mut());
    let mut last = DialError::Failed;
    while let Some((endpoint, in_use)) = routed.pick() {
        let stream = match dial(&endpoint, routed.rule.timeouts.backend_connect).await {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        // From here on, something of the request may have been sent: no other endpoint may see it.
        return match exchange(stream, request).await? {
            Exchanged::Answered(mut response) => {
                forward::answer(&mut response)?;
                let response = routed.sign(response, &endpoint);
                Ok(Outcome::Answered(response.map(|body| Body::new(Guarded::new(body, in_use)))))
            }
            Exchanged::Switched(response, stream, early) => {
                let accept = accept_of(key.as_bytes());
                check_switch(response.headers(), &accept)?;
                let response = routed.sign(switched(response, &accept)?, &endpoint);
                let extensions = extensions(response.headers());
                let opening = opening(&routed, &endpoint, Switched { stream, early, extensions }, in_use);
                Ok(Outcome::Switched(response, Box::new(opening)))
            }
        };
    }
    Err(unreachable(&last, routed.candidates.service()))
}

/// What is known of the backend once it has switched.
struct Switched {
    stream: TcpStream,
    early: bytes::Bytes,
    extensions: Extensions,
}

fn opening(routed: &Routed, endpoint: &Endpoint, switched: Switched, in_use: InUse) -> Opening {
    let limits = TunnelLimits::new(&routed.rule.timeouts, &routed.proxy.settings);
    let Switched { stream: backend, early, extensions } = switched;
    Opening {
        backend,
        early,
        extensions,
        names: routed.names(endpoint),
        limits,
        keepalive: routed.rule.keepalive,
        in_use,
    }
}

/// What the backend has agreed to with the client (RFC 6455 §9.1).
fn extensions(headers: &HeaderMap) -> Extensions {
    let fields = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter();
    let offers = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    let mut agreed = Extensions::None;
    for offer in offers {
        let name = offer.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"permessage-deflate") {
            agreed = Extensions::Deflate;
        } else if !name.is_empty() {
            return Extensions::Unknown;
        }
    }
    agreed
}

/// Makes the request our own handshake (RFC 6455 §4.1). The key is the client's: it proves to the client that the
/// backend has understood, not just we.
fn prepare(headers: &mut HeaderMap) -> HeaderValue {
    let key = headers.get(SEC_WEBSOCKET_KEY).cloned().expect("a request without a key is no upgrade");
    forward::strip(headers);
    for name in [CONTENT_LENGTH, EXPECT, TE] {
        headers.remove(name);
    }
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    key
}

/// The client's 101: ours for this hop, with what the backend says to the client itself.
fn switched(mut response: Response<Incoming>, accept: &str) -> Result<Response<Body>, Refusal> {
    forward::answer(&mut response)?;
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accept = HeaderValue::from_str(accept).expect("base64 is a field value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response.map(|_| body::empty()))
}

enum Exchanged {
    Switched(Response<Incoming>, TcpStream, bytes::Bytes),
    Answered(Response<Incoming>),
}

type BackendConnection = Connection<TokioIo<TcpStream>, Body>;

/// Sends the request and reads the head of the answer; interim ones (100, 103) are none. The connection is driven
/// here rather than by a task, so that a client that goes away takes it with it.
async fn exchange(stream: TcpStream, request: Request<Body>) -> Result<Exchanged, Refusal> {
    let handshake = pool::client().handshake(TokioIo::new(stream)).await;
    let (mut sender, mut connection) = handshake.map_err(|_| Refusal::BadAnswer)?;
    let sending = sender.send_request(request);
    tokio::pin!(sending);
    let mut finished = false;
    let response = loop {
        tokio::select! {
            response = &mut sending => break response.map_err(|_| Refusal::BadAnswer)?,
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)), if !finished => finished = true,
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if !finished {
            tokio::spawn(connection);
        }
        return Ok(Exchanged::Answered(response));
    }
    if !finished {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(|_| Refusal::BadAnswer)?;
    }
    Ok(into_tunnel(response, connection))
}

fn into_tunnel(response: Response<Incoming>, connection: BackendConnection) -> Exchanged {
    let parts = connection.into_parts();
    // Copied, since what hyper gives pins its whole buffer.
    let early = bytes::Bytes::copy_from_slice(&parts.read_buf);
    Exchanged::Switched(response, parts.io.into_inner(), early)
}
