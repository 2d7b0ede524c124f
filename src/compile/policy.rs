//! The policy of a rule: the only place where its fields are read and defaults are applied.

use std::time::Duration;

use ipnet::IpNet;

use crate::{
    api::{self, Clients, ConditionReason, Cookie, LoadBalancing, RouteRule, SessionPersistence},
    choices::{
        Choice, DEFAULT_COOKIE_HTTP_ONLY, DEFAULT_COOKIE_PATH, KeepaliveTarget, LifetimeType, SameSite,
        SessionPersistenceType,
    },
    table::{ClientNetworks, Keepalive, Persistence, Pings, Policy, Timeouts},
};

use super::rule::RuleReader;

impl RuleReader<'_> {
    /// Reads the policy of a rule; `scope` distinguishes its sessions from those of other rules of the route.
    pub(super) fn read_policy(&mut self, rule: &RouteRule, scope: &str) -> Policy {
        let RouteRule {
            name: _,
            matches: _,
            backend_refs: _,
            timeouts,
            keepalive,
            session_persistence,
            load_balancing,
            clients,
            non_upgrade_requests,
            escaped_slashes,
        } = rule;
        let LoadBalancing { algorithm } = load_balancing.clone().unwrap_or_default();
        Policy {
            persistence: session_persistence.as_ref().map(|wanted| self.read_persistence(wanted, scope)),
            escaped_slashes: self.choice("escapedSlashes", escaped_slashes.as_ref()),
            timeouts: read_timeouts(&timeouts.clone().unwrap_or_default()),
            keepalive: self.read_keepalive(&keepalive.clone().unwrap_or_default()),
            algorithm: self.choice("loadBalancing.algorithm", algorithm.as_ref()),
            clients: self.read_clients(&clients.clone().unwrap_or_default()),
            non_upgrade: self.choice("nonUpgradeRequests", non_upgrade_requests.as_ref()),
        }
    }

    fn read_keepalive(&mut self, keepalive: &api::Keepalive) -> Keepalive {
        let api::Keepalive { target, ping_interval, ping_timeout } = keepalive;
        let default = Pings::default();
        let interval = limit(*ping_interval, Some(default.interval));
        let pings = interval.map(|interval| Pings { interval, timeout: limit(*ping_timeout, default.timeout) });
        match self.choice("keepalive.target", target.as_ref()) {
            KeepaliveTarget::Client => Keepalive { client: pings, backend: None },
            KeepaliveTarget::Backend => Keepalive { client: None, backend: pings },
            KeepaliveTarget::Both => Keepalive { client: pings, backend: pings },
            KeepaliveTarget::None => Keepalive { client: None, backend: None },
        }
    }

    fn read_clients(&mut self, clients: &Clients) -> ClientNetworks {
        let Clients { allow, deny } = clients;
        ClientNetworks {
            allow: self.read_networks("clients.allow", allow),
            deny: self.read_networks("clients.deny", deny),
        }
    }

    fn read_networks(&mut self, field: &str, networks: &[String]) -> Box<[IpNet]> {
        let mut read = Vec::with_capacity(networks.len());
        for (index, network) in networks.iter().enumerate() {
            if let Ok(network) = network.parse::<IpNet>() {
                read.push(network.trunc());
            } else {
                let message = format!("must be a network such as 10.0.0.0/8, got {network:?}");
                self.fault(&format!("{field}[{index}]"), ConditionReason::Invalid, message);
            }
        }
        read.into()
    }

    fn read_persistence(&mut self, wanted: &SessionPersistence, rule: &str) -> Persistence {
        let SessionPersistence { type_, cookie, absolute_timeout } = wanted;
        let SessionPersistenceType::Cookie = self.choice("sessionPersistence.type", type_.as_ref());
        let scope = format!("{}/{rule}", self.route);
        let max_age = limit(*absolute_timeout, None);
        let cookie = cookie.clone().unwrap_or_default();
        Persistence {
            cookie: cookie.name.clone().unwrap_or_else(|| default_cookie_name(&scope)).into(),
            attributes: self.cookie_attributes(&cookie, max_age).into(),
            secure: self.choice("sessionPersistence.cookie.secure", cookie.secure.as_ref()),
            scope: scope.into(),
            max_age,
        }
    }

    fn cookie_attributes(&mut self, cookie: &Cookie, max_age: Option<Duration>) -> String {
        let Cookie { name: _, path, lifetime_type, same_site, secure: _, http_only, partitioned } = cookie;
        let path = path.as_deref().unwrap_or(DEFAULT_COOKIE_PATH);
        let lifetime = match (self.choice("sessionPersistence.cookie.lifetimeType", lifetime_type.as_ref()), max_age) {
            (LifetimeType::Permanent, Some(age)) => format!("; Max-Age={}", age.as_secs()),
            // The schema forbids a permanent cookie without a maximum age.
            (LifetimeType::Session, _) | (LifetimeType::Permanent, None) => String::new(),
        };
        let same_site: SameSite = self.choice("sessionPersistence.cookie.sameSite", same_site.as_ref());
        let same_site = same_site.as_str();
        let http_only = if http_only.unwrap_or(DEFAULT_COOKIE_HTTP_ONLY) { "; HttpOnly" } else { "" };
        let partitioned = if partitioned.unwrap_or(false) { "; Partitioned" } else { "" };
        format!("; Path={path}{lifetime}; SameSite={same_site}{http_only}{partitioned}")
    }
}

/// A limit as specified, or the default.
fn limit(written: Option<api::Duration>, default: Option<Duration>) -> Option<Duration> {
    written.map_or(default, api::Duration::limit)
}

fn read_timeouts(timeouts: &api::Timeouts) -> Timeouts {
    let api::Timeouts { handshake, response, backend_connect, idle, max_duration } = timeouts;
    let default = Timeouts::default();
    Timeouts {
        handshake: limit(*handshake, default.handshake),
        response: limit(*response, default.response),
        backend_connect: limit(*backend_connect, default.backend_connect),
        idle: limit(*idle, default.idle),
        max_duration: limit(*max_duration, default.max_duration),
    }
}

/// A name that differs between rules and is the same on all replicas and in all versions.
fn default_cookie_name(scope: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, scope.as_bytes());
    let hexadecimal = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}"));
    format!("switchyard-{}", hexadecimal.collect::<String>())
}
