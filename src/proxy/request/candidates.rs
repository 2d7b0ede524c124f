//! The endpoints for a request, in order: that of its session, then those chosen by the rule's algorithm.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{View, account::Account, admit::Admitted, refusal::Refusal, routed::Routed, session::Sticky};
use crate::{
    proxy::{fields::Fields, shared::Shared},
    table::EndpointId,
};

/// Removes the session's cookie from the request, and orders the endpoints. A pinned one comes before the session's.
///
/// # Errors
/// If no endpoint can serve the request.
pub(super) fn candidates(
    shared: &Arc<Shared>,
    view: &View<'_>,
    Admitted { rule }: Admitted,
    pinned: Option<&EndpointId>,
    fields: &mut impl Fields,
    account: &Account,
) -> Result<Routed, Refusal> {
    let mut rng = fastrand::Rng::new();
    let keys = || shared.session_keys.load_full();
    let sticky = rule
        .policy
        .persistence
        .as_ref()
        .map(|persistence| Sticky::take(persistence, keys(), fields, view.secure, now()));
    let session = sticky.as_ref().and_then(Sticky::session);
    let pinned = pinned.filter(|_| rule.fault.is_none());
    let candidates = match pinned.and_then(|pinned| rule.beginning_with(|id| id == pinned)) {
        Some(candidates) => candidates,
        None => rule.candidates(session, &mut rng)?,
    };
    let (shared, started, client) = (shared.clone(), account.started, view.client);
    Ok(Routed { shared, rule, candidates, sticky, started, client, rng, tried: None, retarget: None })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
