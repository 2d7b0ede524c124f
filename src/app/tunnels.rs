//! Adapts the proxy's tunnels for the admin port.

use std::sync::Arc;

use crate::{
    admin::{EachWay, OpenTunnel, OpenTunnels},
    proxy::{TunnelHandle, Tunnels},
};

/// Lists the open tunnels on each call.
pub(super) fn open(tunnels: Arc<Tunnels>) -> OpenTunnels {
    Arc::new(move || Box::new(tunnels.list().into_iter().map(|tunnel| shown(&tunnel))))
}

fn shown(tunnel: &TunnelHandle) -> OpenTunnel {
    OpenTunnel {
        id: tunnel.id,
        route: tunnel.route.name.clone(),
        rule: tunnel.rule.clone(),
        service: tunnel.service.clone(),
        endpoint: tunnel.endpoint.name.clone(),
        client: tunnel.client,
        since: tunnel.since,
        bytes: EachWay::of(|direction| tunnel.bytes(direction)),
        frames: EachWay::of(|direction| tunnel.frames(direction)),
    }
}
