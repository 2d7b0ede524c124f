//! One request: checked, routed, answered.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use hyper::body::{Body as _, Incoming};

use super::{
    client_io::{Answering, Stage},
    incoming, reply,
};
use crate::proxy::{
    body::{Body, Guarded, meter::Metered},
    request::{
        self, Arrived,
        account::Account,
        denied::Denied,
        handshake::{self, Intent},
        peer::Peer,
        routed::Routed,
    },
    shared::Shared,
    tunnel::Opening,
    upstream::{
        plain::{self, Connections},
        pool::{Pinned, Pool},
        upgrade,
    },
};

/// Serves the requests of one connection.
pub(crate) struct Service {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    peer: Peer,
    stage: Arc<Stage>,
    /// The connection with a backend that only this client may use.
    pinned: Arc<Pinned>,
    /// The tunnel of a 101, which waits until hyper has returned the connection.
    pub opening: Mutex<Option<Box<Opening>>>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>, pool: Arc<Pool>, peer: Peer, stage: Arc<Stage>) -> Self {
        let (pinned, opening) = Default::default();
        Self { shared, pool, peer, stage, pinned, opening }
    }

    /// Answers a request; the guard is dropped when that is done.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        answering: Answering,
    ) -> Result<Response<Body>, Infallible> {
        let json = reply::wants_json(request.headers());
        let account = Account::open(&self.shared);
        let served = self.serve(request, &account).await;
        self.stage.interim.end();
        let mut response = served.unwrap_or_else(|denied| reply::denied(denied, json, &account));
        if self.shared.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        }
        let meter = self.stage.to_client.clone();
        Ok(response.map(|body| Body::new(Guarded::new(Metered::new(body, meter), answering))))
    }

    async fn serve(&self, mut request: Request<Incoming>, account: &Account) -> Result<Response<Body>, Denied> {
        request.extensions_mut().insert(self.stage.to_client.clone());
        let retarget = self.stage.retarget.take();
        let (mut head, body) = request.into_parts();
        let version = head.version;
        let intent = handshake::intent(&head.method, version, &head.headers);
        log_upgrade(intent, &head.headers);
        let (peer, method, target, pinned) = (&self.peer, &head.method, (&head.uri).into(), self.pinned.endpoint());
        let arrived = Arrived { peer, method, version, target, intent, pinned };
        let mut routed = request::route(&self.shared, arrived, &mut head.headers, account).await?;
        routed.retarget = retarget;
        readdress(&mut head);
        let request = Request::from_parts(head, body);
        let exchanged = self.exchange(&mut routed, (intent, version), request, account).await;
        account.tried(routed.tried.take());
        exchanged
    }

    async fn exchange(
        &self,
        routed: &mut Routed,
        (intent, version): (Intent, Version),
        request: Request<Incoming>,
        account: &Account,
    ) -> Result<Response<Body>, Denied> {
        let settings = &self.shared.settings;
        let (request, hold) =
            incoming::prepare(request, settings, (version == Version::HTTP_11).then_some(&self.stage));
        let request = request.map(|body| self.metered(body));
        if intent == Intent::Plain {
            // Boxed, like the upgrade: a future that awaits a response is moved several times, so it should be small.
            let response = Box::pin(plain::pass(routed, self.connections(), request, hold)).await?;
            return Ok(reply::answered(response, account));
        }
        let handshake = upgrade::in_time(routed.deadline(), upgrade::upgrade(routed, request));
        let (response, opening) = Box::pin(handshake).await?;
        *self.opening.lock().expect("no holder panics") = Some(opening);
        account.switch();
        Ok(response)
    }

    fn connections(&self) -> Connections<'_> {
        Connections { pool: &self.pool, pinned: &self.pinned }
    }

    fn metered(&self, body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::new(Metered::new(body, self.stage.to_backend.clone())) }
    }
}

/// Logs an upgrade that is ignored: a server may ignore `Upgrade` (RFC 9110 §7.8), and this one does so for anything
/// but websocket, see `docs/operations.md`.
fn log_upgrade(intent: Intent, headers: &HeaderMap) {
    if intent == Intent::Plain
        && let Some(protocol) = headers.get(UPGRADE)
    {
        tracing::debug!(?protocol, "upgrade not supported; serving it as a plain request");
    }
}

/// Turns the head of a request into one from the proxy to the backend.
fn readdress(head: &mut Parts) {
    head.uri = head.uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
    head.version = Version::HTTP_11;
    head.extensions.remove::<hyper::upgrade::OnUpgrade>();
}
