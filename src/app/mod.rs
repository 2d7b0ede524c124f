//! Wires everything together: a source of objects, the rebuild loop, the proxy, the admin port. Only the program
//! imports it.

mod control;
mod descriptors;
mod followed;
mod memory;
mod signals;
mod tunnels;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tracing::{info, warn};

use self::followed::{Meanwhile, follow};
use crate::{
    admin::{Admin, AdminLimits, ApiTokens, Readiness},
    args::{LogFormat, ServeArguments},
    compile::{self, Surroundings},
    metrics::{self, Metrics},
    proxy::{Listener, ProtectedFields, Proxy, Scheme, Settings, Tunnels, listen},
    source::{Changes, CurrentSettings, Report, manifest},
    table::{CurrentTable, HostnameOwners, SessionKeys, Tenancy},
};

/// The flag with the file of hostname owners.
const HOSTNAME_OWNERS: &str = "--hostname-owners";

/// What a serving command serves, and its defaults.
#[derive(Debug)]
pub struct ServePlan {
    /// Its flags.
    pub arguments: ServeArguments,
    /// The source of objects.
    pub objects: ObjectSource,
    /// The defaults of flags.
    pub defaults: Defaults,
}

/// The source of objects.
#[derive(Clone, Debug)]
pub enum ObjectSource {
    /// The cluster of the kubeconfig or of the pod.
    Cluster {
        /// The namespaces to watch; empty means the whole cluster.
        namespaces: Vec<String>,
    },
    /// A directory of manifests.
    Directory(PathBuf),
}

/// The defaults of flags.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// For plaintext HTTP.
    pub http: SocketAddr,
    /// For HTTPS.
    pub https: SocketAddr,
    /// For the admin port.
    pub admin: SocketAddr,
    /// Whether another port may be used if one of these is in use.
    pub any_port_will_do: bool,
    /// The port in redirects; `None` means the bound one.
    pub public_https_port: Option<u16>,
    /// How long to keep accepting after the first signal.
    pub shutdown_delay: Duration,
    /// The time over which tunnels are closed after that.
    pub drain_window: Duration,
}

/// The bound addresses.
#[derive(Clone, Debug)]
pub struct Bound {
    /// For plaintext HTTP; never empty.
    pub http: Vec<SocketAddr>,
    /// For HTTPS; never empty.
    pub https: Vec<SocketAddr>,
    /// For the admin port.
    pub admin: SocketAddr,
}

/// Sets up what the whole process needs, before anything else.
///
/// # Errors
/// If the log level is invalid.
pub fn prepare(arguments: &ServeArguments) -> anyhow::Result<()> {
    metrics::log::init(arguments.log_format == LogFormat::Json, &arguments.log_level)?;
    // For kube and everything else that asks rustls for the default provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(())
}

/// The runtime of the main thread. Connections are served by threads with their own runtimes.
///
/// # Errors
/// If the system cannot provide it.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Serves until a signal stops it; calls `serving` once the first table is published.
///
/// # Errors
/// If an address cannot be bound, a file cannot be read, or no cluster is found: nothing has been served then. Later,
/// if the control thread ends unexpectedly.
pub async fn serve(plan: ServePlan, serving: impl FnOnce(&Bound)) -> anyhow::Result<()> {
    let ServePlan { arguments, objects, defaults } = plan;
    let session_keys = session_keys(arguments.session_key_file.as_deref())?;
    let tokens = arguments.admin_token_file.as_deref().map(tokens).transpose()?;
    let (listeners, admin, bound) = bind(&arguments, &defaults)?;

    let (table, metrics, ready) =
        (Arc::new(CurrentTable::default()), Arc::new(Metrics::new()), Arc::<Readiness>::default());
    let tunnels = Arc::<Tunnels>::default();
    let (reports, reported) = tokio::sync::watch::channel(Report::default());
    let changes = Changes::default();
    let compile_settings = compile_settings(&arguments, &objects, &bound, &changes)?;
    let served = control::Served { table: table.clone(), metrics: metrics.clone(), tunnels: tunnels.clone() };
    let mut control = control::start(objects, compile_settings, changes, served, reports).await?;
    let encoder = metrics.clone();
    let descriptors = descriptors::connections();
    let admin_port = Admin {
        ready: ready.clone(),
        metrics: Arc::new(move || encoder.encode()),
        reports: reported.clone(),
        file_problems: control.file_problems.clone(),
        tunnels: tunnels::open(tunnels.clone()),
        tokens,
    };
    let limits = AdminLimits { connections: descriptors.admin, ..AdminLimits::default() };
    admin_port.start(admin.into_std()?, limits).context("cannot start the threads of the admin port")?;

    let mut first = reported;
    let mut signals = signals::Signals::new()?;
    tokio::select! {
        Ok(_) = first.wait_for(|report| report.generation > 0) => {}
        () = signals.next() => return Ok(()),
        ended = &mut control.ended => return Err(control::ended(ended)),
    }
    control.announced().await;
    ready.published();
    serving(&bound);

    let settings = settings(&arguments, &defaults, &bound, descriptors.clients);
    let proxy = Proxy { table, session_keys, settings, metrics, tunnels };
    let mut failure = None;
    let stop = async {
        tokio::select! {
            () = signals.next() => info!("stopping; a second signal exits at once"),
            ended = &mut control.ended => failure = Some(control::ended(ended)),
        }
        ready.stopping();
        control.resign();
        signals.exit_at_next();
    };
    proxy.run(listeners, stop).await.context("cannot start the serving threads")?;
    control.resigned().await;
    failure.map_or(Ok(()), Err)
}

/// The keys of the file, or a random one.
fn session_keys(file: Option<&Path>) -> anyhow::Result<Arc<ArcSwap<SessionKeys>>> {
    if let Some(file) = file {
        return follow("--session-key-file", file, |text| Ok(SessionKeys::parse(text)?), Meanwhile::Before, || ());
    }
    warn!(
        "no --session-key-file: session cookies are signed with a random key: sessions do not survive a restart and \
         are not shared between replicas"
    );
    Ok(Arc::new(ArcSwap::from_pointee(SessionKeys::random())))
}

/// The tokens of the file. If the file is emptied or removed, no token is accepted any more.
fn tokens(file: &Path) -> anyhow::Result<Arc<ArcSwap<ApiTokens>>> {
    follow("--admin-token-file", file, |text| Ok(ApiTokens::parse(text)?), Meanwhile::Only(ApiTokens::none), || ())
}

/// The compiler's settings, read again for each build. A change of the hostname owners triggers one.
fn compile_settings(
    arguments: &ServeArguments,
    objects: &ObjectSource,
    bound: &Bound,
    changes: &Changes,
) -> anyhow::Result<CurrentSettings> {
    let changes = changes.clone();
    let rebuild = move || changes.touch();
    let owners = arguments.hostname_owners.as_deref().map(|file| {
        follow(HOSTNAME_OWNERS, file, |text| Ok(manifest::hostname_owners(text)?), Meanwhile::Before, rebuild)
    });
    let owners = owners.transpose()?.unwrap_or_default();
    let shared = arguments.allow_shared_hostnames;
    if shared && arguments.hostname_owners.is_some() {
        warn!("{HOSTNAME_OWNERS} has no effect with --allow-shared-hostnames");
    }
    let (class, default_certificate) = (arguments.class.clone(), arguments.default_certificate.clone());
    let surroundings = match objects {
        ObjectSource::Cluster { .. } => Surroundings::Cluster { own: own_addresses(bound) },
        ObjectSource::Directory(_) => Surroundings::Machine { admin: bound.admin },
    };
    Ok(Box::new(move || compile::CompileSettings {
        class: class.clone(),
        tenancy: if shared { Tenancy::Shared } else { Tenancy::Separate(owners.load_full()) },
        default_certificate: default_certificate.clone(),
        surroundings,
    }))
}

/// The pod's own listening addresses, from the addresses passed by the chart.
fn own_addresses(bound: &Bound) -> &'static [SocketAddr] {
    let addresses = std::env::var("POD_IPS").unwrap_or_default();
    let addresses: Vec<IpAddr> = addresses.split(',').filter_map(|address| address.trim().parse().ok()).collect();
    let ports = || bound.http.iter().chain(&bound.https).chain([&bound.admin]).map(SocketAddr::port);
    let own = addresses.iter().flat_map(|address| ports().map(|port| SocketAddr::new(*address, port)));
    // Leaked once per process.
    own.collect::<Vec<_>>().leak()
}

/// The hostname owners in a file.
///
/// # Errors
/// If it cannot be read or used: the flag and the file, and for invalid content the line and field.
pub fn hostname_owners(file: &Path) -> anyhow::Result<HostnameOwners> {
    Ok(followed::read(HOSTNAME_OWNERS, file, |text| Ok(manifest::hostname_owners(text)?))?.1)
}

fn settings(arguments: &ServeArguments, defaults: &Defaults, bound: &Bound, max_connections: usize) -> Settings {
    let bound_port = bound.https.first().map(SocketAddr::port);
    let threads = arguments.threads.map_or_else(cores, usize::from);
    Settings {
        threads,
        held_per_thread: memory::held_per_thread(threads),
        public_https_port: arguments.public_https_port.or(defaults.public_https_port).or(bound_port),
        trusted_proxies: arguments.trusted_proxies.clone(),
        protected_fields: ProtectedFields::with(arguments.protected_fields.iter().cloned()),
        shutdown_delay: arguments.shutdown_delay.unwrap_or(defaults.shutdown_delay),
        drain_window: arguments.drain_window.unwrap_or(defaults.drain_window),
        max_connections,
        max_connections_per_client: arguments.max_connections_per_client,
        ..Settings::default()
    }
}

/// The number of processors available to the process.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn bind(arguments: &ServeArguments, defaults: &Defaults) -> anyhow::Result<(Vec<Listener>, TcpListener, Bound)> {
    let mut listeners = Vec::new();
    let mut bind_all = |wanted: &[SocketAddr], default, scheme, flag: &str| -> anyhow::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for socket in open(wanted, default, defaults.any_port_will_do, flag)? {
            bound.push(socket.local_addr()?);
            listeners.push(Listener { socket, scheme });
        }
        Ok(bound)
    };
    let http = bind_all(&arguments.http_listen, defaults.http, Scheme::Http, "http")?;
    let https = bind_all(&arguments.https_listen, defaults.https, Scheme::Https, "https")?;
    let admin = open(arguments.admin_listen.as_slice(), defaults.admin, defaults.any_port_will_do, "admin")?.remove(0);
    let bound = Bound { http, https, admin: admin.local_addr()? };
    Ok((listeners, admin, bound))
}

/// Binds the wanted addresses, or the default one if there are none, and prints a line for each on standard output,
/// which programs read.
fn open(wanted: &[SocketAddr], default: SocketAddr, any: bool, name: &str) -> anyhow::Result<Vec<TcpListener>> {
    let failed = |address| format!("--{name}-listen: cannot bind {address}");
    let sockets = match wanted {
        [] => {
            let bound = listen::bind(default)
                .or_else(|error| if any { listen::bind((default.ip(), 0).into()) } else { Err(error) });
            vec![bound.with_context(|| failed(default))?]
        }
        wanted => {
            let bind = |address: &SocketAddr| listen::bind(*address).with_context(|| failed(*address));
            wanted.iter().map(bind).collect::<anyhow::Result<_>>()?
        }
    };
    for socket in &sockets {
        println!("listening {name} {}", socket.local_addr()?);
    }
    Ok(sockets)
}
