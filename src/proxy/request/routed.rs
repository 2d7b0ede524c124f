//! A request that has its rule: the starting point for serving it, as a plain request or an upgrade.

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

/// A request that has a rule, with everything that is needed after the table has been released.
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
    /// How to write the target to the backend, if not as hyper has it.
    pub retarget: Option<Retarget>,
}

/// The clock for marking endpoints as unreachable.
pub(crate) fn uptime() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

impl Routed {
    /// The next endpoint to try; counts the request there from now on.
    pub(crate) fn pick(&mut self) -> Option<(Arc<Endpoint>, InUse)> {
        let endpoint = self.candidates.next(&mut self.rng, uptime())?;
        let in_use = endpoint.state.enter();
        self.tried = Some(endpoint.clone());
        Some((endpoint, in_use))
    }

    /// The deadline for the response to a handshake.
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
