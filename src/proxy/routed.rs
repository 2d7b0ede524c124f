//! A request that has its rule: what both ways of serving it, plain and upgraded, start from.

use std::{net::IpAddr, sync::Arc};

use http::header::SET_COOKIE;
use tokio::time::Instant;

use super::{
    Shared,
    dial::{self, DialError},
    error::Refusal,
    fields::Fields,
    retarget::Retarget,
    session::Sticky,
    stream::Stream,
    tunnel::TunnelNames,
};
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
    /// The endpoint that was tried last.
    pub tried: Option<Arc<Endpoint>>,
    /// How the target is to be written on the wire, if not as hyper has it.
    pub retarget: Option<Retarget>,
}

/// A connection of its own to an endpoint.
pub(super) struct Connected {
    pub endpoint: Arc<Endpoint>,
    pub in_use: InUse,
    pub backend: Stream,
}

impl Routed {
    /// The next endpoint to try, counted from now on.
    pub(super) fn pick(&mut self) -> Option<(Arc<Endpoint>, InUse)> {
        let endpoint = self.candidates.next(&mut self.rng, dial::uptime())?;
        let in_use = endpoint.state.enter();
        self.tried = Some(endpoint.clone());
        Some((endpoint, in_use))
    }

    /// Connects to the first endpoint that takes a connection.
    pub(super) async fn connect(&mut self) -> Result<Connected, Refusal> {
        let mut last = DialError::Failed;
        while let Some((endpoint, in_use)) = self.pick() {
            match dial::dial(&endpoint, self.rule.timeouts.backend_connect).await {
                Ok(socket) => return Ok(Connected { endpoint, in_use, backend: Stream::from(socket) }),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// When a handshake has to have its answer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.rule.timeouts.handshake.map(|limit| self.started + limit)
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
    pub(super) fn sign(&self, answer: &mut impl Fields, endpoint: &Endpoint) {
        if let Some(cookie) = self.sticky.as_ref().and_then(|sticky| sticky.cookie(&endpoint.id)) {
            answer.add(SET_COOKIE, cookie.into_bytes());
        }
    }
}
