//! The handshake with the backend, on a connection of its own that never goes to the pool.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{
    Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, TRAILER, UPGRADE},
};
use hyper::{body::Incoming, client::conn::http1::Connection};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

use super::{
    dial::{self, Connected},
    pool,
    restoring::Restoring,
};
use crate::{
    proxy::{
        body::{
            self, Body, Guarded,
            meter::{Meter, Tap, Tapped},
        },
        fields::Fields,
        request::{
            admitted::Routed,
            handshake::check_switch,
            hop_by_hop,
            refusal::{BadResponse, Refusal},
            retarget::NextTarget,
        },
        transport::stream::Stream,
        tunnel::{Opening, TunnelLimits, frames::Extensions},
    },
    table::{Endpoint, ObjectName},
};

/// What came of a handshake.
pub(crate) enum Outcome {
    /// The 101 for the client, and the tunnel to open behind it.
    Switched(Response<Body>, Box<Opening>),
    /// Any other answer, which is the client's to see. The connection stays one for HTTP.
    Answered(Response<Body>),
}

/// A handshake of which something has been done before hyper had to do with it.
pub(crate) struct Begun {
    pub route: Option<ObjectName>,
    /// The endpoint that it came to.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Why it is refused, if it is.
    pub sent: Result<Sent, Refusal>,
}

/// A handshake that an endpoint has got.
pub(crate) struct Sent {
    pub routed: Routed,
    /// The answer that belongs to its key.
    pub accept: String,
    pub connected: Connected,
}

/// Passes a handshake on, to the first endpoint that takes the connection.
pub(crate) async fn upgrade(routed: &mut Routed, mut request: Request<Body>) -> Result<Outcome, Refusal> {
    let deadline = routed.deadline();
    let exchange = async {
        let accept = hop_by_hop::handshake_fields(request.headers_mut(), &routed.proxy.settings.protected_fields);
        let connected = dial::connect(routed).await?;
        // From here on, something of the request may have been sent: no other endpoint may see it.
        answer(routed, connected, &accept, request, false).await
    };
    in_time(deadline, exchange).await
}

/// Goes on with a handshake that an endpoint has got.
pub(crate) async fn resume(sent: Sent, request: Request<Body>) -> Result<Outcome, Refusal> {
    let Sent { routed, accept, connected } = sent;
    in_time(routed.deadline(), answer(&routed, connected, &accept, request, true)).await
}

/// Gives a handshake until its deadline.
pub(crate) async fn in_time<T>(
    deadline: Option<Instant>,
    handshake: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    match deadline {
        Some(deadline) => timeout_at(deadline, handshake).await.unwrap_or(Err(Refusal::HandshakeTimeout)),
        None => handshake.await,
    }
}

/// What the backend answers.
async fn answer(
    routed: &Routed,
    connected: Connected,
    accept: &str,
    request: Request<Body>,
    is_sent: bool,
) -> Result<Outcome, Refusal> {
    let Connected { endpoint, in_use, backend } = connected;
    let next_target = NextTarget::default();
    next_target.set(routed.retarget.clone());
    let backend = BackendIo { stream: backend, is_sent, is_asked: false, reader: None };
    match exchange(Restoring::new(backend, next_target), request).await? {
        Exchanged::Answered(mut response) => {
            hop_by_hop::response(&mut response)?;
            routed.sign(response.headers_mut(), &endpoint);
            Ok(Outcome::Answered(response.map(|body| Body::new(Guarded::new(body, in_use)))))
        }
        Exchanged::Switched(mut response, backend) => {
            check_switch(response.version(), response.headers(), accept)?;
            hop_by_hop::response(&mut response)?;
            switched(response.headers_mut(), accept);
            routed.sign(response.headers_mut(), &endpoint);
            let extensions = extensions(response.headers());
            let opening = opening(routed, Connected { endpoint, in_use, backend }, extensions);
            Ok(Outcome::Switched(response.map(|_| body::empty()), Box::new(opening)))
        }
    }
}

/// The tunnel to an endpoint that has switched.
pub(crate) fn opening(routed: &Routed, connected: Connected, extensions: Extensions) -> Opening {
    let limits = TunnelLimits::new(&routed.rule.timeouts, &routed.proxy.settings);
    let Connected { endpoint, in_use, backend } = connected;
    Opening { backend, extensions, names: routed.names(&endpoint), limits, keepalive: routed.rule.keepalive, in_use }
}

/// What the backend has agreed to with the client (RFC 6455 §9.1).
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

/// Makes the fields of a 101 ours for this hop, with what the backend says to the client itself.
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

type BackendConnection = Connection<TokioIo<Tapped<Restoring<BackendIo>>>, Body>;

/// Sends the request and reads the head of the answer; interim ones (100, 103) are none. The connection is driven
/// here rather than by a task, so that a client that goes away takes it with it.
async fn exchange(backend: Restoring<BackendIo>, request: Request<Body>) -> Result<Exchanged, Refusal> {
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
    let mut backend = parts.io.into_inner().into_inner().into_inner().stream;
    backend.unread(&parts.read_buf);
    Exchanged::Switched(response, backend)
}

/// A connection with a backend as hyper sees it.
struct BackendIo {
    stream: Stream,
    /// Whether the backend has the request already. Then what hyper writes, which is that request, goes nowhere; and
    /// nothing can be read before, since hyper takes what comes unasked for an error.
    is_sent: bool,
    is_asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for BackendIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_sent && !this.is_asked {
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BackendIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.is_sent {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        }
        this.is_asked = true;
        if let Some(reader) = this.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
