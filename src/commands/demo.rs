//! `switchyard demo`: something to try, without a cluster or any files.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context;

use super::{
    demo_manifests::{self, CERTIFICATE, DemoCertificate, NAMESPACE, ROUTE_FILE},
    echo,
    serve::DEFAULTS,
};
use crate::{
    app::{self, Bound, Defaults, ObjectSource, ServePlan},
    args::ServeArguments,
    table::ObjectName,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Serves two echo servers from a directory of manifests in a temporary directory, until it is stopped.
///
/// # Errors
/// If the temporary directory cannot be written, or as [`app::serve`].
pub(super) fn run(mut arguments: ServeArguments) -> anyhow::Result<()> {
    app::prepare(&arguments)?;
    let runtime = app::runtime()?;
    let directory = tempfile::Builder::new().prefix("switchyard-demo-").tempdir();
    let directory = directory.context("cannot create a temporary directory")?;
    arguments.default_certificate.get_or_insert_with(|| ObjectName::new(NAMESPACE, CERTIFICATE));
    let defaults = Defaults {
        http: SocketAddr::new(LOOPBACK, 8080),
        https: SocketAddr::new(LOOPBACK, 8443),
        any_port_will_do: true,
        ..DEFAULTS
    };
    let served = runtime.block_on(async {
        let (blue, green) = (echo::start("blue").await?, echo::start("green").await?);
        demo_manifests::write(directory.path(), &[("blue", blue), ("green", green)], &DemoCertificate::generate()?)?;
        let plan = ServePlan { arguments, objects: ObjectSource::Directory(directory.path().to_owned()), defaults };
        app::serve(plan, |bound| explain(bound, directory.path())).await
    });
    runtime.shutdown_background();
    served
}

fn explain(bound: &Bound, directory: &Path) {
    let (http, https) = (reachable(bound.http[0]), reachable(bound.https[0]));
    println!(
        "
Two echo servers, blue and green, behind one route, which goes to blue.

  ws://{http}/      wss://{https}/      (the certificate is self-signed)

Try it:
  a browser    http://{http}/
  curl         curl -i http://{http}/
  a socket     curl -i -N --max-time 2 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \\
                 -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://{http}/

Reroute it: change blue to green in
  {}
The next connection goes to green; open sockets stay with blue.

Routes served now: http://{}/api/v1/routes
Press Ctrl-C to stop.
",
        directory.join(ROUTE_FILE).display(),
        reachable(bound.admin),
    );
}

/// The address to connect to, which is loopback if an unspecified address is bound.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() { SocketAddr::new(LOOPBACK, bound.port()) } else { bound }
}
