//! The handshake with the backend, on a dedicated connection that is never pooled.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, TRAILER, UPGRADE},
};
use http_body::Body as HttpBody;
use hyper::{body::Incoming, client::conn::http1::Connection};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{
    dial::{self, Connected},
    pool,
    restoring::Restoring,
};
use crate::proxy::{
    body::{
        self, Body, BodyError, Guarded,
        meter::{Meter, Tap, Tapped},
    },
    fields::Fields,
    request::{
        denied::Denied,
        handshake::check_switch,
        hop_by_hop,
        refusal::{BadResponse, Refusal},
        retarget::NextTarget,
        routed::Routed,
    },
    transport::stream::Stream,
    tunnel::{Opening, TunnelLimits, frames::Extensions},
};

/// Forwards a handshake that hyper has read to the first endpoint that accepts the connection; returns the 101 for the
/// client, and the tunnel to open after it.
///
/// # Errors
/// If the client does not get a 101: with the backend's response, if it is valid.
pub(crate) async fn upgrade(
    routed: &mut Routed,
    mut request: Request<Body>,
) -> Result<(Response<Body>, Box<Opening>), Denied> {
    let accept = hop_by_hop::handshake_fields(request.headers_mut(), &routed.shared.settings.protected_fields);
    let Connected { endpoint, in_use, backend } = dial::connect(routed).await?;
    // From here on, part of the request may have been sent: no other endpoint may receive it.
    let next_target = NextTarget::default();
    next_target.set(routed.retarget.clone());
    match exchange(Restoring::new(backend, next_target), request).await? {
        Exchanged::Answered(mut response) => {
            hop_by_hop::response(&mut response)?;
            routed.finish(response.headers_mut(), &endpoint);
            Err(answered(response.map(|body| Guarded::new(body, in_use))).await)
        }
        Exchanged::Switched(mut response, backend) => {
            check_switch(response.version(), response.headers(), &accept)?;
            hop_by_hop::response(&mut response)?;
            switched(response.headers_mut(), &accept);
            routed.finish(response.headers_mut(), &endpoint);
            let extensions = extensions(response.headers());
            let opening = opening(routed, Connected { endpoint, in_use, backend }, extensions);
            Ok((response.map(|_| body::empty()), Box::new(opening)))
        }
    }
}

/// The response of a backend that does not switch, once its body has begun without an error.
pub(super) async fn answered<B>(response: Response<B>) -> Denied
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
{
    let (head, body) = response.into_parts();
    match body::begun(body).await {
        Ok(body) => Denied::Answered(Box::new(Response::from_parts(head, body))),
        Err(_) => BadResponse::Body.into(),
    }
}

/// Runs a handshake until its deadline.
pub(crate) async fn in_time<T>(
    deadline: Option<Instant>,
    handshake: impl Future<Output = Result<T, Denied>>,
) -> Result<T, Denied> {
    match deadline {
        Some(deadline) => timeout_at(deadline, handshake).await.unwrap_or(Err(Refusal::HandshakeTimeout.into())),
        None => handshake.await,
    }
}

/// The tunnel to an endpoint that has switched.
pub(crate) fn opening(routed: &Routed, connected: Connected, extensions: Extensions) -> Opening {
    let limits = TunnelLimits::new(&routed.rule.policy.timeouts, &routed.shared.settings);
    let Connected { endpoint, in_use, backend } = connected;
    Opening {
        backend,
        extensions,
        origin: routed.origin(&endpoint),
        limits,
        keepalive: routed.rule.policy.keepalive,
        in_use,
    }
}

/// The extensions that the backend has agreed on with the client (RFC 6455 §9.1).
pub(crate) fn extensions(fields: &impl Fields) -> Extensions {
    let offers = fields.lines(&SEC_WEBSOCKET_EXTENSIONS).flat_map(|line| line.split(|byte| *byte == b','));
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

/// Replaces the hop-by-hop fields of a 101; everything else is the backend's response to the client.
pub(crate) fn switched(fields: &mut impl Fields, accept: &str) {
    for name in &[CONTENT_LENGTH, TRAILER] {
        fields.remove(name);
    }
    fields.set(UPGRADE, b"websocket");
    fields.set(CONNECTION, b"Upgrade");
    fields.set(SEC_WEBSOCKET_ACCEPT, accept.as_bytes().to_vec());
}

enum Exchanged {
    Switched(Response<Incoming>, Stream),
    Answered(Response<Incoming>),
}

type BackendConnection = Connection<TokioIo<Tapped<Restoring<Stream>>>, Body>;

/// Sends the request and reads the head of the response, skipping interim ones (100, 103). The connection is driven
/// here rather than by a task, so that it ends when the client goes away.
async fn exchange(backend: Restoring<Stream>, request: Request<Body>) -> Result<Exchanged, Refusal> {
    let tap = Tap::default();
    tap.set(request.extensions().get::<Arc<Meter>>().cloned());
    let handshake = pool::client().handshake(TokioIo::new(Tapped::new(backend, tap))).await;
    let (mut sender, mut connection) = handshake.map_err(|error| BadResponse::of(&error))?;
    let sending = sender.send_request(request);
    tokio::pin!(sending);
    let mut finished = false;
    let response = loop {
        tokio::select! {
            response = &mut sending => break response.map_err(|error| BadResponse::of(&error))?,
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
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(|error| BadResponse::of(&error))?;
    }
    Ok(into_tunnel(response, connection))
}

fn into_tunnel(response: Response<Incoming>, connection: BackendConnection) -> Exchanged {
    let parts = connection.into_parts();
    let mut backend = parts.io.into_inner().into_inner().into_inner();
    backend.unread(&parts.read_buf);
    Exchanged::Switched(response, backend)
}
