//! Hosts of requests, the patterns that routes claim, and their precedence.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap, fmt, net::IpAddr};

use super::name::is_dns_label;

/// The host that a request is for: lower case, without port and without one trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a>(Cow<'a, str>);

/// An authority that is not a valid `uri-host [ ":" port ]` (RFC 9110 §7.2), or a host that no route could name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedHost;

impl<'a> Host<'a> {
    /// Parses the value of a `Host` field or the authority of a target in absolute form.
    ///
    /// # Errors
    /// If the host is empty or contains anything but letters, digits, `-`, `_`, `.` (or an IPv6 address in brackets),
    /// or if the port is not a number up to 65535. Percent-encoded host names are rejected: they are not used in
    /// practice, and a second spelling of a host could bypass a rule.
    pub fn parse(authority: &'a str) -> Result<Self, MalformedHost> {
        let (host, port) = split_port(authority)?;
        if !port.is_empty() && (!port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err()) {
            return Err(MalformedHost);
        }
        if let Some(address) = host.strip_prefix('[') {
            let address = address.strip_suffix(']').ok_or(MalformedHost)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| MalformedHost)?;
            return Ok(Self(lower(host)));
        }
        Self::from_name(host)
    }

    /// Parses a host name without a port, such as the one in TLS server name indication (RFC 6066 §3).
    ///
    /// # Errors
    /// As for [`Host::parse`].
    pub fn from_name(name: &'a str) -> Result<Self, MalformedHost> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !letters || name.len() > 253 || name.split('.').any(str::is_empty) {
            return Err(MalformedHost);
        }
        Ok(Self(lower(name)))
    }

    /// The host of a request without one, as HTTP/1.0 allows: only routes without hostnames serve it.
    #[must_use]
    pub fn unnamed() -> Self {
        Self(Cow::Borrowed(""))
    }

    /// The same host as an owned value.
    #[must_use]
    pub fn into_owned(self) -> Host<'static> {
        Host(Cow::Owned(self.0.into_owned()))
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The IP address, if the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let text = self.0.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&self.0);
        text.parse().ok()
    }
}

fn split_port(authority: &str) -> Result<(&str, &str), MalformedHost> {
    let after_address = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[after_address..].find(':') {
        Some(colon) => Ok((&authority[..after_address + colon], &authority[after_address + colon + 1..])),
        None if authority.is_empty() => Err(MalformedHost),
        None => Ok((authority, "")),
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// The hosts that a route claims with one entry of its `hostnames`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Box<str>),
    /// The hosts with one or more labels before this suffix, which has no leading dot.
    Wildcard(Box<str>),
    /// Every host: a route without hostnames.
    Any,
}

impl HostPattern {
    /// Parses an entry of `hostnames` that the schema has validated.
    #[must_use]
    pub fn parse(hostname: &str) -> Self {
        let hostname = hostname.to_ascii_lowercase();
        match hostname.strip_prefix("*.") {
            Some(suffix) => Self::Wildcard(suffix.into()),
            None => Self::Exact(hostname.into()),
        }
    }

    /// Parses a hostname as the schema of `hostnames` defines it: lower case, no port, no IP address, and `*` only as
    /// the whole first label. `None` for anything else.
    #[must_use]
    pub fn checked(hostname: &str) -> Option<Self> {
        is_hostname(hostname).then(|| Self::parse(hostname))
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(host) => (2, host.len()),
            Self::Wildcard(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }
}

/// The schema's rule for hostnames, for objects that were stored under a different schema.
fn is_hostname(hostname: &str) -> bool {
    let name = hostname.strip_prefix("*.").unwrap_or(hostname);
    let is_address = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    name.len() <= 253 && name.split('.').all(is_dns_label) && !is_address
}

/// Whether the last label is a number, as in IPv4 addresses and never in a host name.
fn ends_in_number(name: &str) -> bool {
    name.bytes().rev().take_while(|byte| *byte != b'.').all(|byte| byte.is_ascii_digit())
}

/// More specific patterns are greater: exact, then the longer wildcard, then [`HostPattern::Any`].
impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.to_string().cmp(&other.to_string()))
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A map from host patterns to values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMap<T> {
    exact: HashMap<Box<str>, T>,
    wildcard: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<T> HostMap<T> {
    /// The values of the patterns that match a host, most specific first.
    pub fn matching<'a>(&'a self, host: &'a Host<'_>) -> impl Iterator<Item = &'a T> {
        self.naming(host).chain(&self.any)
    }

    /// The values of the patterns that name the host, exactly or by a wildcard, most specific first: all that match
    /// except [`HostPattern::Any`].
    pub fn naming<'map>(&'map self, host: &Host<'_>) -> impl Iterator<Item = &'map T> {
        let name = host.as_str();
        // An address has no labels, even though it contains dots.
        let wildcards = Some(name).filter(|name| !ends_in_number(name)).into_iter();
        self.exact.get(name).into_iter().chain(wildcards.flat_map(|name| self.wildcards_over(name)))
    }

    /// The values of the patterns that name every host of `pattern`, most specific first. None for
    /// [`HostPattern::Any`], since no pattern names every host.
    pub fn covering<'map>(&'map self, pattern: &HostPattern) -> impl Iterator<Item = &'map T> {
        let (same, name) = match pattern {
            HostPattern::Exact(host) => (self.exact.get(host), &**host),
            HostPattern::Wildcard(suffix) => (self.wildcard.get(suffix), &**suffix),
            HostPattern::Any => (None, ""),
        };
        same.into_iter().chain(self.wildcards_over(name))
    }

    fn wildcards_over<'map>(&'map self, name: &str) -> impl Iterator<Item = &'map T> {
        name.match_indices('.').filter_map(|(dot, _)| self.wildcard.get(&name[dot + 1..]))
    }

    /// The value of [`HostPattern::Any`].
    pub fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }

    /// All patterns with their values, most specific first.
    pub fn iter(&self) -> impl Iterator<Item = (HostPattern, &T)> {
        let exact = self.exact.iter().map(|(host, value)| (HostPattern::Exact(host.clone()), value));
        let wildcard = self.wildcard.iter().map(|(suffix, value)| (HostPattern::Wildcard(suffix.clone()), value));
        let any = self.any.iter().map(|value| (HostPattern::Any, value));
        let mut all: Vec<_> = exact.chain(wildcard).chain(any).collect();
        all.sort_by(|(one, _), (other, _)| other.cmp(one));
        all.into_iter()
    }

    /// The value of a pattern, inserted if absent.
    pub fn entry(&mut self, pattern: &HostPattern) -> &mut T
    where
        T: Default,
    {
        match pattern {
            HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
            HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
            HostPattern::Any => self.any.get_or_insert_with(T::default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_case_port_and_one_trailing_dot() {
        let cases = [
            ("chat.example.com", "chat.example.com"),
            ("Chat.Example.COM:8080", "chat.example.com"),
            ("chat.example.com.", "chat.example.com"),
            ("chat.example.com.:443", "chat.example.com"),
            ("chat.example.com:", "chat.example.com"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("under_score", "under_score"),
        ];
        for (authority, host) in cases {
            assert_eq!(Host::parse(authority).unwrap().as_str(), host, "{authority}");
        }
    }

    #[test]
    fn malformed_authorities_are_refused() {
        let cases = [
            "",
            ":80",
            ".",
            "a..b",
            ".a",
            "a.example:abc",
            "a:80:80",
            "a:99999",
            "a:+8",
            "user@a",
            "a b",
            "[::1",
            "::1",
            "[::1]x:80",
            "[::g]",
            "a/b",
            "a%2e",
            "a\u{e9}",
            "[]",
            "a..",
            "[127.0.0.1]",
        ];
        for authority in cases {
            assert_eq!(Host::parse(authority), Err(MalformedHost), "{authority}");
        }
    }

    #[test]
    fn exact_beats_longer_wildcard_beats_shorter_beats_any() {
        let mut ordered = ["*.b.example.com", "a.b.example.com", "*.example.com"].map(HostPattern::parse).to_vec();
        ordered.push(HostPattern::Any);
        ordered.sort_by(|one, other| other.cmp(one));
        let names: Vec<_> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a.b.example.com", "*.b.example.com", "*.example.com", "*"]);
    }

    #[test]
    fn a_map_gives_the_most_specific_value_first() {
        let mut map = HostMap::<Vec<&str>>::default();
        for pattern in ["a.b.example.com", "*.b.example.com", "*.example.com", "b.example.com"] {
            map.entry(&HostPattern::parse(pattern)).push(pattern);
        }
        map.entry(&HostPattern::Any).push("*");
        let found = |host| map.matching(&Host::parse(host).unwrap()).flatten().copied().collect::<Vec<_>>();
        assert_eq!(found("a.b.example.com"), ["a.b.example.com", "*.b.example.com", "*.example.com", "*"]);
        assert_eq!(found("x.y.example.com"), ["*.example.com", "*"]);
        assert_eq!(found("b.example.com"), ["b.example.com", "*.example.com", "*"]);
        assert_eq!(found("example.com"), ["*"], "a wildcard does not cover the apex");
    }

    #[test]
    fn no_wildcard_covers_an_address() {
        let mut map = HostMap::<Vec<&str>>::default();
        map.entry(&HostPattern::Wildcard("0.0.1".into())).push("*.0.0.1");
        assert_eq!(map.matching(&Host::parse("10.0.0.1:80").unwrap()).count(), 0);
        assert_eq!(map.matching(&Host::parse("a.0.0.1b").unwrap()).count(), 0);
    }

    #[test]
    fn a_pattern_is_covered_by_itself_and_by_wider_wildcards() {
        let mut map = HostMap::<Vec<&str>>::default();
        for pattern in ["a.b.example.com", "*.b.example.com", "*.example.com", "b.example.com"] {
            map.entry(&HostPattern::parse(pattern)).push(pattern);
        }
        map.entry(&HostPattern::Any).push("*");
        let found = |pattern: &HostPattern| map.covering(pattern).flatten().copied().collect::<Vec<_>>();
        let covering = |pattern| found(&HostPattern::parse(pattern));
        assert_eq!(covering("a.b.example.com"), ["a.b.example.com", "*.b.example.com", "*.example.com"]);
        assert_eq!(covering("*.b.example.com"), ["*.b.example.com", "*.example.com"]);
        assert_eq!(covering("*.x.example.com"), ["*.example.com"]);
        assert_eq!(covering("*.com"), [""; 0]);
        assert_eq!(found(&HostPattern::Any), [""; 0]);
    }

    #[test]
    fn only_names_that_the_schema_allows_are_hostnames() {
        for hostname in ["a", "a.b", "*.a", "1.a", "a-b.c"] {
            assert_eq!(HostPattern::checked(hostname), Some(HostPattern::parse(hostname)), "{hostname}");
        }
        for hostname in [
            "", "*", "*.", "a.", "A.b", "a..b", "10.0.0.1", "-a", "a_b", "a:80", "a.*.b", "**.a", "a\nb", "*.1",
            "*.0.0.1",
        ] {
            assert_eq!(HostPattern::checked(hostname), None, "{hostname:?}");
        }
    }
}
