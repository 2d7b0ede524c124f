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
use tokio::time::Instant;

use super::{
    client_io::{Answering, Stage},
    incoming, reply,
};
use crate::{
    metrics::Metrics,
    proxy::{
        body::{Body, Guarded, meter::Metered},
        request::{
            account,
            admitted::Routed,
            check,
            handshake::{self, Intent},
            match_request::{self, Asked},
            peer::Peer,
            refusal::Refusal,
        },
        shared::{Phase, Shared},
        tunnel::Opening,
        upstream::{
            plain::{self, Connections},
            pool::{Pinned, Pool},
            upgrade::{self, Begun, Outcome},
        },
    },
    table::{Endpoint, ObjectName},
};

/// What serves the requests of one connection.
pub(crate) struct Service {
    proxy: Arc<Shared>,
    pool: Arc<Pool>,
    peer: Peer,
    stage: Arc<Stage>,
    /// What was already done of the first request, a handshake.
    begun: Mutex<Option<Begun>>,
    /// The connection with a backend that this client alone may use.
    pinned: Arc<Pinned>,
    /// Where the tunnel of a 101 waits until hyper has given the connection back.
    pub opening: Mutex<Option<Box<Opening>>>,
}

/// What a request is about, as metrics and log see it.
#[derive(Default)]
struct Subject {
    route: Option<ObjectName>,
    endpoint: Option<Arc<Endpoint>>,
    upgrade: bool,
}

impl Service {
    /// Serves a connection of which the first request may have been begun.
    pub(crate) fn new(
        proxy: Arc<Shared>,
        pool: Arc<Pool>,
        peer: Peer,
        stage: Arc<Stage>,
        begun: Option<Begun>,
    ) -> Self {
        let (pinned, opening) = Default::default();
        Self { proxy, pool, peer, stage, begun: Mutex::new(begun), pinned, opening }
    }

    /// Answers a request; the guard tells when that is done.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        answering: Answering,
    ) -> Result<Response<Body>, Infallible> {
        let json = reply::wants_json(request.headers());
        let (mut subject, started) = (Subject::default(), Instant::now());
        let mut pending = Handshake::of(&self.proxy.metrics);
        let result = self.serve(request, started, &mut subject, &mut pending).await;
        self.stage.interim.end();
        let mut response = result.unwrap_or_else(|refusal| {
            account::log_refusal(&refusal, &self.proxy.throttle, subject.route.as_ref(), subject.endpoint.as_deref());
            pending.result = subject.upgrade.then_some((subject.route.clone(), refusal.label()));
            reply::reply(&refusal, json)
        });
        drop(pending);
        self.proxy.metrics.request(subject.route.as_ref(), response.status().as_u16());
        if *self.proxy.phase.borrow() != Phase::Serving && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        }
        let meter = self.stage.to_client.clone();
        Ok(response.map(|body| Body::new(Guarded::new(Metered::new(body, meter), answering))))
    }

    async fn serve(
        &self,
        mut request: Request<Incoming>,
        started: Instant,
        subject: &mut Subject,
        pending: &mut Handshake<'_>,
    ) -> Result<Response<Body>, Refusal> {
        request.extensions_mut().insert(self.stage.to_client.clone());
        // Also from a request that was begun before, so that it does not stay for the next one.
        let retarget = self.stage.retarget.take();
        let begun = self.begun.lock().expect("no holder panics").take();
        if let Some(begun) = begun {
            return self.resume(begun, request, subject, pending).await;
        }
        let version = request.version();
        let intent = handshake::intent(request.method(), version, request.headers());
        subject.upgrade = intent != Intent::Plain;
        let (mut head, body) = request.into_parts();
        log_upgrade(intent, &head.headers);
        let target = check::check(&head.method, head.version, (&head.uri).into(), &head.headers)?;
        let pinned = self.pinned.endpoint();
        let asked = Asked { target: &target, intent, started, pinned: pinned.as_ref() };
        let mut routed = match_request::route(&self.proxy, &self.peer, asked, &mut head.headers, &mut subject.route)?;
        routed.retarget = retarget;
        readdress(&mut head);
        let request = Request::from_parts(head, body);
        let exchanged = self.exchange(&mut routed, (intent, version), request, subject, pending).await;
        subject.endpoint = routed.tried.take();
        exchanged
    }

    async fn exchange(
        &self,
        routed: &mut Routed,
        (intent, version): (Intent, Version),
        request: Request<Incoming>,
        subject: &Subject,
        pending: &mut Handshake<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let settings = &self.proxy.settings;
        let (request, hold) =
            incoming::prepare(request, settings, (version == Version::HTTP_11).then_some(&self.stage));
        let request = request.map(|body| self.metered(body));
        if intent == Intent::Plain {
            // Boxed, as the upgrade is: what awaits an answer is moved more than once, so it should be small.
            let mut response = Box::pin(plain::pass(routed, self.connections(), request, hold)).await?;
            reply::upgrade_required(&mut response);
            return Ok(response);
        }
        pending.result = Some((subject.route.clone(), "client_gone"));
        let outcome = Box::pin(upgrade::upgrade(routed, request)).await?;
        Ok(self.switch(outcome, routed.started, pending))
    }

    fn connections(&self) -> Connections<'_> {
        Connections { pool: &self.pool, pinned: &self.pinned }
    }

    fn metered(&self, body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::new(Metered::new(body, self.stage.to_backend.clone())) }
    }

    /// Goes on with a handshake that was refused, or sent to its endpoint, before hyper had to do with it.
    async fn resume(
        &self,
        begun: Begun,
        request: Request<Incoming>,
        subject: &mut Subject,
        pending: &mut Handshake<'_>,
    ) -> Result<Response<Body>, Refusal> {
        *subject = Subject { route: begun.route, endpoint: begun.endpoint, upgrade: true };
        let sent = begun.sent?;
        pending.result = Some((subject.route.clone(), "client_gone"));
        let started = sent.routed.started;
        let request = request.map(|body| Body::new(Guarded::new(body, ())));
        let outcome = Box::pin(upgrade::resume(sent, request)).await?;
        Ok(self.switch(outcome, started, pending))
    }

    fn switch(&self, outcome: Outcome, started: Instant, pending: &mut Handshake<'_>) -> Response<Body> {
        let (mut response, label) = match outcome {
            Outcome::Answered(response) => (response, "refused"),
            Outcome::Switched(response, opening) => {
                *self.opening.lock().expect("no holder panics") = Some(opening);
                self.proxy.metrics.handshake_duration(started.elapsed());
                (response, "switched")
            }
        };
        reply::upgrade_required(&mut response);
        if let Some((_, result)) = &mut pending.result {
            *result = label;
        }
        response
    }
}

/// Notes which upgrade a client asked for in vain: a server may ignore `Upgrade` (RFC 9110 §7.8), and this one does so
/// for anything but websocket, see `docs/operations.md`.
fn log_upgrade(intent: Intent, headers: &HeaderMap) {
    if intent == Intent::Plain
        && let Some(protocol) = headers.get(UPGRADE)
    {
        tracing::debug!(?protocol, "upgrade not supported; answering as a plain request");
    }
}

/// Makes the head of a request one from us to the backend.
fn readdress(head: &mut Parts) {
    head.uri = head.uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
    head.version = Version::HTTP_11;
    head.extensions.remove::<hyper::upgrade::OnUpgrade>();
}

/// Counts a handshake when it is over, also when that is because the client went away.
pub(crate) struct Handshake<'a> {
    metrics: &'a Metrics,
    /// Its route, and what it is counted as; none while there is nothing to count.
    pub result: Option<(Option<ObjectName>, &'static str)>,
}

impl<'a> Handshake<'a> {
    /// Nothing to count yet.
    pub(crate) fn of(metrics: &'a Metrics) -> Self {
        Self { metrics, result: None }
    }

    /// Counts it now.
    pub(crate) fn count(&mut self) {
        if let Some((route, result)) = self.result.take() {
            self.metrics.handshake(route.as_ref(), result);
        }
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.count();
    }
}
