//! The spec that users write.
#![allow(unreachable_pub, reason = "KubeSchema repeats each type inside a function")]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{Chosen, Duration, RouteMatch, WebSocketRouteStatus, hostname::Hostname, patterns};
use crate::choices::{
    Algorithm, DEFAULT_CLASS_NAME, DEFAULT_WEIGHT, EscapedSlashes, InsecurePolicy, KeepaliveTarget, LifetimeType,
    NonUpgrade, SameSite, Secure, SessionPersistenceType,
};

/// Where the sockets of one or more hostnames go, and how they are kept there.
#[allow(clippy::duplicated_attributes, reason = "each printcolumn has a name and a type of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, CustomResource, KubeSchema)]
#[kube(
    group = "switchyard.dev",
    version = "v1alpha1",
    kind = "WebSocketRoute",
    plural = "websocketroutes",
    shortname = "wsr",
    namespaced,
    status = "WebSocketRouteStatus",
    derive = "PartialEq",
    doc = "WebSocketRoute says where the WebSocket connections, and the plain HTTP requests beside them, of one or \
           more hostnames go.",
    printcolumn(name = "Hosts", type_ = "string", json_path = ".spec.hostnames"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(
        name = "Resolved",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"ResolvedRefs\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WebSocketRouteSpec {
    /// Which controller serves the route: the one started with this `--class`. Default: `switchyard`.
    #[serde(default = "default_class_name")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::DNS_LABEL)).message("must be a DNS label: lower-case letters, digits and -"))]
    pub class_name: String,

    /// The hosts that the route answers for, at most 16. `*.example.com` stands for one or more labels below
    /// `example.com`, not for `example.com` itself. Default: every host that no other route names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Hostname>", length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub hostnames: Vec<String>,

    /// TLS of these hostnames. Default: they are served in plaintext only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// What to do with requests, by what they ask for; 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new(
            "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && other.name == one.name))"
        ).message("the names of the rules of a route must differ")
    )]
    pub rules: Vec<RouteRule>,
}

/// A CEL rule for a text that matches.
pub(super) fn matches(pattern: &str) -> String {
    format!("self.matches('{pattern}')")
}

/// TLS of a route's hostnames.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Secrets of type `kubernetes.io/tls` in the route's namespace, 1 to 8. Among several, the one is sent whose
    /// names cover the host and whose key the client can verify; else the first.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub certificate_refs: Vec<CertificateRef>,

    /// What happens to requests for these hostnames that come without TLS. `Redirect` (default) answers 308 with the
    /// https or wss URL, `Allow` serves them, `Deny` answers 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_policy: Option<Chosen<InsecurePolicy>>,
}

/// A Secret with a certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(matches(patterns::SECRET_NAME))
        .message("must be the name of a Secret: lower-case letters, digits, - and ."))]
    pub name: String,
}

/// One rule: which requests, where to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(format!(
        "!has(self.matches) || has(self.escapedSlashes) && self.escapedSlashes == 'Keep' \
         || !self.matches.exists(one, has(one.path) && one.path.value.matches('{}'))",
        patterns::ESCAPED_SLASH
    ))
        .message("a path with %2F or %5C needs escapedSlashes: Keep; requests with such a path are otherwise refused \
                  with 400"),
)]
pub struct RouteRule {
    /// Name of the rule, for logs; unique within the route. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::DNS_LABEL)).message("must be a DNS label: lower-case letters, digits and -"))]
    pub name: Option<String>,

    /// The requests that the rule is for: those that any of up to 16 matches fits. Default: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub matches: Vec<RouteMatch>,

    /// Where new sessions go, 1 to 16. One is drawn by weight, then an endpoint in it by `loadBalancing`.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub backend_refs: Vec<BackendRef>,

    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// Pings that the proxy itself sends (RFC 6455 §5.5.2), which keep quiet tunnels open and find those whose other
    /// end is gone. Their pongs go no further than the proxy; neither counts for `timeouts.idle`. Default: clients are
    /// pinged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,

    /// Keeps all requests of a session, upgrades and plain ones, on one endpoint. Sessions belong to the rule by its
    /// name, or by its position where it has none: name a rule that may move. Default: none, no cookie is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,

    /// How an endpoint is chosen for a new session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,

    /// What happens to requests that are no WebSocket upgrade. `Proxy` (default) passes them to the backend as
    /// HTTP/1.1, `Reject` answers 426 with an explanation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_upgrade_requests: Option<Chosen<NonUpgrade>>,

    /// What happens to requests whose path contains %2F or %5C, an escaped slash or backslash. `Reject` (default)
    /// answers 400, because some backends take the escape for a separator and others do not. `Keep` passes the path on
    /// as it was sent and matches the escape as an ordinary character; dot segments between escaped slashes are still
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes: Option<Chosen<EscapedSlashes>>,
}

/// A port of a Service, and its share of new sessions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Name of a Service in the route's namespace.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::DNS_LABEL)).message("must be the name of a Service: lower-case letters, digits and -"))]
    pub name: String,

    /// A `spec.ports[].port` of the Service, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Its share of new sessions beside the other references, 0 to 1000000. Default: 1. At 0 it gets no new
    /// sessions; existing ones stay.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

/// How long things may take. `0s` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Upgrade requests only: from the whole request head to the backend's 101 or other final answer; then 504.
    /// Default: 10s. `0s`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Duration>,

    /// Other requests: from the head as passed on to the head of the answer; then 504. Default: 0s, no limit, since
    /// long polls wait 25 seconds and more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Duration>,

    /// One attempt to connect to an endpoint; then the next endpoint is tried. Default: 5s. `0s`: no limit but the
    /// operating system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_connect: Option<Duration>,

    /// A tunnel in which no byte moved either way for so long is ended. Default: 0s, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,

    /// A tunnel is ended after this long, shortened by a random share of up to 10 %. Default: 0s, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,
}

/// Pings that the proxy itself sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Keepalive {
    /// Who is pinged: `Client` (default), `Backend`, `Both`, or `None`, which is nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Chosen<KeepaliveTarget>>,

    /// A target that sent nothing for so long is sent a ping. Default: 25s, which is less than what proxies and
    /// networks on the way usually take for idle. `0s`: no pings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_interval: Option<Duration>,

    /// A tunnel whose target sends nothing, be it the pong or anything else, for so long after a ping left is ended,
    /// with the cause `ping_timeout`. Default: 20s. `0s`: never, and pings are sent all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_timeout: Option<Duration>,
}

/// How the requests of a session are recognised.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.cookie) || !has(self.cookie.lifetimeType) || self.cookie.lifetimeType != 'Permanent' \
        || has(self.absoluteTimeout) && self.absoluteTimeout.matches('[1-9]')")
        .message("a Permanent cookie needs absoluteTimeout, which becomes its Max-Age"),
)]
pub struct SessionPersistence {
    /// `Cookie` (default): by a cookie that Switchyard sets.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<Chosen<SessionPersistenceType>>,

    /// The cookie's attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,

    /// The age at which a session is given a new endpoint. Default: 0s, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Duration>,
}

/// Attributes of the session cookie (RFC 6265bis).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.sameSite) || self.sameSite != 'None' || !has(self.secure) || self.secure != 'Never'")
        .message("sameSite None needs a secure cookie: browsers refuse it with secure Never"),
    validation = Rule::new("!has(self.partitioned) || !self.partitioned || !has(self.secure) || self.secure != 'Never'")
        .message("a partitioned cookie must be secure: browsers refuse it with secure Never"),
)]
pub struct Cookie {
    /// Name of the cookie, at most 63 characters. Default: `switchyard-` and 8 hexadecimal digits of a hash of the
    /// route's namespace and name and of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::TOKEN))
        .message("must be a cookie name: letters, digits and -!#$%&*+.^_`|~"))]
    pub name: Option<String>,

    /// The paths to which browsers send it. Default: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(matches(patterns::COOKIE_PATH))
        .message("must begin with / and hold visible ASCII characters only, without ;"))]
    pub path: Option<String>,

    /// `Session` (default): the browser forgets it when it ends. `Permanent`: it keeps it for `absoluteTimeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<Chosen<LifetimeType>>,

    /// Whether browsers send it with requests from other sites: `Lax` (default), `Strict` or `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<Chosen<SameSite>>,

    /// Whether browsers send it over TLS only. `Auto` (default): when the client came over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<Chosen<Secure>>,

    /// Whether it is hidden from scripts. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,

    /// Whether browsers keep it apart for each top-level site (CHIPS). Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitioned: Option<bool>,
}

/// How an endpoint is chosen for a new session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// `LeastConnections` (default): the endpoint with the fewest open tunnels and requests of this proxy, ties at
    /// random. `RoundRobin`: each in turn. `Random`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Chosen<Algorithm>>,
}

fn default_class_name() -> String {
    DEFAULT_CLASS_NAME.to_owned()
}

fn default_weight() -> i32 {
    DEFAULT_WEIGHT
}
