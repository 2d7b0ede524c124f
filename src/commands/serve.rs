//! `switchyard controller` and `switchyard standalone`.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::{
    app::{self, Defaults, ObjectSource, ServePlan},
    args::{ControllerArguments, StandaloneArguments},
};

/// The defaults outside a cluster.
pub(super) const DEFAULTS: Defaults = Defaults {
    http: SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8080),
    https: SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8443),
    admin: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090),
    any_port_will_do: false,
    public_https_port: None,
    shutdown_delay: Duration::ZERO,
    drain_window: Duration::ZERO,
};

/// Serves the routes of a cluster.
///
/// # Errors
/// As [`app::serve`].
pub(super) fn controller(arguments: ControllerArguments) -> anyhow::Result<()> {
    let ControllerArguments { mut namespaces, serve } = arguments;
    namespaces.sort_unstable();
    namespaces.dedup();
    let defaults = Defaults {
        public_https_port: Some(443),
        shutdown_delay: Duration::from_secs(5),
        drain_window: Duration::from_secs(60),
        ..DEFAULTS
    };
    run(ServePlan { arguments: serve, objects: ObjectSource::Cluster { namespaces }, defaults })
}

/// Serves the routes of a directory.
///
/// # Errors
/// As [`app::serve`].
pub(super) fn standalone(arguments: StandaloneArguments) -> anyhow::Result<()> {
    let StandaloneArguments { manifests, serve } = arguments;
    run(ServePlan { arguments: serve, objects: ObjectSource::Directory(manifests), defaults: DEFAULTS })
}

fn run(plan: ServePlan) -> anyhow::Result<()> {
    app::prepare(&plan.arguments)?;
    let runtime = app::runtime()?;
    let served = runtime.block_on(app::serve(plan, |_| {}));
    // Connections that still wait for a peer have had their time.
    runtime.shutdown_background();
    served
}
