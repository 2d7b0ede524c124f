//! The spec that users write.
#![allow(unreachable_pub, reason = "KubeSchema repeats each type inside a function")]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    Chosen, Duration, RouteMatch, WebSocketRouteStatus,
    entries::{Hostname, Network},
    patterns,
};
use crate::choices::{
    Algorithm, DEFAULT_CLASS_NAME, DEFAULT_WEIGHT, EscapedSlashes, InsecurePolicy, KeepaliveTarget, LifetimeType,
    NonUpgrade, SameSite, Secure, SessionPersistenceType,
};

/// Where WebSocket connections to one or more hostnames go, and how they are kept there.
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
    doc = "WebSocketRoute routes the WebSocket connections, and the plain HTTP requests on the same paths, of one or \
           more hostnames.",
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
    /// The class of the controller that serves the route, as in its `--class`. Default: `switchyard`.
    #[serde(default = "default_class_name")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::DNS_LABEL)).message("must be a DNS label: lower-case letters, digits and -"))]
    pub class_name: String,

    /// The hostnames of the route, at most 16. `*.example.com` matches one or more labels in front of `example.com`,
    /// but not `example.com` itself. Default: every host that no other route names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Hostname>", length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub hostnames: Vec<String>,

    /// TLS settings of these hostnames. Default: served in plaintext only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Rules for requests to these hostnames, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new(
            "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && other.name == one.name))"
        ).message("rule names must be unique within a route")
    )]
    pub rules: Vec<RouteRule>,
}

/// A CEL rule that requires a match.
pub(super) fn matches(pattern: &str) -> String {
    format!("self.matches('{pattern}')")
}

/// TLS settings of a route's hostnames.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Secrets of type `kubernetes.io/tls` in the route's namespace, 1 to 8. If there are several, the one is sent
    /// whose names cover the host and whose key type the client supports; otherwise the first.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub certificate_refs: Vec<CertificateRef>,

    /// What happens to requests for these hostnames that arrive without TLS. `Redirect` (default) responds with 308 and
    /// the https or wss URL, `Allow` serves them, `Deny` responds with 403.
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

/// A rule: which requests it matches, where they go, and how.
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
    /// Name of the rule, used in logs; unique within the route. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::DNS_LABEL)).message("must be a DNS label: lower-case letters, digits and -"))]
    pub name: Option<String>,

    /// Matches, up to 16; the rule applies to requests that satisfy any of them. Default: all requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub matches: Vec<RouteMatch>,

    /// Backends for new sessions, 1 to 16. One is chosen by weight, then an endpoint within it by `loadBalancing`.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub backend_refs: Vec<BackendRef>,

    /// Timeouts of requests and tunnels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// Pings that the proxy sends itself (RFC 6455 §5.5.2), to keep quiet tunnels open and detect dead peers. The proxy
    /// consumes their pongs; neither counts for `timeouts.idle`. Default: ping clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,

    /// Keeps all requests of a session, both upgrades and plain requests, on one endpoint. Sessions belong to a rule by
    /// its name, or by its position if it has none: name a rule that may move. Default: none, and no cookie is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,

    /// How an endpoint is chosen for a new session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,

    /// Clients whose requests are served, by their address; the others get 403. Default: all clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Clients>,

    /// What happens to requests that are not WebSocket upgrades. `Proxy` (default) forwards them to the backend as
    /// HTTP/1.1, `Reject` responds with 426 and an explanation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_upgrade_requests: Option<Chosen<NonUpgrade>>,

    /// What happens to requests whose path contains %2F or %5C, an escaped slash or backslash. `Reject` (default)
    /// responds with 400, because some backends treat the escape as a separator and others do not. `Keep` forwards the
    /// path unchanged and matches the escape as an ordinary character; dot segments between escaped slashes are still
    /// rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes: Option<Chosen<EscapedSlashes>>,
}

/// A port of a Service, with its share of new sessions.
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

    /// Share of new sessions relative to the other references, 0 to 1000000. Default: 1. With 0, it gets no new
    /// sessions; existing ones stay.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

/// Networks of clients. The client's address is that of the connection or, if that is a trusted proxy, the rightmost
/// address in `X-Forwarded-For` that is not one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Clients {
    /// Networks whose clients are served, at most 64, such as `10.0.0.0/8` or `2001:db8::/32`. Default: all networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Network>", length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub allow: Vec<String>,

    /// Networks whose clients are not served, at most 64, even if `allow` contains them. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Network>", length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub deny: Vec<String>,
}

/// Timeouts of requests and tunnels. `0s` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For upgrade requests only: from the complete request head to the backend's 101 or other final response head;
    /// then 504. Default: 10s. `0s`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Duration>,

    /// For other requests: from the forwarded head to the response head; then 504. Default: 0s, no limit, because long
    /// polls wait 25 seconds or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Duration>,

    /// One connection attempt to an endpoint; then the next endpoint is tried. Default: 5s. `0s`: no limit except the
    /// operating system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_connect: Option<Duration>,

    /// Closes a tunnel after this long without any bytes in either direction. Default: 0s, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,

    /// Closes a tunnel after this long, shortened by a random 0 to 10 %. Default: 0s, never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,
}

/// Pings that the proxy sends itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Keepalive {
    /// Who is pinged: `Client` (default), `Backend`, `Both`, or `None` for nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Chosen<KeepaliveTarget>>,

    /// Sends a ping to a target that has sent nothing for this long. Default: 25s, which is below the usual idle
    /// timeouts of proxies and networks on the way. `0s`: no pings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_interval: Option<Duration>,

    /// Closes a tunnel whose target sends nothing, neither the pong nor anything else, for this long after a ping was
    /// sent, with the cause `ping_timeout`. Default: 20s. `0s`: never; pings are still sent.
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

    /// Attributes of the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,

    /// Maximum age of a session; an older one gets a new endpoint. Default: 0s, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Duration>,
}

/// Attributes of the session cookie (RFC 6265bis).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.sameSite) || self.sameSite != 'None' || !has(self.secure) || self.secure != 'Never'")
        .message("sameSite None needs a secure cookie: browsers reject it with secure Never"),
    validation = Rule::new("!has(self.partitioned) || !self.partitioned || !has(self.secure) || self.secure != 'Never'")
        .message("a partitioned cookie must be secure: browsers reject it with secure Never"),
)]
pub struct Cookie {
    /// Name of the cookie, at most 63 characters. Default: `switchyard-` followed by 8 hexadecimal digits of a hash of
    /// the route's namespace and name and the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::TOKEN))
        .message("must be a cookie name: letters, digits and -!#$%&*+.^_`|~"))]
    pub name: Option<String>,

    /// Path for which browsers send the cookie. Default: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(matches(patterns::COOKIE_PATH))
        .message("must begin with / and contain only visible ASCII characters except ;"))]
    pub path: Option<String>,

    /// `Session` (default): until the browser session ends. `Permanent`: for `absoluteTimeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<Chosen<LifetimeType>>,

    /// Whether browsers send the cookie with cross-site requests: `Lax` (default), `Strict` or `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<Chosen<SameSite>>,

    /// Whether browsers send the cookie only over TLS: `Auto` (default, if the client connected over TLS), `Always` or
    /// `Never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<Chosen<Secure>>,

    /// Whether the cookie is hidden from scripts. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,

    /// Whether browsers partition the cookie by top-level site (CHIPS). Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitioned: Option<bool>,
}

/// How an endpoint is chosen for a new session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// `LeastConnections` (default): the endpoint with the fewest open tunnels and requests through this proxy, ties
    /// broken at random. `RoundRobin`: each in turn. `Random`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Chosen<Algorithm>>,
}

fn default_class_name() -> String {
    DEFAULT_CLASS_NAME.to_owned()
}

fn default_weight() -> i32 {
    DEFAULT_WEIGHT
}
