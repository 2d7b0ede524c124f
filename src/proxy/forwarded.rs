//! What backends are told about the client: `X-Forwarded-*` and `Forwarded` (RFC 7239).

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderName, header::FORWARDED};
use ipnet::IpNet;

use super::fields::{Fields, visible};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What we know of a request's way here ourselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop<'a> {
    /// The peer of the connection.
    pub peer: IpAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The authority of the request, as it was sent.
    pub authority: &'a str,
    /// Whether what the peer says about those before it is believed.
    pub trusted: bool,
}

impl Hop<'_> {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Whether the client came over TLS, to us or to a trusted proxy before us.
pub(super) fn is_secure(fields: &impl Fields, tls: bool, trusted: bool) -> bool {
    tls || (trusted && said_scheme(fields).is_some_and(|scheme| is_tls(&scheme)))
}

fn is_tls(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")
}

/// The scheme that the proxy before us says the client used. `X-Forwarded-Proto` goes first: we pass it on as it was
/// given, while our own element of `Forwarded` tells of our hop only.
fn said_scheme(fields: &impl Fields) -> Option<String> {
    said(fields, &PROTO).map(str::to_owned).or_else(|| forwarded_scheme(fields))
}

/// What the proxy before us wrote into a field: the last value, since it may have appended to what the client sent.
fn said<'a>(fields: &'a impl Fields, name: &'a HeaderName) -> Option<&'a str> {
    fields.tokens(name).filter(|value| !value.is_empty()).last()
}

/// `proto` of the last element of `Forwarded`. Nothing, where a client left a quotation open to swallow what the
/// proxy has appended.
fn forwarded_scheme(fields: &impl Fields) -> Option<String> {
    let lines: Option<Vec<&str>> = fields.lines(&FORWARDED).map(visible).collect();
    let line = lines?.join(",");
    let last = *split_unquoted(&line, ',')?.last()?;
    split_unquoted(last, ';')?.into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("proto").then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// The parts of a text between separators that are in no quotation; nothing where a quotation has no end.
fn split_unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let mut separates = |char: char| {
        quoted ^= char == '"' && !escaped;
        escaped = quoted && !escaped && char == '\\';
        char == separator && !quoted
    };
    let parts = text.split(&mut separates).collect();
    (!quoted).then_some(parts)
}

/// The address of the client: the last one in `X-Forwarded-For` that no trusted proxy has, where the peer is one.
pub(super) fn client(fields: &impl Fields, peer: IpAddr, trusted_proxies: &[IpNet]) -> IpAddr {
    let trusted = |address: &IpAddr| trusted_proxies.iter().any(|net| net.contains(address));
    if !trusted(&peer) {
        return peer;
    }
    let name = FOR;
    let said: Vec<&str> = fields.tokens(&name).collect();
    let mut client = peer;
    for address in said.into_iter().rev() {
        let Ok(address) = address.parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !trusted(&client) {
            break;
        }
    }
    client
}

/// Tells the backend about the request's way. What an untrusted peer sent under these names goes.
pub(super) fn set(fields: &mut impl Fields, hop: &Hop<'_>) {
    if !hop.trusted {
        for name in &[FOR, PROTO, HOST, PORT, FORWARDED] {
            fields.remove(name);
        }
    }
    let peer = hop.peer.to_string();
    let element = element(hop, &peer);
    let scheme = said_scheme(fields).map_or(Cow::Borrowed(hop.scheme()), Cow::Owned);
    let port = port(said(fields, &HOST).unwrap_or(hop.authority), &scheme).to_owned();
    append(fields, FOR, peer);
    append(fields, FORWARDED, element);
    // One value, since many backends read the first of a list, which may be the client's own.
    fields.set(PROTO, bytes(scheme));
    if !fields.has(&HOST) {
        fields.set(HOST, hop.authority.as_bytes().to_vec());
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

/// One line: some backends read only the first or the last of several.
fn append(fields: &mut impl Fields, name: HeaderName, value: String) {
    let mut line = fields.lines(&name).collect::<Vec<_>>().join(&b", "[..]);
    if line.is_empty() {
        return fields.set(name, value.into_bytes());
    }
    line.extend_from_slice(b", ");
    line.extend_from_slice(value.as_bytes());
    fields.set(name, line);
}

/// RFC 7239 §4; an IPv6 address is bracketed and quoted (§6), a host always quoted, since it may have a port.
fn element(hop: &Hop<'_>, peer: &str) -> String {
    let (before, after) = if hop.peer.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
    ["for=", before, peer, after, ";host=\"", hop.authority, "\";proto=", hop.scheme()].concat()
}

/// The port that the client asked: that of the authority, else that of the scheme.
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

    fn hop(peer: &str, trusted: bool) -> Hop<'static> {
        Hop { peer: peer.parse().unwrap(), tls: false, authority: "chat.example.com:8080", trusted }
    }

    #[test]
    fn claims_of_strangers_are_replaced() {
        let mut headers = map(CLAIMS);
        set(&mut headers, &hop("192.0.2.1", false));
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1;host=\"chat.example.com:8080\";proto=http"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "chat.example.com:8080"),
            ("x-forwarded-port", "8080"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_continued() {
        let mut headers = map(CLAIMS);
        set(&mut headers, &hop("10.0.0.1", true));
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 10.0.0.1");
        assert_eq!(headers["forwarded"], "for=203.0.113.9, for=10.0.0.1;host=\"chat.example.com:8080\";proto=http");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "public.example.com");
        assert_eq!(headers["x-forwarded-port"], "443");
    }

    #[test]
    fn addresses_of_version_6_are_quoted_in_forwarded() {
        let mut headers = HeaderMap::new();
        set(&mut headers, &Hop { authority: "[2001:db8::1]", tls: true, ..hop("2001:db8::2", false) });
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::2]\";host=\"[2001:db8::1]\";proto=https");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::2");
        assert_eq!(headers["x-forwarded-port"], "443");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_of_a_trusted_proxy() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let of = |peer: &str, said: &'static str| {
            client(&map(&[("x-forwarded-for", said)]), peer.parse().unwrap(), &trusted).to_string()
        };
        assert_eq!(of("192.0.2.1", "203.0.113.9"), "192.0.2.1", "a stranger's word is worth nothing");
        assert_eq!(of("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(of("10.0.0.1", "10.0.0.3"), "10.0.0.3");
        assert_eq!(of("10.0.0.1", "1.1.1.1, unknown"), "10.0.0.1");
        assert_eq!(of("10.0.0.1", ""), "10.0.0.1");
    }

    #[test]
    fn only_tls_or_a_trusted_word_makes_a_request_secure() {
        let said = map(&[("x-forwarded-proto", "HTTPS")]);
        assert!(is_secure(&said, false, true));
        assert!(!is_secure(&said, false, false));
        assert!(is_secure(&HeaderMap::new(), true, false));
        assert!(is_secure(&map(&[("x-forwarded-proto", "wss")]), false, true));
    }

    #[test]
    fn of_a_list_of_schemes_the_last_is_the_trusted_proxys_own() {
        let said = |fields: &[(&'static str, &'static str)]| is_secure(&map(fields), false, true);
        assert!(!said(&[("x-forwarded-proto", "https, http")]), "a client may send the first one");
        assert!(!said(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]));
        assert!(said(&[("x-forwarded-proto", "http, https")]));
        assert!(said(&[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https,")]));
        let mut headers = map(&[("x-forwarded-proto", "https, http")]);
        set(&mut headers, &hop("10.0.0.1", true));
        assert_eq!(headers["x-forwarded-proto"], "http");
    }

    #[test]
    fn forwarded_is_believed_as_well() {
        let said = |value| is_secure(&map(&[("forwarded", value)]), false, true);
        assert!(said("for=192.0.2.1;proto=https"));
        assert!(said("for=192.0.2.1;proto=http, for=\"[2001:db8::1]:80\"; Proto=\"HTTPS\""));
        assert!(said("for=\"a\\\",b\";proto=https"));
        assert!(!said("proto=https, for=192.0.2.1;proto=http"));
        assert!(!said("proto=https, for=192.0.2.1"));
        assert!(!said("for=\"a;proto=https"), "a quotation without an end tells nothing");
        assert!(!is_secure(&map(&[("forwarded", "proto=https")]), false, false));
        let both = map(&[("forwarded", "proto=http"), ("x-forwarded-proto", "https")]);
        assert!(is_secure(&both, false, true), "Forwarded may tell of the last hop only");
        let mut headers = map(&[("forwarded", "proto=https")]);
        set(&mut headers, &Hop { authority: "chat.example.com", ..hop("10.0.0.1", true) });
        assert_eq!(
            (&headers["x-forwarded-proto"], &headers["x-forwarded-port"]),
            (&"https".parse().unwrap(), &"443".parse().unwrap())
        );
    }

    #[test]
    fn the_port_follows_what_a_trusted_proxy_says() {
        let port = |fields: &[(&'static str, &'static str)]| {
            let mut headers = map(fields);
            set(&mut headers, &Hop { authority: "chat.example.com", ..hop("10.0.0.1", true) });
            headers["x-forwarded-port"].to_str().unwrap().to_owned()
        };
        assert_eq!(port(&[]), "80");
        assert_eq!(port(&[("x-forwarded-proto", "https")]), "443");
        assert_eq!(port(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "public.example.com:8443")]), "8443");
        assert_eq!(port(&[("x-forwarded-proto", "https"), ("x-forwarded-port", "444")]), "444");
    }
}
