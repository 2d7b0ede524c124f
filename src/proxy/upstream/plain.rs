//! Requests that are not an upgrade, on connections that are kept and reused.

use std::{error::Error, io, sync::Arc};

use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{CONNECTION, WWW_AUTHENTICATE},
    request::Parts,
};
use hyper::body::{Body as _, Incoming};

use super::{
    dial::DialError,
    pool::{Lease, Pinned, Pool},
};
use crate::{
    proxy::{
        body::{self, Body, Guarded, Hold, meter::Meter},
        fields::Fields,
        request::{
            handshake::BadSwitch,
            hop_by_hop,
            refusal::{BadResponse, Refusal},
            routed::Routed,
        },
    },
    table::{Endpoint, InUse},
};

/// The connections that a client's requests may use.
#[derive(Clone, Copy)]
pub(crate) struct Connections<'a> {
    pub pool: &'a Pool,
    /// The one that only this client may use.
    pub pinned: &'a Arc<Pinned>,
}

/// Forwards a request and returns the backend's response.
pub(crate) async fn pass(
    routed: &mut Routed,
    connections: Connections<'_>,
    mut request: Request<Body>,
    hold: Option<Arc<Hold>>,
) -> Result<Response<Body>, Refusal> {
    hop_by_hop::request_fields(request.headers_mut(), &routed.shared.settings.protected_fields);
    let LeasedResponse { mut response, mut lease, endpoint, in_use } = routed.exchange(connections, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadSwitch::Unasked.into());
    }
    hop_by_hop::response(&mut response)?;
    if authenticates_connection(response.headers()) {
        lease.pin(connections.pinned);
    }
    // After the backend's hop-by-hop fields are removed, so that its Connection cannot remove our cookie.
    routed.finish(response.headers_mut(), &endpoint);
    let unwanted = hold.and_then(Hold::refuse);
    if unwanted.is_some() {
        // Whether the client sends the body is unknown (RFC 9110 §10.1.1).
        response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
    }
    let (head, body) = response.into_parts();
    let body = body::begun(Guarded::new(body, (unwanted, lease, in_use))).await.map_err(|_| BadResponse::Body)?;
    Ok(Response::from_parts(head, body))
}

/// Whether a backend authenticates connections rather than requests, so that no other client may use this one
/// (RFC 4559 §6).
fn authenticates_connection(headers: &HeaderMap) -> bool {
    headers.tokens(&WWW_AUTHENTICATE).any(|challenge| {
        let scheme = challenge.split(' ').next().unwrap_or_default();
        ["ntlm", "negotiate"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

struct LeasedResponse {
    response: Response<Incoming>,
    lease: Lease,
    endpoint: Arc<Endpoint>,
    in_use: InUse,
}

/// The result of sending a request.
enum SendOutcome {
    Answered(Response<Incoming>, Lease),
    /// None of it was sent.
    Unsent(Request<Body>),
    /// It was lost on a reused connection, and may be sent again to the same endpoint.
    Again(Request<Body>),
    /// It may have been sent, and the connection ended without a response.
    Lost,
    Refused(Refusal),
}

impl Routed {
    async fn exchange(
        &mut self,
        connections: Connections<'_>,
        mut request: Request<Body>,
    ) -> Result<LeasedResponse, Refusal> {
        let copy = RequestCopy::of(&request);
        let mut last = DialError::Failed;
        while let Some((endpoint, in_use)) = self.pick() {
            let mut sent_before = false;
            match self.reuse(&endpoint, connections, request, copy.as_ref()).await {
                Ok((response, lease)) => return Ok(LeasedResponse { response, lease, endpoint, in_use }),
                Err(SendOutcome::Unsent(unsent)) => request = unsent,
                Err(SendOutcome::Again(again)) => (request, sent_before) = (again, true),
                Err(other) => return Err(other.into_refusal()),
            }
            let lease = match connections.pool.connect(&endpoint, self.rule.policy.timeouts.backend_connect).await {
                Ok(lease) => lease,
                // Another endpoint must not repeat what one may have begun.
                Err(_) if sent_before => return Err(BadResponse::Closed.into()),
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            match self.send(lease, request).await {
                SendOutcome::Answered(response, lease) => {
                    return Ok(LeasedResponse { response, lease, endpoint, in_use });
                }
                SendOutcome::Unsent(unsent) if !sent_before => request = unsent,
                other => return Err(other.into_refusal()),
            }
        }
        Err(last.into())
    }

    /// Tries existing connections. The backend may have closed any of them just when it was taken, so a lost request is
    /// repeated if that is safe (RFC 9110 §9.2.2): if it has no body and is idempotent.
    async fn reuse(
        &self,
        endpoint: &Endpoint,
        Connections { pool, pinned }: Connections<'_>,
        mut request: Request<Body>,
        copy: Option<&RequestCopy>,
    ) -> Result<(Response<Incoming>, Lease), SendOutcome> {
        while let Some(lease) = pinned.take(endpoint).or_else(|| pool.take(endpoint)) {
            match (self.send(lease, request).await, copy) {
                (SendOutcome::Answered(response, lease), _) => return Ok((response, lease)),
                (SendOutcome::Unsent(unsent), _) => request = unsent,
                (SendOutcome::Lost, Some(copy)) => return Err(SendOutcome::Again(copy.request())),
                (other, _) => return Err(other),
            }
        }
        Err(SendOutcome::Unsent(request))
    }

    async fn send(&self, mut lease: Lease, request: Request<Body>) -> SendOutcome {
        lease.set_target(self.retarget.clone());
        lease.read_by(request.extensions().get::<Arc<Meter>>().cloned());
        let sending = lease.sender().try_send_request(request);
        let sent = match self.rule.policy.timeouts.response {
            Some(limit) => match tokio::time::timeout(limit, sending).await {
                Ok(sent) => sent,
                Err(_) => return SendOutcome::Refused(Refusal::ResponseTimeout),
            },
            None => sending.await,
        };
        match sent {
            Ok(response) => SendOutcome::Answered(response, lease),
            Err(mut failure) => match failure.take_message() {
                Some(request) => SendOutcome::Unsent(request),
                None if is_stall(failure.error()) => SendOutcome::Refused(Refusal::BodyTimeout),
                None if failure.error().is_parse() => SendOutcome::Refused(BadResponse::Head.into()),
                // The "user" is the body that hyper was given to send, which is the client's.
                None if failure.error().is_user() => SendOutcome::Refused(Refusal::MalformedBody),
                None => SendOutcome::Lost,
            },
        }
    }
}

/// Whether the request failed because the client did not send the rest of it.
fn is_stall(error: &hyper::Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
    let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    error.is_user() && causes.any(|cause| cause.downcast_ref().is_some_and(timed_out))
}

impl SendOutcome {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            _ => BadResponse::Closed.into(),
        }
    }
}

/// The head of a request that may be sent twice.
struct RequestCopy(Parts);

impl RequestCopy {
    fn of(request: &Request<Body>) -> Option<Self> {
        if !request.method().is_idempotent() || !request.body().is_end_stream() {
            return None;
        }
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(Self(copy.into_parts().0))
    }

    fn request(&self) -> Request<Body> {
        Request::from_parts(self.0.clone(), body::empty())
    }
}
