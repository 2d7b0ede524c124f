//! `/api/v1/tunnels`: the open tunnels.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::metrics::Direction;
use crate::table::ObjectName;

/// The default of `limit`.
const DEFAULT_LIMIT: usize = 1000;

/// Lists the open tunnels, oldest first.
pub type OpenTunnels = Arc<dyn Fn() -> Box<dyn Iterator<Item = OpenTunnel>> + Send + Sync>;

/// An open tunnel, as shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenTunnel {
    /// Its number in this process.
    pub id: u64,
    /// The route that it belongs to.
    #[serde(serialize_with = "as_text")]
    pub route: ObjectName,
    /// The rule of that route.
    pub rule: Arc<str>,
    /// The Service of its endpoint.
    #[serde(serialize_with = "as_text")]
    pub service: ObjectName,
    /// The name of its endpoint.
    pub endpoint: Arc<str>,
    /// The address of its client.
    pub client: IpAddr,
    /// When it was opened.
    #[serde(serialize_with = "as_timestamp")]
    pub since: SystemTime,
    /// Bytes forwarded so far.
    pub bytes: EachWay,
    /// Frames forwarded so far, up to a protocol violation by a peer.
    pub frames: EachWay,
}

/// A count for each direction.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EachWay {
    to_backend: u64,
    to_client: u64,
}

impl EachWay {
    /// Counts each direction.
    pub fn of(count: impl Fn(Direction) -> u64) -> Self {
        Self { to_backend: count(Direction::ToBackend), to_client: count(Direction::ToClient) }
    }
}

/// The response.
#[derive(Debug, Serialize)]
pub(super) struct TunnelList {
    /// The number of open tunnels that match, listed or not.
    total: usize,
    /// The oldest of them.
    tunnels: Vec<OpenTunnel>,
}

/// The requested tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Filter {
    route: Option<ObjectName>,
    endpoint: Option<String>,
    limit: Option<usize>,
}

impl Filter {
    /// Parses the query of a request.
    ///
    /// # Errors
    /// If a parameter is unknown, repeated, or invalid: what to write instead.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_second = match &*name {
                "route" => filter.route.replace(parse_route(&value)?).is_some(),
                "endpoint" if value.is_empty() => return Err("endpoint must not be empty".into()),
                "endpoint" => filter.endpoint.replace(value.into_owned()).is_some(),
                "limit" => filter.limit.replace(parse_limit(&value)?).is_some(),
                other => return Err(format!("parameter must be route, endpoint or limit, got {other:?}")),
            };
            if is_second {
                return Err(format!("{name} must be given only once"));
            }
        }
        Ok(filter)
    }

    fn fits(&self, tunnel: &OpenTunnel) -> bool {
        self.route.as_ref().is_none_or(|route| *route == tunnel.route)
            && self.endpoint.as_ref().is_none_or(|endpoint| **endpoint == *tunnel.endpoint)
    }
}

fn parse_route(value: &str) -> Result<ObjectName, String> {
    match value.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(ObjectName::new(namespace, name)),
        _ => Err(format!("route must be namespace/name, got {value:?}")),
    }
}

fn parse_limit(value: &str) -> Result<usize, String> {
    let limit = value.parse().ok().filter(|limit| *limit > 0);
    limit.ok_or_else(|| format!("limit must be a whole number of at least 1, got {value:?}"))
}

/// Lists the matching tunnels up to the limit, and counts all of them.
pub(super) fn list(open: impl Iterator<Item = OpenTunnel>, filter: &Filter) -> TunnelList {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    let mut fitting = open.filter(|tunnel| filter.fits(tunnel));
    let tunnels: Vec<_> = fitting.by_ref().take(limit).collect();
    TunnelList { total: tunnels.len() + fitting.count(), tunnels }
}

fn as_text<S: Serializer>(name: &ObjectName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// In RFC 3339 format, with milliseconds.
fn as_timestamp<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = Timestamp::try_from(*time).unwrap_or(Timestamp::UNIX_EPOCH);
    serializer.collect_str(&format_args!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    fn tunnel(id: u64, route: &str, endpoint: &str) -> OpenTunnel {
        OpenTunnel {
            id,
            route: ObjectName::new("shop", route),
            rule: "main".into(),
            service: ObjectName::new("shop", "backend"),
            endpoint: endpoint.into(),
            client: Ipv4Addr::LOCALHOST.into(),
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(1_796_083_200_250),
            bytes: EachWay::of(|direction| direction as u64),
            frames: EachWay::of(|direction| 5 + direction as u64),
        }
    }

    fn listed(query: &str) -> (Vec<u64>, usize) {
        let open = [tunnel(1, "chat", "a"), tunnel(2, "chat", "b"), tunnel(3, "game", "a"), tunnel(4, "chat", "a")];
        let TunnelList { total, tunnels } = list(open.into_iter(), &Filter::parse(query).unwrap());
        (tunnels.iter().map(|tunnel| tunnel.id).collect(), total)
    }

    #[test]
    fn tunnels_are_listed_by_route_and_endpoint_up_to_a_limit_and_all_are_counted() {
        assert_eq!(listed(""), (vec![1, 2, 3, 4], 4));
        assert_eq!(listed("route=shop/chat"), (vec![1, 2, 4], 3));
        assert_eq!(listed("endpoint=a&route=shop%2Fchat"), (vec![1, 4], 2));
        assert_eq!(listed("endpoint=a&limit=2"), (vec![1, 3], 3));
        assert_eq!(listed("route=other/chat"), (vec![], 0));
    }

    #[test]
    fn a_query_that_makes_no_sense_is_told_what_would() {
        let cases = [
            ("route=chat", "route must be namespace/name, got \"chat\""),
            ("route=/chat", "route must be namespace/name, got \"/chat\""),
            ("endpoint=", "endpoint must not be empty"),
            ("limit=0", "limit must be a whole number of at least 1, got \"0\""),
            ("limit=-1", "limit must be a whole number of at least 1, got \"-1\""),
            ("limit=1&limit=2", "limit must be given only once"),
            ("rout=shop/chat", "parameter must be route, endpoint or limit, got \"rout\""),
        ];
        for (query, message) in cases {
            assert_eq!(Filter::parse(query).unwrap_err(), message, "{query}");
        }
    }

    #[test]
    fn a_tunnel_is_shown_with_plain_names_and_an_rfc_3339_time() {
        let shown = serde_json::to_value(tunnel(7, "chat", "chat-0")).unwrap();
        let expected = serde_json::json!({
            "id": 7,
            "route": "shop/chat",
            "rule": "main",
            "service": "shop/backend",
            "endpoint": "chat-0",
            "client": "127.0.0.1",
            "since": "2026-12-01T00:00:00.250Z",
            "bytes": { "toBackend": 0, "toClient": 1 },
            "frames": { "toBackend": 5, "toClient": 6 },
        });
        assert_eq!(shown, expected);
    }
}
