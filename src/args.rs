//! The command line: flags, their meaning and their defaults.
#![allow(rustdoc::broken_intra_doc_links, reason = "the comments are the text of --help, where [::] is an address")]

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, builder::Resettable};
use ipnet::IpNet;

use crate::{
    api,
    table::{ObjectName, is_dns_label},
};

/// Kubernetes controller and proxy for WebSocket traffic.
#[derive(Debug, Parser)]
#[command(name = "switchyard", version, propagate_version = true, arg_required_else_help = true)]
pub struct Arguments {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a cluster and serve its WebSocketRoutes
    Controller(ControllerArguments),
    /// Serve the WebSocketRoutes of a directory of Kubernetes YAML
    Standalone(StandaloneArguments),
    /// Try Switchyard: two echo servers, a certificate and manifests to edit, in a temporary directory
    Demo(ServeArguments),
    /// Validate manifests as the controller would; exits with 1 if there are problems
    Check(CheckArguments),
    /// Print the CustomResourceDefinition
    Crd,
    /// Connect to URLs as a client would and report the results; exits with 1 if any fails
    Probe(ProbeArguments),
}

/// Flags of `controller`.
#[derive(Debug, Args)]
pub struct ControllerArguments {
    /// Watch only these namespaces, so that the account needs permissions in no others; must be the same on all
    /// replicas. The Secret of --default-certificate must be in one of them [default: the whole cluster]
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', value_parser = dns_label, env = "SWITCHYARD_NAMESPACES")]
    pub namespaces: Vec<String>,
    /// The flags of all serving commands.
    #[command(flatten)]
    pub serve: ServeArguments,
}

/// Flags of `standalone`.
#[derive(Debug, Args)]
pub struct StandaloneArguments {
    /// Directory of ordinary Kubernetes YAML: WebSocketRoute, Service, EndpointSlice, Secret. It is watched: saving a
    /// file reroutes traffic
    #[arg(long, value_name = "DIR", env = "SWITCHYARD_MANIFESTS")]
    pub manifests: PathBuf,
    /// The flags of all serving commands.
    #[command(flatten)]
    pub serve: ServeArguments,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Files or directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Validate each object by itself, as the API server does, without checking that referenced objects exist
    #[arg(long)]
    pub objects_only: bool,
    /// Validate routes of this class
    #[arg(long, default_value = api::DEFAULT_CLASS_NAME, value_parser = dns_label, env = "SWITCHYARD_CLASS")]
    pub class: String,
    /// Let several namespaces use the same hostname, or names under the same wildcard; --hostname-owners then has no
    /// effect
    #[arg(long, env = "SWITCHYARD_ALLOW_SHARED_HOSTNAMES")]
    pub allow_shared_hostnames: bool,
    /// YAML file that reserves hostnames for namespaces, as for the serving commands [default: none]
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_HOSTNAME_OWNERS")]
    pub hostname_owners: Option<PathBuf>,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// http, https, ws or wss URLs, tried in turn
    #[arg(required = true, value_name = "URL", value_parser = probe_url)]
    pub urls: Vec<http::Uri>,
    /// Expected HTTP status [default: any below 500; for ws and wss, 101]
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(100..=599))]
    pub expect_status: Option<u16>,
    /// Accept any HTTP status
    #[arg(long, conflicts_with = "expect_status")]
    pub any_status: bool,
    /// Time limit for each URL, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// Connect to this address, such as 127.0.0.1:8443, instead of the host in the URL
    #[arg(long, value_name = "HOST:PORT")]
    pub connect_to: Option<String>,
    /// PEM file with the CA certificates to trust [default: the system's]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long)]
    pub insecure: bool,
}

/// Flags of the serving commands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Serving")]
pub struct ServeArguments {
    /// Address for plaintext HTTP; repeatable; port 0 picks a free one [default: [::]:8080; demo: 127.0.0.1:8080, or a
    /// free port]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', env = "SWITCHYARD_HTTP_LISTEN")]
    pub http_listen: Vec<SocketAddr>,
    /// Address for HTTPS; repeatable; port 0 picks a free one [default: [::]:8443; demo: 127.0.0.1:8443, or a free
    /// port]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', env = "SWITCHYARD_HTTPS_LISTEN")]
    pub https_listen: Vec<SocketAddr>,
    /// Port of https and wss URLs in redirects [default: 443; standalone and demo: the port of the first
    /// --https-listen]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), env = "SWITCHYARD_PUBLIC_HTTPS_PORT")]
    pub public_https_port: Option<u16>,
    /// Address for probes, metrics and the read-only API, which serves loopback clients, and others with a token
    /// [default: 127.0.0.1:9090; demo: the same, or a free port]
    #[arg(long, value_name = "ADDRESS", env = "SWITCHYARD_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,
    /// File of bearer tokens that give remote clients access to the API: one per line, at least 20 characters each.
    /// Reloaded when it changes; while it is unusable, no token is accepted [default: loopback clients only]
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Serve the routes with this className
    #[arg(long, default_value = api::DEFAULT_CLASS_NAME, value_parser = dns_label, env = "SWITCHYARD_CLASS")]
    pub class: String,
    /// Worker threads [default: one per processor]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024), env = "SWITCHYARD_THREADS")]
    pub threads: Option<u16>,
    /// Secret of type kubernetes.io/tls whose certificate is sent to TLS clients without SNI, or with a name that has
    /// no TLS [default: none, such handshakes fail]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_name, env = "SWITCHYARD_DEFAULT_CERTIFICATE")]
    pub default_certificate: Option<ObjectName>,
    /// File of session cookie keys: base64 of at least 32 random bytes per line. The first signs, all verify; reloaded
    /// when it changes [default: a random key, so sessions do not survive a restart and are not shared between
    /// replicas]
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_SESSION_KEY_FILE")]
    pub session_key_file: Option<PathBuf>,
    /// Networks of proxies whose X-Forwarded-* and Forwarded fields are trusted, such as 10.0.0.0/8 [default: none]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network, env = "SWITCHYARD_TRUSTED_PROXIES")]
    pub trusted_proxies: Vec<IpNet>,
    /// Further request fields that only trusted proxies may send, such as X-Team; removed from all other requests, like
    /// those listed in docs/security.md
    #[arg(long, value_name = "FIELD", value_delimiter = ',', value_parser = protected_field, env = "SWITCHYARD_PROTECTED_FIELDS")]
    pub protected_fields: Vec<String>,
    /// Maximum number of open connections per client address on the public listeners (per /64 for IPv6); further ones
    /// are closed at once. Addresses in --trusted-proxies are exempt. Leave it at 0, no limit, if a load balancer hides
    /// the client addresses
    #[arg(long, value_name = "NUMBER", default_value_t = 0, env = "SWITCHYARD_MAX_CONNECTIONS_PER_CLIENT")]
    pub max_connections_per_client: u32,
    /// Let several namespaces use the same hostname, or names under the same wildcard; otherwise a hostname belongs to
    /// the namespace of the oldest route that names it, exactly or by a wildcard. --hostname-owners then has no effect
    #[arg(long, env = "SWITCHYARD_ALLOW_SHARED_HOSTNAMES")]
    pub allow_shared_hostnames: bool,
    /// YAML file that reserves hostnames for namespaces, regardless of which route is older, and even while they have
    /// none: a map from namespace to a list of hostnames and wildcards, as in `shop: [example.com, "*.example.com"]`.
    /// The most specific entry decides. Reloaded when it changes; while it is unusable, the previous content applies
    /// [default: none]
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_HOSTNAME_OWNERS")]
    pub hostname_owners: Option<PathBuf>,
    /// How long to keep accepting connections after SIGTERM, no longer ready, until load balancers notice; such as 5s
    /// [default: 5s in a cluster, otherwise 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "SWITCHYARD_SHUTDOWN_DELAY")]
    pub shutdown_delay: Option<Duration>,
    /// Time after that over which open tunnels are closed, spread at random; such as 60s [default: 60s in a cluster,
    /// otherwise 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration, env = "SWITCHYARD_DRAIN_WINDOW")]
    pub drain_window: Option<Duration>,
    /// Log format; the log goes to standard error
    #[arg(long, value_enum, default_value = "text", env = "SWITCHYARD_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Log level: off, error, warn, info, debug or trace, optionally per module, as in `info,switchyard::proxy=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_level, env = "SWITCHYARD_LOG_LEVEL")]
    pub log_level: String,
}

/// Log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

impl Arguments {
    /// Parses the command line of this process; on incorrect usage, exits with 2.
    #[must_use]
    pub fn of_this_process() -> Self {
        let mut command =
            ignoring(Self::command(), |name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// Makes a command ignore some environment variables. Deployment tools set variables to empty strings where no value
/// was given, and mean them as unset.
fn ignoring(command: clap::Command, is_ignored: impl Fn(&OsStr) -> bool + Copy) -> clap::Command {
    let command = command.mut_subcommands(|command| ignoring(command, is_ignored));
    command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_ignored(name) => arg.env(Resettable::Reset),
        _ => arg,
    })
}

fn probe_url(text: &str) -> Result<http::Uri, String> {
    let url = text.parse::<http::Uri>().ok().filter(|url| url.host().is_some_and(|host| !host.is_empty()));
    url.filter(|url| url.scheme_str().is_some_and(|scheme| ["http", "https", "ws", "wss"].contains(&scheme)))
        .ok_or_else(|| "must be an http, https, ws or wss URL, such as wss://chat.example.com/ws".into())
}

fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("must be NAMESPACE/NAME, such as ingress/wildcard-tls".into()),
    }
}

fn dns_label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        Ok(text.to_owned())
    } else {
        Err("must be a DNS label: lower-case letters, digits and -, at most 63".into())
    }
}

/// A network; a single address is a network of its own.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        "must be a network such as 10.0.0.0/8 or 2001:db8::/32, or an address; separate several with commas".into()
    })
}

/// A field that the proxy can remove from requests.
fn protected_field(text: &str) -> Result<String, String> {
    const NEEDED: [&str; 6] = ["connection", "content-length", "cookie", "host", "transfer-encoding", "upgrade"];
    let name = text.parse::<http::HeaderName>().map_err(|_| "must be the name of a request field, such as X-Team")?;
    if NEEDED.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-") {
        return Err("must not be a field that every request needs, such as Host or Sec-WebSocket-Key".into());
    }
    Ok(name.to_string())
}

/// Checked here because the log filter would take a misspelt level as a module name and drop everything else.
fn log_level(text: &str) -> Result<String, String> {
    let (parts, whole): (Vec<&str>, Vec<&str>) = text.split(',').partition(|directive| directive.contains('='));
    let is_part =
        |directive: &&str| directive.split_once('=').is_some_and(|(name, level)| is_target(name) && is_level(level));
    if whole.len() <= 1 && whole.iter().copied().all(is_level) && parts.iter().all(is_part) {
        Ok(text.to_owned())
    } else {
        Err("must be off, error, warn, info, debug or trace, then PART=LEVEL for any parts, as in \
             info,switchyard::proxy=debug"
            .into())
    }
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| text.eq_ignore_ascii_case(level))
}

/// A module path.
fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<api::Duration>().map(api::Duration::to_std).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(arguments: &[&str]) -> ServeArguments {
        let arguments = ["switchyard", "demo"].iter().chain(arguments);
        match Arguments::try_parse_from(arguments).unwrap().command {
            Command::Demo(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn levels_are_those_of_the_log_for_all_and_for_parts() {
        for level in ["off", "INFO", "info,switchyard::proxy=debug", "switchyard=trace", "kube_client=off,warn"] {
            assert_eq!(served(&["--log-level", level]).log_level, level);
        }
    }

    #[test]
    fn an_address_is_a_network_of_its_own() {
        let networks = served(&["--trusted-proxies=10.0.0.1,2001:db8::1,192.0.2.0/24"]).trusted_proxies;
        let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.1/32", "2001:db8::1/128", "192.0.2.0/24"]);
    }

    #[test]
    fn ignored_variables_are_ignored_in_every_command() {
        let command = ignoring(Arguments::command(), |name| name != "SWITCHYARD_CLASS");
        for command in command.get_subcommands() {
            let read: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
            assert!(read.iter().all(|name| *name == "SWITCHYARD_CLASS"), "{read:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_flag_of_the_serving_commands_has_an_environment_variable() {
        let command = Arguments::command();
        for name in ["controller", "standalone", "demo"] {
            let command = command.find_subcommand(name).unwrap();
            for flag in command.get_arguments().filter(|flag| flag.get_long().is_some()) {
                let wanted = format!("SWITCHYARD_{}", flag.get_id().as_str().to_uppercase());
                assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(wanted.as_str()), "{name}");
            }
        }
    }

    #[test]
    fn wrong_values_are_refused_with_the_way_to_write_them() {
        for (arguments, mending) in [
            (["demo", "--default-certificate=wildcard"], "NAMESPACE/NAME"),
            (["demo", "--shutdown-delay=5"], "such as 10s"),
            (["demo", "--threads=0"], "1..=1024"),
            (["demo", "--trusted-proxies=10.0.0.1/40"], "such as 10.0.0.0/8"),
            (["demo", "--trusted-proxies=proxy.example.com"], "such as 10.0.0.0/8"),
            (["demo", "--protected-fields=a b"], "such as X-Team"),
            (["demo", "--protected-fields=X-Team,host"], "such as Host"),
            (["demo", "--protected-fields=Sec-WebSocket-Key"], "such as Host"),
            (["demo", "--public-https-port=0"], "1..=65535"),
            (["demo", "--class=Main"], "must be a DNS label"),
            (["demo", "--class="], "--class"),
            (["controller", "--class=main-"], "must be a DNS label"),
            (["demo", "--log-level=loud"], "must be off, error, warn, info, debug or trace"),
            (["demo", "--log-level=info,"], "must be off"),
            (["demo", "--log-level=info,debug"], "must be off"),
            (["demo", "--log-level=switchyard=loud"], "must be off"),
            (["demo", "--log-level=info,=debug"], "must be off"),
            (["probe", "chat.example.com"], "such as wss://chat.example.com/ws"),
            (["probe", "ftp://chat.example.com"], "such as wss://chat.example.com/ws"),
            (["probe", "http:///ws"], "such as wss://chat.example.com/ws"),
        ] {
            let error = Arguments::try_parse_from(["switchyard"].into_iter().chain(arguments)).unwrap_err();
            assert!(error.to_string().contains(mending), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
