//! One request: checked, routed, answered.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST},
    request::Parts,
};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    Phase, Shared,
    body::{Body, Guarded},
    client_io::Stage,
    error::Refusal,
    forwarded::{self, Hop},
    handshake::{self, Intent},
    plain, reply, request,
    routed::Routed,
    session::Sticky,
    tls::Peer,
    tunnel::Opening,
    upgrade::{self, Outcome},
};
use crate::table::{Found, Host, InsecurePolicy, NonUpgrade, ObjectName, RouteTable, Rule};

/// What serves the requests of one connection.
pub(super) struct Service {
    pub proxy: Arc<Shared>,
    pub peer: Peer,
    pub stage: Arc<Stage>,
    /// Where the tunnel of a 101 waits until hyper has given the connection back.
    pub opening: Mutex<Option<Box<Opening>>>,
}

/// What a request is about, as metrics and log see it.
#[derive(Default)]
struct Subject {
    route: Option<ObjectName>,
    upgrade: bool,
}

impl Service {
    /// Answers a request.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let answering = self.stage.begin();
        let json = reply::wants_json(request.headers());
        let (mut subject, started) = (Subject::default(), Instant::now());
        let mut pending = Handshake { service: &self, result: None };
        let result = self.serve(request, started, &mut subject, &mut pending).await;
        let mut response = result.unwrap_or_else(|refusal| {
            refusal.log(subject.route.as_ref());
            pending.result = subject.upgrade.then_some((subject.route.clone(), refusal.label()));
            reply::reply(&refusal, json)
        });
        drop(pending);
        self.proxy.metrics.request(subject.route.as_ref(), response.status().as_u16());
        if *self.proxy.phase.borrow() != Phase::Serving && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Body::new(Guarded::new(body, answering))))
    }

    async fn serve(
        &self,
        request: Request<Incoming>,
        started: Instant,
        subject: &mut Subject,
        pending: &mut Handshake<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let intent = handshake::intent(request.method(), request.version(), request.headers());
        subject.upgrade = intent != Intent::Plain;
        let (mut head, body) = request.into_parts();
        let authority = request::check(&head)?;
        let routed = self.route(&mut head, &authority, intent, started, subject)?;
        let request = Request::from_parts(head, body);
        let (request, hold) = plain::hold(request, self.proxy.settings.continue_timeout);
        if intent == Intent::Plain {
            // Boxed, as the upgrade is: what awaits an answer is moved more than once, so it should be small.
            let mut response = Box::pin(plain::pass(routed, request, hold)).await?;
            reply::upgrade_required(&mut response);
            return Ok(response);
        }
        pending.result = Some((subject.route.clone(), "client_gone"));
        let outcome = Box::pin(upgrade::upgrade(routed, request)).await?;
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

    /// Finds out where a request goes, and makes its head the one that goes there. The table is looked at here and
    /// nowhere else.
    fn route(
        &self,
        head: &mut Parts,
        authority: &str,
        intent: Intent,
        started: Instant,
        subject: &mut Subject,
    ) -> Result<Routed, Refusal> {
        let Peer { address, tls } = &self.peer;
        let trusted = self.proxy.settings.trusts(*address);
        let secure = forwarded::is_secure(&head.headers, tls.is_some(), trusted);
        let host = Host::parse(authority).map_err(|_| Refusal::MalformedHost)?;
        let rule = {
            let table = self.proxy.table.load();
            self.check_connection(&table, &host, secure, head, intent, authority)?;
            find(&table, &host, head.uri.path(), subject)?
        };
        match (intent, rule.non_upgrade) {
            (Intent::Faulty(fault), _) => return Err(fault.into()),
            (Intent::Plain, NonUpgrade::Reject) => return Err(Refusal::NoUpgrade),
            _ => {}
        }
        let mut rng = fastrand::Rng::new();
        let client = forwarded::client(&head.headers, *address, &self.proxy.settings.trusted_proxies);
        let sticky = rule.persistence.as_ref().map(|persistence| {
            Sticky::take(persistence, self.proxy.session_keys.load_full(), &mut head.headers, secure, now())
        });
        let session = sticky.as_ref().and_then(Sticky::session);
        let candidates = rule.candidates(session, &mut rng)?;
        self.readdress(head, authority, trusted);
        Ok(Routed { proxy: self.proxy.clone(), rule, candidates, sticky, started, client, rng })
    }

    /// Whether a request for this host may come on this connection.
    fn check_connection(
        &self,
        table: &RouteTable,
        host: &Host<'_>,
        secure: bool,
        head: &Parts,
        intent: Intent,
        authority: &str,
    ) -> Result<(), Refusal> {
        if let Some(tls) = &self.peer.tls {
            return if tls.serves(table, host) { Ok(()) } else { Err(Refusal::Misdirected) };
        }
        match table.tls(host).map(|tls| tls.insecure_policy) {
            Some(InsecurePolicy::Redirect) if !secure => {
                let port = self.proxy.settings.public_https_port;
                Err(Refusal::Redirect(secure_url(authority, port, &head.uri, intent)))
            }
            Some(InsecurePolicy::Deny) if !secure => Err(Refusal::Insecure),
            _ => Ok(()),
        }
    }

    /// Makes the head one from us to the backend.
    fn readdress(&self, head: &mut Parts, authority: &str, trusted: bool) {
        let Peer { address, tls } = &self.peer;
        forwarded::set(&mut head.headers, &Hop { peer: *address, tls: tls.is_some(), authority, trusted });
        if head.uri.authority().is_some()
            && let Ok(host) = HeaderValue::from_str(authority)
        {
            head.headers.insert(HOST, host);
        }
        head.uri = head.uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
        head.version = Version::HTTP_11;
        head.extensions.remove::<hyper::upgrade::OnUpgrade>();
    }
}

fn find(table: &RouteTable, host: &Host<'_>, path: &str, subject: &mut Subject) -> Result<Arc<Rule>, Refusal> {
    match table.find(host, path) {
        Found::Rule(rule) => {
            subject.route = Some(rule.route.clone());
            Ok(rule.clone())
        }
        Found::Unreadable(route) => {
            subject.route = Some(route.clone());
            Err(Refusal::Unreadable(route.clone()))
        }
        Found::Nothing => Err(Refusal::NotFound),
    }
}

/// Where a request in plaintext should have gone: the same host and target, with the port that TLS is served at.
fn secure_url(authority: &str, port: Option<u16>, uri: &Uri, intent: Intent) -> String {
    let scheme = if intent == Intent::Plain { "https" } else { "wss" };
    let after_address = authority.rfind(']').unwrap_or(0);
    let end = authority[after_address..].find(':').map_or(authority.len(), |colon| after_address + colon);
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let port = port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}{port}{target}", &authority[..end])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Counts a handshake when it is over, also when that is because the client went away.
struct Handshake<'a> {
    service: &'a Service,
    result: Option<(Option<ObjectName>, &'static str)>,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        if let Some((route, result)) = self.result.take() {
            self.service.proxy.metrics.handshake(route.as_ref(), result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_host_and_target_and_leave_443_out() {
        let url = |authority, port, target: &'static str, intent| {
            secure_url(authority, port, &Uri::from_static(target), intent)
        };
        assert_eq!(url("a.example:80", None, "/x?y=1", Intent::Plain), "https://a.example/x?y=1");
        assert_eq!(url("a.example", Some(443), "/", Intent::Plain), "https://a.example/");
        assert_eq!(url("a.example", Some(8443), "/ws", Intent::Upgrade), "wss://a.example:8443/ws");
        assert_eq!(url("[::1]:80", Some(8443), "/", Intent::Upgrade), "wss://[::1]:8443/");
    }
}
