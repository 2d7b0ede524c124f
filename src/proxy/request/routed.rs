//! A request that has its rule: what both ways of serving it, plain and upgraded, start from.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::time::Instant;

use super::{retarget::Retarget, session::Sticky};
use crate::{
    proxy::{shared::Shared, tunnel::TunnelOrigin},
    table::{Candidates, Endpoint, InUse, Rule},
};

/// A request that has a rule, with all that outlives the look at the table.
pub(crate) struct Routed {
    pub shared: Arc<Shared>,
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

/// The clock by which endpoints are said to be out of reach.
pub(crate) fn uptime() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

impl Routed {
    /// The next endpoint to try, counted from now on.
    pub(crate) fn pick(&mut self) -> Option<(Arc<Endpoint>, InUse)> {
        let endpoint = self.candidates.next(&mut self.rng, uptime())?;
        let in_use = endpoint.state.enter();
        self.tried = Some(endpoint.clone());
        Some((endpoint, in_use))
    }

    /// When a handshake has to have its answer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rule.policy.timeouts.handshake.map(|limit| self.started + limit)
    }

    /// The origin of a tunnel to this endpoint.
    pub(crate) fn origin(&self, endpoint: &Arc<Endpoint>) -> TunnelOrigin {
        TunnelOrigin {
            route: self.rule.route.clone(),
            rule: self.rule.name.clone(),
            service: self.candidates.service().clone(),
            endpoint: endpoint.clone(),
            client: self.client,
        }
    }
}
