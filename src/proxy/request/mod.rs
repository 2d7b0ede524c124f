//! What happens to every request, however it arrived. Nothing here does IO.
//!
//! ```text
//! head ─► check ─► match_request ─► admit ─► candidates ─► (exchange, in `upstream`) ─► finish
//! ```
//!
//! [`route`] takes a head as far as its candidates. The owner of the connections performs the exchange, and passes the
//! result to [`routed::Routed::finish`] and to its [`account::Account`].

pub(crate) mod account;
mod address;
mod admit;
mod candidates;
pub(crate) mod check;
pub(crate) mod denied;
mod finish;
pub(crate) mod forwarded;
pub(crate) mod handshake;
pub(crate) mod hop_by_hop;
mod match_request;
pub(crate) mod peer;
pub(crate) mod refusal;
pub(crate) mod retarget;
pub(crate) mod routed;
pub(crate) mod session;

use std::{net::IpAddr, sync::Arc};

use http::{Method, Version};

use self::{
    account::Account,
    check::{Target, TargetParts},
    denied::Denied,
    handshake::Intent,
    peer::Peer,
    refusal::Refusal,
    routed::Routed,
};
use super::{fields::Fields, shared::Shared};
use crate::table::{EndpointId, Host};

/// A head as it arrived, except for its fields.
pub(crate) struct Arrived<'a> {
    pub peer: &'a Peer,
    pub method: &'a Method,
    pub version: Version,
    pub target: TargetParts<'a>,
    pub intent: Intent,
    /// The endpoint to which the client has a connection of its own.
    pub pinned: Option<EndpointId>,
}

/// What is known about a checked request before it is matched.
struct View<'a> {
    peer: &'a Peer,
    target: &'a Target<'a>,
    host: Host<'a>,
    intent: Intent,
    /// Whether the peer is a trusted proxy.
    trusted: bool,
    /// Whether the client sent it over TLS, to this proxy or to a trusted one.
    secure: bool,
    /// The client's address, as given by trusted proxies.
    client: IpAddr,
}

/// Takes a request from its head to its candidates, and turns its fields into those for the backend.
///
/// # Errors
/// If the request is answered without a backend.
pub(crate) async fn route(
    shared: &Arc<Shared>,
    arrived: Arrived<'_>,
    fields: &mut impl Fields,
    account: &Account,
) -> Result<Routed, Denied> {
    let Arrived { peer, method, version, target, intent, pinned } = arrived;
    account.asks_for(intent);
    let target = check::check(method, version, target, fields)?;
    let view = view(shared, peer, &target, intent, fields)?;
    let rule = match_request::match_request(shared, &view, fields, account)?;
    let admitted = admit::admit(&view, rule).await?;
    let routed = candidates::candidates(shared, &view, admitted, pinned.as_ref(), fields, account)?;
    address::address(fields, &view, &shared.settings, routed.candidates.service());
    Ok(routed)
}

fn view<'a>(
    shared: &Shared,
    peer: &'a Peer,
    target: &'a Target<'a>,
    intent: Intent,
    fields: &impl Fields,
) -> Result<View<'a>, Refusal> {
    let trusted = shared.settings.trusts(peer.address);
    let host = target.authority.as_deref().map_or(Ok(Host::unnamed()), Host::parse);
    Ok(View {
        peer,
        target,
        host: host.map_err(|_| Refusal::MalformedHost)?,
        intent,
        trusted,
        secure: forwarded::is_secure(fields, peer.tls.is_some(), trusted),
        client: forwarded::client(fields, peer.address, &shared.settings.trusted_proxies),
    })
}
