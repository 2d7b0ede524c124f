//! From a head to its rule: the one place that looks at the table.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{Uri, header::HOST};
use tokio::time::Instant;

use super::{
    Shared,
    error::Refusal,
    fields::Fields,
    forwarded::{self, Hop},
    handshake::Intent,
    routed::Routed,
    session::Sticky,
    tls::Peer,
};
use crate::table::{Found, Host, InsecurePolicy, NonUpgrade, ObjectName, RouteTable, Rule};

/// What is asked for, beside the fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The target.
    pub uri: &'a Uri,
    /// Host and port that it is for.
    pub authority: &'a str,
    /// What kind of an answer.
    pub intent: Intent,
    /// When it came.
    pub started: Instant,
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
    let Asked { uri, authority, intent, started } = asked;
    let trusted = proxy.settings.trusts(peer.address);
    let secure = forwarded::is_secure(fields, peer.tls.is_some(), trusted);
    let host = Host::parse(authority).map_err(|_| Refusal::MalformedHost)?;
    let rule = {
        let table = proxy.table.load();
        check_connection(proxy, peer, &table, &host, secure, asked)?;
        find(&table, &host, uri.path(), route)?
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
    let candidates = rule.candidates(session, &mut rng)?;
    forwarded::set(fields, &Hop { peer: peer.address, tls: peer.tls.is_some(), authority, trusted });
    if uri.authority().is_some() {
        fields.set(HOST, authority.as_bytes().to_vec());
    }
    Ok(Routed { proxy: proxy.clone(), rule, candidates, sticky, started, client, rng })
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
            Err(Refusal::Redirect(secure_url(asked, proxy.settings.public_https_port)))
        }
        Some(InsecurePolicy::Deny) if !secure => Err(Refusal::Insecure),
        _ => Ok(()),
    }
}

fn find(table: &RouteTable, host: &Host<'_>, path: &str, route: &mut Option<ObjectName>) -> Result<Arc<Rule>, Refusal> {
    match table.find(host, path) {
        Found::Rule(rule) => {
            *route = Some(rule.route.clone());
            Ok(rule.clone())
        }
        Found::Unreadable(name) => {
            *route = Some(name.clone());
            Err(Refusal::Unreadable(name.clone()))
        }
        Found::Nothing => Err(Refusal::NotFound),
    }
}

/// Where a request in plaintext should have gone: the same host and target, with the port that TLS is served at.
fn secure_url(asked: Asked<'_>, port: Option<u16>) -> String {
    let Asked { uri, authority, intent, .. } = asked;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_host_and_target_and_leave_443_out() {
        let url = |authority, port, target: &'static str, intent| {
            let uri = Uri::from_static(target);
            secure_url(Asked { uri: &uri, authority, intent, started: Instant::now() }, port)
        };
        assert_eq!(url("a.example:80", None, "/x?y=1", Intent::Plain), "https://a.example/x?y=1");
        assert_eq!(url("a.example", Some(443), "/", Intent::Plain), "https://a.example/");
        assert_eq!(url("a.example", Some(8443), "/ws", Intent::Upgrade), "wss://a.example:8443/ws");
        assert_eq!(url("[::1]:80", Some(8443), "/", Intent::Upgrade), "wss://[::1]:8443/");
    }
}
