//! Fields that inform backends about the client: `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239).

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderName, header::FORWARDED};
use ipnet::IpNet;

use crate::proxy::fields::{Fields, protected::ProtectedFields, visible};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What the proxy itself knows about the last hop of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    /// The peer of the connection.
    pub peer: IpAddr,
    /// Whether it was over TLS.
    pub tls: bool,
    /// The client that sent the request: the peer, or the address given by trusted proxies.
    pub client: IpAddr,
    /// The authority of the request as sent, if any.
    pub authority: Option<&'a str>,
    /// Whether the peer is trusted to describe the hops before it.
    pub trusted: bool,
}

impl Hop<'_> {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Whether the client used TLS, to this proxy or to a trusted one before it.
pub(crate) fn is_secure(fields: &impl Fields, tls: bool, trusted: bool) -> bool {
    tls || (trusted && original_scheme(fields).is_some_and(|scheme| is_tls(&scheme)))
}

fn is_tls(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")
}

/// The scheme that the client used, according to the proxy in front. `X-Forwarded-Proto` takes precedence: it is passed
/// on unchanged, while our own element of `Forwarded` describes only our hop.
fn original_scheme(fields: &impl Fields) -> Option<String> {
    last_value(fields, &PROTO).map(str::to_owned).or_else(|| forwarded_scheme(fields))
}

/// The value that the proxy in front wrote into a field: the last one, since it may have appended to what the client
/// sent. Searched from the end: the client may have sent tens of thousands of empty ones.
fn last_value<'a>(fields: &'a impl Fields, name: &'a HeaderName) -> Option<&'a str> {
    let lines: Vec<&[u8]> = fields.lines(name).collect();
    let elements = lines.into_iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()).find_map(visible)
}

/// `proto` of the last element of `Forwarded`. `None` if a client left a quotation open in order to hide what the proxy
/// appended.
fn forwarded_scheme(fields: &impl Fields) -> Option<String> {
    let line = fields.lines(&FORWARDED).collect::<Vec<_>>().join(&b',');
    let mut quotation = Quotation::default();
    let mut start = 0;
    for (index, byte) in line.iter().enumerate() {
        if quotation.separates(*byte, b',') {
            start = index + 1;
        }
    }
    if quotation.is_open {
        return None;
    }
    line[start..].split(|byte| quotation.separates(*byte, b';')).find_map(|pair| {
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        let value = || String::from_utf8_lossy(&value[1..]).trim().trim_matches('"').to_owned();
        name.trim_ascii().eq_ignore_ascii_case(b"proto").then(value)
    })
}

/// The state of quoted strings in a text (RFC 9110 §5.6.4), byte by byte.
#[derive(Debug, Default)]
struct Quotation {
    is_open: bool,
    is_escaped: bool,
}

impl Quotation {
    /// Processes the next byte; returns whether it is a separator outside quotes.
    fn separates(&mut self, byte: u8, separator: u8) -> bool {
        self.is_open ^= byte == b'"' && !self.is_escaped;
        self.is_escaped = self.is_open && !self.is_escaped && byte == b'\\';
        byte == separator && !self.is_open
    }
}

/// The address of the client: the last one in `X-Forwarded-For` that is not a trusted proxy's, if the peer is trusted.
pub(crate) fn client(fields: &impl Fields, peer: IpAddr, trusted_proxies: &[IpNet]) -> IpAddr {
    let trusted = |address: &IpAddr| trusted_proxies.iter().any(|net| net.contains(address));
    let name = FOR;
    let mut lines: Vec<&[u8]> = fields.lines(&name).collect();
    let mut client = peer;
    while trusted(&client)
        && let Some(line) = lines.pop()
    {
        for element in line.rsplit(|byte| *byte == b',') {
            let Some(address) = address(element) else { return client };
            client = address;
            if !trusted(&client) {
                return client;
            }
        }
    }
    client
}

/// The address in an element of `X-Forwarded-For`, which some proxies write with a port, and then with brackets.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = visible(element)?.trim().trim_matches('"');
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address: Option<IpAddr> = text.parse().ok().or_else(bracketed).or_else(with_port);
    address.map(|address| address.to_canonical())
}

/// Adds the fields about the client. Protected fields from an untrusted peer are removed.
pub(crate) fn set(fields: &mut impl Fields, protected: &ProtectedFields, hop: &Hop<'_>) {
    protected.remove(fields, hop.trusted);
    let peer = hop.peer.to_string();
    let element = element(hop, &peer);
    let scheme = original_scheme(fields).map_or(Cow::Borrowed(hop.scheme()), Cow::Owned);
    let port = port(last_value(fields, &HOST).or(hop.authority).unwrap_or_default(), &scheme).to_owned();
    append(fields, FOR, peer);
    append(fields, FORWARDED, element);
    // A single value, since many backends read the first of a list, which may be the client's own.
    fields.set(PROTO, bytes(scheme));
    if let Some(authority) = hop.authority.filter(|_| !fields.has(&HOST)) {
        fields.set(HOST, authority.as_bytes().to_vec());
    }
    if !fields.has(&REAL_IP) {
        fields.set(REAL_IP, hop.client.to_string().into_bytes());
    }
    if !fields.has(&PORT) {
        fields.set(PORT, port.into_bytes());
    }
}

fn bytes(text: Cow<'static, str>) -> Cow<'static, [u8]> {
    match text {
        Cow::Borrowed(text) => text.as_bytes().into(),
        Cow::Owned(text) => text.into_bytes().into(),
    }
}

/// Appends to a single line: some backends read only the first or the last of several.
fn append(fields: &mut impl Fields, name: HeaderName, value: String) {
    let mut line = fields.lines(&name).collect::<Vec<_>>().join(&b", "[..]);
    if line.is_empty() {
        return fields.set(name, value.into_bytes());
    }
    line.extend_from_slice(b", ");
    line.extend_from_slice(value.as_bytes());
    fields.set(name, line);
}

/// RFC 7239 §4; an IPv6 address is bracketed and quoted (§6), a host always quoted, since it may include a port.
fn element(hop: &Hop<'_>, peer: &str) -> String {
    let (before, after) = if hop.peer.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
    let (host, authority, end) = hop.authority.map_or_else(Default::default, |host| (";host=\"", host, "\""));
    ["for=", before, peer, after, host, authority, end, ";proto=", hop.scheme()].concat()
}

/// The port that the client connected to: that of the authority, or else the default of the scheme.
fn port<'a>(authority: &'a str, scheme: &str) -> &'a str {
    let after_address = authority.rfind(']').unwrap_or(0);
    match authority[after_address..].split_once(':') {
        Some((_, port)) if !port.is_empty() => port,
        _ if is_tls(scheme) => "443",
        _ => "80",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    const CLAIMS: &[(&str, &str)] = &[
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "public.example.com"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=203.0.113.9"),
    ];

    fn set_fields(headers: &mut HeaderMap, hop: &Hop<'_>) {
        set(headers, &ProtectedFields::default(), hop);
    }

    fn hop(peer: &str, trusted: bool) -> Hop<'static> {
        let (peer, authority) = (peer.parse().unwrap(), Some("chat.example.com:8080"));
        Hop { peer, tls: false, client: peer, authority, trusted }
    }

    #[test]
    fn fields_of_untrusted_peers_are_replaced() {
        let mut headers = map(CLAIMS);
        set_fields(&mut headers, &hop("192.0.2.1", false));
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1;host=\"chat.example.com:8080\";proto=http"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "chat.example.com:8080"),
            ("x-forwarded-port", "8080"),
            ("x-real-ip", "192.0.2.1"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn fields_of_a_trusted_proxy_are_kept_and_continued() {
        let mut headers = map(CLAIMS);
        set_fields(&mut headers, &hop("10.0.0.1", true));
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 10.0.0.1");
        assert_eq!(headers["forwarded"], "for=203.0.113.9, for=10.0.0.1;host=\"chat.example.com:8080\";proto=http");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "public.example.com");
        assert_eq!(headers["x-forwarded-port"], "443");
    }

    #[test]
    fn ipv6_addresses_are_quoted_in_forwarded() {
        let mut headers = HeaderMap::new();
        set_fields(&mut headers, &Hop { authority: Some("[2001:db8::1]"), tls: true, ..hop("2001:db8::2", false) });
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::2]\";host=\"[2001:db8::1]\";proto=https");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::2");
        assert_eq!(headers["x-forwarded-port"], "443");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_of_a_trusted_proxy() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let of = |peer: &str, forwarded_for: &'static str| {
            client(&map(&[("x-forwarded-for", forwarded_for)]), peer.parse().unwrap(), &trusted).to_string()
        };
        assert_eq!(of("192.0.2.1", "203.0.113.9"), "192.0.2.1", "an untrusted peer is not believed");
        assert_eq!(of("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(of("10.0.0.1", "10.0.0.3"), "10.0.0.3");
        assert_eq!(of("10.0.0.1", "1.1.1.1, unknown"), "10.0.0.1");
        assert_eq!(of("10.0.0.1", ""), "10.0.0.1");
    }

    #[test]
    fn a_client_hides_no_address_that_a_trusted_proxy_has_written() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let of = |lines: &[&[u8]]| {
            let values = lines.iter().map(|line| (FOR, http::HeaderValue::from_bytes(line).unwrap()));
            client(&values.collect::<HeaderMap>(), "10.0.0.1".parse().unwrap(), &trusted).to_string()
        };
        assert_eq!(of(&[b"\xff, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(of(&[b"\xff\xfe", b"203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(of(&[b"203.0.113.9, \xff, 10.0.0.2"]), "10.0.0.2", "the address before it is unknown");
        assert_eq!(of(&[b"1.1.1.1,"]), "10.0.0.1");
    }

    #[test]
    fn addresses_may_have_ports_and_brackets() {
        let cases = [
            ("2.2.2.2:1234", "2.2.2.2"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"[2001:db8::1]:443\"", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:2.2.2.2", "2.2.2.2"),
            (" 2.2.2.2 ", "2.2.2.2"),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text.as_bytes()), Some(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "unknown", "_hidden", "2.2.2", "2.2.2.2:99999", "[2.2.2.2", "fe80::1%eth0", "0x7f.1"] {
            assert_eq!(address(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_request_without_a_host_gets_no_forwarded_host() {
        let mut headers = HeaderMap::new();
        set_fields(&mut headers, &Hop { authority: None, ..hop("192.0.2.1", false) });
        assert_eq!(headers["forwarded"], "for=192.0.2.1;proto=http");
        assert_eq!((headers.get("x-forwarded-host"), &headers["x-forwarded-port"]), (None, &"80".parse().unwrap()));
    }

    #[test]
    fn x_real_ip_is_the_client_unless_a_trusted_proxy_has_set_it() {
        let client = "203.0.113.9".parse().unwrap();
        for (sent, expected) in [(None, "203.0.113.9"), (Some("198.51.100.7"), "198.51.100.7")] {
            let mut headers = HeaderMap::from_iter(sent.map(|address| (REAL_IP, address.parse().unwrap())));
            set_fields(&mut headers, &Hop { client, ..hop("10.0.0.1", true) });
            assert_eq!(headers["x-real-ip"], expected);
        }
    }

    #[test]
    fn only_tls_or_a_trusted_proxy_makes_a_request_secure() {
        let headers = map(&[("x-forwarded-proto", "HTTPS")]);
        assert!(is_secure(&headers, false, true));
        assert!(!is_secure(&headers, false, false));
        assert!(is_secure(&HeaderMap::new(), true, false));
        assert!(is_secure(&map(&[("x-forwarded-proto", "wss")]), false, true));
    }

    #[test]
    fn of_a_list_of_schemes_the_last_is_the_trusted_proxys_own() {
        let secure = |fields: &[(&'static str, &'static str)]| is_secure(&map(fields), false, true);
        assert!(!secure(&[("x-forwarded-proto", "https, http")]), "a client may send the first one");
        assert!(!secure(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]));
        assert!(secure(&[("x-forwarded-proto", "http, https")]));
        assert!(secure(&[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https,")]));
        let mut headers = map(&[("x-forwarded-proto", "https, http")]);
        set_fields(&mut headers, &hop("10.0.0.1", true));
        assert_eq!(headers["x-forwarded-proto"], "http");
    }

    #[test]
    fn the_proto_of_forwarded_counts_too() {
        let secure = |value| is_secure(&map(&[("forwarded", value)]), false, true);
        assert!(secure("for=192.0.2.1;proto=https"));
        assert!(secure("for=192.0.2.1;proto=http, for=\"[2001:db8::1]:80\"; Proto=\"HTTPS\""));
        assert!(secure("for=\"a\\\",b\";proto=https"));
        assert!(!secure("proto=https, for=192.0.2.1;proto=http"));
        assert!(!secure("proto=https, for=192.0.2.1"));
        assert!(!secure("for=\"a;proto=https"), "an unterminated quotation has no value");
        assert!(!is_secure(&map(&[("forwarded", "proto=https")]), false, false));
        let both = map(&[("forwarded", "proto=http"), ("x-forwarded-proto", "https")]);
        assert!(is_secure(&both, false, true), "Forwarded may describe the last hop only");
        let mut headers = map(&[("forwarded", "proto=https")]);
        set_fields(&mut headers, &Hop { authority: Some("chat.example.com"), ..hop("10.0.0.1", true) });
        assert_eq!(
            (&headers["x-forwarded-proto"], &headers["x-forwarded-port"]),
            (&"https".parse().unwrap(), &"443".parse().unwrap())
        );
    }

    #[test]
    fn the_port_follows_what_a_trusted_proxy_says() {
        let port = |fields: &[(&'static str, &'static str)]| {
            let mut headers = map(fields);
            set_fields(&mut headers, &Hop { authority: Some("chat.example.com"), ..hop("10.0.0.1", true) });
            headers["x-forwarded-port"].to_str().unwrap().to_owned()
        };
        assert_eq!(port(&[]), "80");
        assert_eq!(port(&[("x-forwarded-proto", "https")]), "443");
        assert_eq!(port(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "public.example.com:8443")]), "8443");
        assert_eq!(port(&[("x-forwarded-proto", "https"), ("x-forwarded-port", "444")]), "444");
    }
}
