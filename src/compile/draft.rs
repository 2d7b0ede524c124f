//! One route's spec, understood as far as it can be without looking at anything else.

use std::{sync::Arc, time::SystemTime};

use crate::{
    api::{
        self, BackendRef, ConditionReason, Cookie, Duration, Fault, LoadBalancing, PartialRule, PathMatch,
        PathMatchType, RouteMatch, RouteObject, RouteRule, SessionPersistence, Tls, UnreadableSpec, WebSocketRouteSpec,
    },
    table::{
        Algorithm, AmbiguousPath, Conditions, EscapedSlashes, HostOwner, HostPattern, InsecurePolicy, Keepalive,
        NonUpgrade, NormalPath, ObjectName, PathPattern, Persistence, Pings, Secure, Timeouts,
    },
};

use super::{
    Problem, object_name,
    text::{is_dns_label, printable},
};

/// A route as it is meant, with all that is wrong with it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) uid: Option<Arc<str>>,
    pub(super) created: Option<SystemTime>,
    pub(super) generation: i64,
    /// Whether the rules are known; if not, only the hostnames are, and TLS.
    pub(super) readable: bool,
    pub(super) hostnames: Arc<[HostPattern]>,
    pub(super) tls: Option<TlsDraft>,
    pub(super) rules: Vec<RuleDraft>,
    pub(super) problems: Vec<Problem>,
}

/// TLS as a route wants it. Two routes want the same when these are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsDraft {
    pub(super) secrets: Vec<ObjectName>,
    pub(super) insecure_policy: InsecurePolicy,
}

/// A rule as it is meant.
#[derive(Debug)]
pub(super) struct RuleDraft {
    pub(super) name: Arc<str>,
    /// Why it cannot be served. Its readable matches keep their claims.
    pub(super) fault: Option<Arc<str>>,
    /// What it claims, with the position of the match that does.
    pub(super) matches: Vec<(usize, Conditions)>,
    pub(super) backend_refs: Vec<BackendRef>,
    pub(super) timeouts: Timeouts,
    pub(super) keepalive: Keepalive,
    pub(super) persistence: Option<Persistence>,
    /// Whether the user chose the cookie's name.
    pub(super) named_cookie: bool,
    pub(super) algorithm: Algorithm,
    pub(super) non_upgrade: NonUpgrade,
    pub(super) escaped_slashes: EscapedSlashes,
}

impl Draft {
    pub(super) fn of(object: &RouteObject) -> Self {
        let mut draft = Self {
            name: object_name(&object.metadata),
            uid: object.metadata.uid.as_deref().map(Arc::from),
            created: object.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0)),
            generation: object.metadata.generation.unwrap_or_default(),
            readable: true,
            hostnames: Arc::default(),
            tls: None,
            rules: Vec::new(),
            problems: Vec::new(),
        };
        match &object.spec {
            Ok(spec) => draft.read(spec),
            Err(unreadable) => draft.read_remains(unreadable),
        }
        draft
    }

    /// The route as an owner of hostnames. In the order of these, the older route comes first.
    pub(super) fn owner(&self) -> HostOwner {
        HostOwner { since: self.created, route: self.name.clone() }
    }

    fn read(&mut self, spec: &WebSocketRouteSpec) {
        let WebSocketRouteSpec { class_name: _, hostnames, tls, rules } = spec;
        self.hostnames = match hostnames.as_slice() {
            [] => Arc::new([HostPattern::Any]),
            hostnames => self.read_hostnames(hostnames),
        };
        self.tls = tls.as_ref().map(|tls| self.read_tls(tls));
        for (position, rule) in rules.iter().enumerate() {
            let rule = self.read_rule(position, rule);
            self.rules.push(rule);
        }
    }

    /// Reads what remains of a spec: rules that nothing is wrong with are served, the others keep their claims.
    fn read_remains(&mut self, spec: &UnreadableSpec) {
        let UnreadableSpec { faults, class_name: _, hostnames, tls, rules } = spec;
        for Fault { path, message } in faults {
            self.problem(path.clone(), ConditionReason::Invalid, message.clone());
        }
        let named_any = !hostnames.is_empty() || faults.iter().any(|fault| fault.path.starts_with("spec.hostnames"));
        self.hostnames = match (named_any, rules) {
            (false, Some(_)) => Arc::new([HostPattern::Any]),
            _ => self.read_hostnames(hostnames),
        };
        self.tls = tls.as_ref().map(|tls| self.read_tls(tls));
        self.readable = rules.is_some();
        for (position, rule) in rules.iter().flatten().enumerate() {
            let rule = match rule {
                PartialRule::Readable(rule) => self.read_rule(position, rule),
                PartialRule::Faulty { name, message, matches } => {
                    RuleDraft::faulty(position, name.as_deref(), message, matches.as_deref())
                }
            };
            self.rules.push(rule);
        }
    }

    fn read_rule(&mut self, position: usize, rule: &RouteRule) -> RuleDraft {
        RuleReader { draft: self, path: format!("spec.rules[{position}]"), fault: None }.read(position, rule)
    }

    fn read_hostnames(&mut self, hostnames: &[String]) -> Arc<[HostPattern]> {
        let mut patterns = Vec::with_capacity(hostnames.len());
        for (position, hostname) in hostnames.iter().enumerate() {
            if let Some(pattern) = HostPattern::checked(hostname) {
                patterns.push(pattern);
            } else {
                let message = format!("{hostname:?} is no host name such as chat.example.com or *.example.com");
                self.problem(format!("spec.hostnames[{position}]"), ConditionReason::Invalid, message);
            }
        }
        patterns.into()
    }

    fn read_tls(&mut self, tls: &Tls) -> TlsDraft {
        let Tls { certificate_refs, insecure_policy } = tls;
        let insecure_policy = match insecure_policy {
            None => InsecurePolicy::default(),
            Some(api::InsecurePolicy::Allow) => InsecurePolicy::Allow,
            Some(api::InsecurePolicy::Redirect) => InsecurePolicy::Redirect,
            Some(api::InsecurePolicy::Deny) => InsecurePolicy::Deny,
            Some(api::InsecurePolicy::Unsupported(value)) => {
                self.unsupported("spec.tls.insecurePolicy".into(), value);
                // What was meant is not known, so nothing is let through.
                InsecurePolicy::Deny
            }
        };
        let secret = |name: &str| ObjectName::new(self.name.namespace.clone(), name);
        let secrets = certificate_refs.iter().map(|reference| secret(&reference.name)).collect();
        TlsDraft { secrets, insecure_policy }
    }

    fn problem(&mut self, path: String, reason: ConditionReason, message: String) {
        self.problems.push(Problem::new(path, reason, message));
    }

    fn unsupported(&mut self, path: String, value: &str) -> String {
        let message = format!("the value {value:?} is not supported by this version");
        self.problem(path, ConditionReason::UnsupportedValue, message.clone());
        message
    }
}

impl RuleDraft {
    /// A rule that only keeps its claims; what is wrong with it has been told.
    fn faulty(position: usize, name: Option<&str>, message: &str, matches: Option<&[RouteMatch]>) -> Self {
        let matches = match matches {
            None => Vec::new(),
            Some([]) => vec![(0, everything())],
            Some(matches) => {
                let claims = matches.iter().enumerate();
                claims.filter_map(|(position, one)| Some((position, conditions(one)?))).collect()
            }
        };
        Self {
            name: rule_name(position, name.filter(|name| is_dns_label(name))),
            fault: Some(printable(message.to_owned()).into()),
            matches,
            backend_refs: Vec::new(),
            timeouts: Timeouts::default(),
            keepalive: Keepalive::default(),
            persistence: None,
            named_cookie: false,
            algorithm: Algorithm::default(),
            non_upgrade: NonUpgrade::default(),
            escaped_slashes: EscapedSlashes::default(),
        }
    }
}

/// What a rule is called: its name, else its position.
fn rule_name(position: usize, name: Option<&str>) -> Arc<str> {
    name.map_or_else(|| position.to_string().into(), Arc::from)
}

/// Reads one rule, noting the first fault that takes it.
struct RuleReader<'a> {
    draft: &'a mut Draft,
    path: String,
    fault: Option<Arc<str>>,
}

impl RuleReader<'_> {
    fn read(mut self, position: usize, rule: &RouteRule) -> RuleDraft {
        let RouteRule {
            name,
            matches,
            backend_refs,
            timeouts,
            keepalive,
            session_persistence,
            load_balancing,
            non_upgrade_requests,
            escaped_slashes,
        } = rule;
        let scope_name = name.clone().unwrap_or_else(|| format!("#{position}"));
        let persistence = session_persistence.as_ref().map(|wanted| self.read_persistence(wanted, &scope_name));
        let cookie_name = |wanted: &SessionPersistence| wanted.cookie.as_ref()?.name.clone();
        let escaped_slashes = self.read_escaped_slashes(escaped_slashes.as_ref());
        RuleDraft {
            name: rule_name(position, name.as_deref()),
            matches: self.read_matches(matches),
            backend_refs: backend_refs.clone(),
            timeouts: read_timeouts(&timeouts.clone().unwrap_or_default()),
            keepalive: self.read_keepalive(&keepalive.clone().unwrap_or_default()),
            named_cookie: session_persistence.as_ref().and_then(cookie_name).is_some(),
            persistence,
            algorithm: self.read_algorithm(&load_balancing.clone().unwrap_or_default()),
            non_upgrade: self.read_non_upgrade(non_upgrade_requests.as_ref()),
            escaped_slashes,
            fault: self.fault,
        }
    }

    fn read_matches(&mut self, matches: &[RouteMatch]) -> Vec<(usize, Conditions)> {
        if matches.is_empty() {
            return vec![(0, everything())];
        }
        let read = |(position, one): (usize, &RouteMatch)| {
            let RouteMatch { path } = one;
            path.iter().for_each(|path| self.check_path(position, path));
            Some((position, conditions(one)?))
        };
        matches.iter().enumerate().filter_map(read).collect()
    }

    fn check_path(&mut self, position: usize, path: &PathMatch) {
        let PathMatch { type_, value } = path;
        let field = format!("{}.matches[{position}].path", self.path);
        // The schema's rule is a regular expression, which does not find everything.
        if let Err(AmbiguousPath) = NormalPath::parse(value) {
            self.fault(format!("{field}.value"), ConditionReason::Invalid, format!("{AmbiguousPath}, got {value:?}"));
        }
        if let PathMatchType::Unsupported(type_) = type_ {
            self.unsupported(format!("{field}.type"), type_);
        }
    }

    fn read_keepalive(&mut self, keepalive: &api::Keepalive) -> Keepalive {
        let api::Keepalive { target, ping_interval, ping_timeout } = keepalive;
        let timeout = ping_timeout.unwrap_or(api::DEFAULT_PING_TIMEOUT).limit();
        let pings = ping_interval.unwrap_or(api::DEFAULT_PING_INTERVAL).limit();
        let pings = pings.map(|interval| Pings { interval, timeout });
        match target {
            None | Some(api::KeepaliveTarget::Client) => Keepalive { client: pings, backend: None },
            Some(api::KeepaliveTarget::Backend) => Keepalive { client: None, backend: pings },
            Some(api::KeepaliveTarget::Both) => Keepalive { client: pings, backend: pings },
            Some(api::KeepaliveTarget::None) => Keepalive { client: None, backend: None },
            Some(api::KeepaliveTarget::Unsupported(value)) => {
                self.unsupported(format!("{}.keepalive.target", self.path), value);
                Keepalive::default()
            }
        }
    }

    fn read_persistence(&mut self, wanted: &SessionPersistence, rule: &str) -> Persistence {
        let SessionPersistence { type_, cookie, absolute_timeout } = wanted;
        let field = format!("{}.sessionPersistence", self.path);
        if let Some(api::SessionPersistenceType::Unsupported(value)) = type_ {
            self.unsupported(format!("{field}.type"), value);
        }
        let scope = format!("{}/{rule}", self.draft.name);
        let max_age = absolute_timeout.and_then(Duration::limit);
        let cookie = cookie.clone().unwrap_or_default();
        Persistence {
            cookie: cookie.name.clone().unwrap_or_else(|| default_cookie_name(&scope)).into(),
            attributes: self.cookie_attributes(&format!("{field}.cookie"), &cookie, max_age).into(),
            secure: self.read_secure(&format!("{field}.cookie"), &cookie),
            scope: scope.into(),
            max_age,
        }
    }

    fn cookie_attributes(&mut self, field: &str, cookie: &Cookie, max_age: Option<std::time::Duration>) -> String {
        let Cookie { name: _, path, lifetime_type, same_site, secure: _, http_only, partitioned } = cookie;
        let path = format!("; Path={}", path.as_deref().unwrap_or(api::DEFAULT_COOKIE_PATH));
        let lifetime = self.lifetime_attribute(&format!("{field}.lifetimeType"), lifetime_type.as_ref(), max_age);
        let same_site = self.same_site_attribute(&format!("{field}.sameSite"), same_site.as_ref());
        let http_only = if http_only.unwrap_or(true) { "; HttpOnly" } else { "" };
        let partitioned = if partitioned.unwrap_or(false) { "; Partitioned" } else { "" };
        format!("{path}{lifetime}{same_site}{http_only}{partitioned}")
    }

    fn lifetime_attribute(
        &mut self,
        field: &str,
        type_: Option<&api::LifetimeType>,
        max_age: Option<std::time::Duration>,
    ) -> String {
        match (type_, max_age) {
            (None | Some(api::LifetimeType::Session), _) => return String::new(),
            (Some(api::LifetimeType::Permanent), Some(age)) => return format!("; Max-Age={}", age.as_secs()),
            // The schema has a rule against it.
            (Some(api::LifetimeType::Permanent), None) => {}
            (Some(api::LifetimeType::Unsupported(value)), _) => self.unsupported(field.to_owned(), value),
        }
        String::new()
    }

    fn same_site_attribute(&mut self, field: &str, same_site: Option<&api::SameSite>) -> &'static str {
        match same_site {
            None | Some(api::SameSite::Lax) => "; SameSite=Lax",
            Some(api::SameSite::Strict) => "; SameSite=Strict",
            Some(api::SameSite::None) => "; SameSite=None",
            Some(api::SameSite::Unsupported(value)) => {
                self.unsupported(field.to_owned(), value);
                ""
            }
        }
    }

    fn read_secure(&mut self, field: &str, cookie: &Cookie) -> Secure {
        match &cookie.secure {
            None | Some(api::SecureMode::Auto) => Secure::Auto,
            Some(api::SecureMode::Always) => Secure::Always,
            Some(api::SecureMode::Never) => Secure::Never,
            Some(api::SecureMode::Unsupported(value)) => {
                self.unsupported(format!("{field}.secure"), value);
                Secure::Auto
            }
        }
    }

    fn read_algorithm(&mut self, load_balancing: &LoadBalancing) -> Algorithm {
        let LoadBalancing { algorithm } = load_balancing;
        match algorithm {
            None => Algorithm::default(),
            Some(api::Algorithm::LeastConnections) => Algorithm::LeastConnections,
            Some(api::Algorithm::RoundRobin) => Algorithm::RoundRobin,
            Some(api::Algorithm::Random) => Algorithm::Random,
            Some(api::Algorithm::Unsupported(value)) => {
                self.unsupported(format!("{}.loadBalancing.algorithm", self.path), value);
                Algorithm::default()
            }
        }
    }

    fn read_non_upgrade(&mut self, wanted: Option<&api::NonUpgradeRequests>) -> NonUpgrade {
        match wanted {
            None => NonUpgrade::default(),
            Some(api::NonUpgradeRequests::Proxy) => NonUpgrade::Proxy,
            Some(api::NonUpgradeRequests::Reject) => NonUpgrade::Reject,
            Some(api::NonUpgradeRequests::Unsupported(value)) => {
                self.unsupported(format!("{}.nonUpgradeRequests", self.path), value);
                NonUpgrade::default()
            }
        }
    }

    fn read_escaped_slashes(&mut self, wanted: Option<&api::EscapedSlashes>) -> EscapedSlashes {
        match wanted {
            None => EscapedSlashes::default(),
            Some(api::EscapedSlashes::Reject) => EscapedSlashes::Reject,
            Some(api::EscapedSlashes::Keep) => EscapedSlashes::Keep,
            Some(api::EscapedSlashes::Unsupported(value)) => {
                self.unsupported(format!("{}.escapedSlashes", self.path), value);
                EscapedSlashes::default()
            }
        }
    }

    fn unsupported(&mut self, path: String, value: &str) {
        let message = self.draft.unsupported(path, value);
        self.fault.get_or_insert(message.into());
    }

    fn fault(&mut self, path: String, reason: ConditionReason, message: String) {
        self.fault.get_or_insert(message.as_str().into());
        self.draft.problem(path, reason, message);
    }
}

fn read_timeouts(timeouts: &api::Timeouts) -> Timeouts {
    let api::Timeouts { handshake, response, backend_connect, idle, max_duration } = timeouts;
    Timeouts {
        handshake: handshake.unwrap_or(api::DEFAULT_HANDSHAKE_TIMEOUT).limit(),
        response: response.and_then(Duration::limit),
        backend_connect: backend_connect.unwrap_or(api::DEFAULT_BACKEND_CONNECT_TIMEOUT).limit(),
        idle: idle.and_then(Duration::limit),
        max_duration: max_duration.and_then(Duration::limit),
    }
}

/// A name that differs between rules and stays the same between replicas and versions.
fn default_cookie_name(scope: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, scope.as_bytes());
    let hexadecimal = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}"));
    format!("switchyard-{}", hexadecimal.collect::<String>())
}

fn everything() -> Conditions {
    Conditions::new(PathPattern::prefix("/"))
}

/// What a match claims; `None` if no request can meet it, or if this version cannot tell.
fn conditions(RouteMatch { path }: &RouteMatch) -> Option<Conditions> {
    match path {
        None => Some(everything()),
        Some(path) => pattern(path).map(Conditions::new),
    }
}

/// What a condition on the path claims; `None` if no request can have the path, or if this version cannot tell.
fn pattern(PathMatch { type_, value }: &PathMatch) -> Option<PathPattern> {
    match type_ {
        _ if !is_path(value) => None,
        PathMatchType::PathPrefix => Some(PathPattern::prefix(value)),
        PathMatchType::Exact => Some(PathPattern::exact(value)),
        PathMatchType::Unsupported(_) => None,
    }
}

/// Whether a request can have this path. Rules that are not valid are asked as well, for the claims that they keep.
fn is_path(value: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    value.starts_with('/') && value.bytes().all(visible) && NormalPath::parse(value).is_ok()
}
