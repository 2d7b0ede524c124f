//! From a checked head to its rule: the only place that looks at the table.

use std::sync::Arc;

use http::HeaderName;

use super::{View, account::Account, handshake::Intent, refusal::Refusal};
use crate::{
    proxy::{
        fields::{Fields, protected::ProtectedFields},
        shared::Shared,
    },
    table::{Found, HeaderLines, InsecurePolicy, RequestView, RouteTable, Rule},
};

/// Finds the rule of a request. The guard of the table is dropped before this returns.
///
/// # Errors
/// If the request does not belong on its connection, or nothing matches it.
pub(super) fn match_request(
    shared: &Shared,
    view: &View<'_>,
    fields: &impl Fields,
    account: &Account,
) -> Result<Arc<Rule>, Refusal> {
    let table = shared.table.load();
    check_connection(&table, view, shared.settings.public_https_port)?;
    let query = view.target.path_and_query.split_once('?').map_or("", |(_, query)| query);
    // A faulty handshake is refused by the rule that would have served it.
    let is_upgrade = view.intent != Intent::Plain;
    let hidden = (!view.trusted).then_some(&shared.settings.protected_fields);
    let headers = &PermittedFields { fields, hidden };
    let request = RequestView { path: view.target.path.as_str(), query, is_upgrade, headers };
    match table.find(&view.host, &request) {
        Found::Rule(rule) => {
            account.belongs_to(&rule.route);
            Ok(rule.clone())
        }
        Found::Unreadable(route) => {
            account.belongs_to(route);
            Err(Refusal::Unreadable(route.name.clone()))
        }
        Found::Nothing if view.target.path.has_escaped_slash() => Err(Refusal::EscapedSlash),
        Found::Nothing => Err(Refusal::NotFound),
    }
}

/// The fields that matches are compared with: those that the peer may send.
struct PermittedFields<'a, F> {
    fields: &'a F,
    hidden: Option<&'a ProtectedFields>,
}

impl<F: Fields> HeaderLines for PermittedFields<'_, F> {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let is_hidden = self.hidden.is_some_and(|hidden| hidden.contains(name.as_str()));
        self.fields.lines(name).filter(move |_| !is_hidden)
    }
}

/// Checks that a request for this host may use this connection.
fn check_connection(table: &RouteTable, view: &View<'_>, https_port: Option<u16>) -> Result<(), Refusal> {
    if let Some(tls) = &view.peer.tls {
        return if tls.serves(table, &view.host) { Ok(()) } else { Err(Refusal::Misdirected) };
    }
    match table.tls(&view.host).map(|tls| tls.insecure_policy) {
        Some(InsecurePolicy::Redirect) if !view.secure => {
            let authority = view.target.authority.as_deref();
            let url = authority.map(|host| secure_url(host, https_port, view.target.path_and_query, view.intent));
            Err(url.map_or(Refusal::Insecure, Refusal::Redirect))
        }
        Some(InsecurePolicy::Deny) if !view.secure => Err(Refusal::Insecure),
        _ => Ok(()),
    }
}

/// The URL for a request in plaintext over TLS: the same host and target, with the port of the TLS listener.
fn secure_url(authority: &str, port: Option<u16>, path_and_query: &str, intent: Intent) -> String {
    let scheme = if intent == Intent::Plain { "https" } else { "wss" };
    let after_address = authority.rfind(']').unwrap_or(0);
    let end = authority[after_address..].find(':').map_or(authority.len(), |colon| after_address + colon);
    let port = port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{}{port}{path_and_query}", &authority[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_host_and_target_and_leave_443_out() {
        let url = secure_url;
        assert_eq!(url("a.example:80", None, "/x?y=1", Intent::Plain), "https://a.example/x?y=1");
        assert_eq!(url("a.example", Some(443), "/", Intent::Plain), "https://a.example/");
        assert_eq!(url("a.example", Some(8443), "/ws", Intent::Upgrade), "wss://a.example:8443/ws");
        assert_eq!(url("[::1]:80", Some(8443), "/", Intent::Upgrade), "wss://[::1]:8443/");
    }
}
