//! From a head to its rule: the one place that looks at the table.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::header::HOST;
use tokio::time::Instant;

use super::{
    Shared,
    error::Refusal,
    fields::Fields,
    forwarded::{self, Hop},
    handshake::Intent,
    protected::ProtectedFields,
    request::Target,
    routed::Routed,
    session::Sticky,
    tls::Peer,
};
use crate::table::{
    EndpointId, EscapedSlashes, Found, HeaderLines, Host, InsecurePolicy, NonUpgrade, ObjectName, RequestView,
    RouteTable, Rule,
};

/// What is asked for, beside the fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The target.
    pub target: &'a Target<'a>,
    /// What kind of an answer.
    pub intent: Intent,
    /// When it came.
    pub started: Instant,
    /// The endpoint to which the client has a connection of its own.
    pub pinned: Option<&'a EndpointId>,
}

/// Finds out where a request goes, and makes its fields those of the request that goes there. The route is told as soon
/// as it is known, since a refusal has one too.
pub(super) fn route(
    proxy: &Arc<Shared>,
    peer: &Peer,
    asked: Asked<'_>,
    fields: &mut impl Fields,
    route: &mut Option<ObjectName>,
) -> Result<Routed, Refusal> {
    let Asked { target, intent, started, pinned } = asked;
    let authority = target.authority.as_deref();
    let trusted = proxy.settings.trusts(peer.address);
    let secure = forwarded::is_secure(fields, peer.tls.is_some(), trusted);
    let host = authority.map_or(Ok(Host::unnamed()), Host::parse).map_err(|_| Refusal::MalformedHost)?;
    let rule = {
        let table = proxy.table.load();
        check_connection(proxy, peer, &table, &host, secure, asked)?;
        let hidden = (!trusted).then_some(&proxy.settings.protected_fields);
        find(&table, &host, asked, &PermittedFields { fields, hidden }, route)?
    };
    match (intent, rule.non_upgrade) {
        (Intent::Faulty(fault), _) => return Err(fault.into()),
        (Intent::Plain, NonUpgrade::Reject) => return Err(Refusal::NoUpgrade),
        _ => {}
    }
    let mut rng = fastrand::Rng::new();
    let client = forwarded::client(fields, peer.address, &proxy.settings.trusted_proxies);
    let sticky = rule
        .persistence
        .as_ref()
        .map(|persistence| Sticky::take(persistence, proxy.session_keys.load_full(), fields, secure, now()));
    let session = sticky.as_ref().and_then(Sticky::session);
    let pinned = pinned.filter(|_| rule.fault.is_none());
    let candidates = match pinned.and_then(|pinned| rule.beginning_with(|id| id == pinned)) {
        Some(candidates) => candidates,
        None => rule.candidates(session, &mut rng)?,
    };
    let hop = Hop { peer: peer.address, tls: peer.tls.is_some(), client, authority, trusted };
    forwarded::set(fields, &proxy.settings.protected_fields, &hop);
    match authority {
        Some(authority) if target.is_absolute => fields.set(HOST, authority.as_bytes().to_vec()),
        Some(_) => {}
        // Ours is a request in HTTP/1.1, which needs one (RFC 9112 §3.2), and many servers refuse an empty one.
        None => fields.set(HOST, service_host(candidates.service()).into_bytes()),
    }
    Ok(Routed { proxy: proxy.clone(), rule, candidates, sticky, started, client, rng, tried: None, retarget: None })
}

/// Whether a request for this host may come on this connection.
fn check_connection(
    proxy: &Shared,
    peer: &Peer,
    table: &RouteTable,
    host: &Host<'_>,
    secure: bool,
    asked: Asked<'_>,
) -> Result<(), Refusal> {
    if let Some(tls) = &peer.tls {
        return if tls.serves(table, host) { Ok(()) } else { Err(Refusal::Misdirected) };
    }
    match table.tls(host).map(|tls| tls.insecure_policy) {
        Some(InsecurePolicy::Redirect) if !secure => {
            let url = secure_url(asked, proxy.settings.public_https_port);
            Err(url.map_or(Refusal::Insecure, Refusal::Redirect))
        }
        Some(InsecurePolicy::Deny) if !secure => Err(Refusal::Insecure),
        _ => Ok(()),
    }
}

fn service_host(service: &ObjectName) -> String {
    format!("{}.{}", service.name, service.namespace)
}

fn find(
    table: &RouteTable,
    host: &Host<'_>,
    asked: Asked<'_>,
    headers: &impl HeaderLines,
    route: &mut Option<ObjectName>,
) -> Result<Arc<Rule>, Refusal> {
    let Asked { target, intent, .. } = asked;
    let has_escaped_slash = target.path.has_escaped_slash();
    let query = target.path_and_query.split_once('?').map_or("", |(_, query)| query);
    // A faulty handshake is refused by the rule that it would have been for.
    let is_upgrade = intent != Intent::Plain;
    let view = RequestView { path: target.path.as_str(), query, is_upgrade, headers };
    match table.find(host, &view) {
        Found::Rule(rule) => {
            *route = Some(rule.route.clone());
            if has_escaped_slash && rule.escaped_slashes == EscapedSlashes::Reject {
                return Err(Refusal::EscapedSlash);
            }
            Ok(rule.clone())
        }
        Found::Unreadable(name) => {
            *route = Some(name.clone());
            Err(Refusal::Unreadable(name.clone()))
        }
        Found::Nothing if has_escaped_slash => Err(Refusal::EscapedSlash),
        Found::Nothing => Err(Refusal::NotFound),
    }
}

/// The fields that matches are compared with: those that the peer may send.
struct PermittedFields<'a, F> {
    fields: &'a F,
    hidden: Option<&'a ProtectedFields>,
}

impl<F: Fields> HeaderLines for PermittedFields<'_, F> {
    fn lines<'a>(&'a self, name: &'a http::HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let is_hidden = self.hidden.is_some_and(|hidden| hidden.contains(name.as_str()));
        self.fields.lines(name).filter(move |_| !is_hidden)
    }
}

/// Where a request in plaintext should have gone: the same host and target, with the port that TLS is served at. `None`
/// for a request that names no host.
fn secure_url(asked: Asked<'_>, port: Option<u16>) -> Option<String> {
    let Asked { target, intent, .. } = asked;
    let authority = target.authority.as_deref()?;
    let scheme = if intent == Intent::Plain { "https" } else { "wss" };
    let after_address = authority.rfind(']').unwrap_or(0);
    let end = authority[after_address..].find(':').map_or(authority.len(), |colon| after_address + colon);
    let port = port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{}{port}{}", &authority[..end], target.path_and_query))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::NormalPath;

    #[test]
    fn redirects_keep_host_and_target_and_leave_443_out() {
        let url = |authority: &str, port, path_and_query: &'static str, intent| {
            let path = NormalPath::parse("/").unwrap();
            let target = Target { authority: Some(authority.into()), is_absolute: false, path_and_query, path };
            secure_url(Asked { target: &target, intent, started: Instant::now(), pinned: None }, port).unwrap()
        };
        assert_eq!(url("a.example:80", None, "/x?y=1", Intent::Plain), "https://a.example/x?y=1");
        assert_eq!(url("a.example", Some(443), "/", Intent::Plain), "https://a.example/");
        assert_eq!(url("a.example", Some(8443), "/ws", Intent::Upgrade), "wss://a.example:8443/ws");
        assert_eq!(url("[::1]:80", Some(8443), "/", Intent::Upgrade), "wss://[::1]:8443/");
    }
}
