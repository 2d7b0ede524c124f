//! A request that has its rule: what both ways of serving it, plain and upgraded, start from.

use std::{net::IpAddr, sync::Arc};

use http::{Response, header::SET_COOKIE};
use tokio::time::Instant;

use super::{Shared, dial, session::Sticky, tunnel::TunnelNames};
use crate::table::{Candidates, Endpoint, InUse, Rule};

/// A request that has a rule, with all that outlives the look at the table.
pub(super) struct Routed {
    pub proxy: Arc<Shared>,
    pub rule: Arc<Rule>,
    pub candidates: Candidates,
    pub sticky: Option<Sticky>,
    pub started: Instant,
    pub client: IpAddr,
    pub rng: fastrand::Rng,
}

impl Routed {
    /// The next endpoint to try, counted from now on.
    pub(super) fn pick(&mut self) -> Option<(Arc<Endpoint>, InUse)> {
        let endpoint = self.candidates.next(&mut self.rng, dial::uptime())?;
        let in_use = endpoint.state.enter();
        Some((endpoint, in_use))
    }

    /// What a tunnel to this endpoint is known by.
    pub(super) fn names(&self, endpoint: &Endpoint) -> TunnelNames {
        TunnelNames {
            route: self.rule.route.clone(),
            rule: self.rule.name.clone(),
            service: self.candidates.service().clone(),
            endpoint: endpoint.name.clone(),
            client: self.client,
        }
    }

    /// Adds the session cookie where the client needs a new one.
    pub(super) fn sign<B>(&self, mut response: Response<B>, endpoint: &Endpoint) -> Response<B> {
        if let Some(cookie) = self.sticky.as_ref().and_then(|sticky| sticky.cookie(&endpoint.id)) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        response
    }
}
