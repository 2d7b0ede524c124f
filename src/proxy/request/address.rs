//! Turns the fields of a request into those for the backend.

use http::header::HOST;

use super::{
    View,
    forwarded::{self, Hop},
};
use crate::{
    proxy::{fields::Fields, settings::Settings},
    table::ObjectName,
};

/// Adds the fields about the client, and the host that the request is for.
pub(super) fn address(fields: &mut impl Fields, view: &View<'_>, settings: &Settings, service: &ObjectName) {
    let &View { peer, target, client, trusted, .. } = view;
    let authority = target.authority.as_deref();
    let hop = Hop { peer: peer.address, tls: peer.tls.is_some(), client, authority, trusted };
    forwarded::set(fields, &settings.protected_fields, &hop);
    match authority {
        Some(authority) if target.is_absolute => fields.set(HOST, authority.as_bytes().to_vec()),
        Some(_) => {}
        // The request to the backend is HTTP/1.1, which requires a Host (RFC 9112 §3.2); many servers reject an empty
        // one.
        None => fields.set(HOST, format!("{}.{}", service.name, service.namespace).into_bytes()),
    }
}
