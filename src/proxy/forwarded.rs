//! What backends are told about the client: `X-Forwarded-*` and `Forwarded` (RFC 7239).

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use ipnet::IpNet;

use super::handshake::tokens;

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

/// Whether the client came over TLS, to us or to a trusted proxy before us.
pub(super) fn is_secure(headers: &HeaderMap, tls: bool, trusted: bool) -> bool {
    let said = || tokens(headers.get_all(PROTO).iter()).next();
    tls || (trusted
        && said().is_some_and(|proto| proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss")))
}

/// The address of the client: the last one in `X-Forwarded-For` that no trusted proxy has, where the peer is one.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, trusted_proxies: &[IpNet]) -> IpAddr {
    let trusted = |address: &IpAddr| trusted_proxies.iter().any(|net| net.contains(address));
    if !trusted(&peer) {
        return peer;
    }
    let said: Vec<&str> = tokens(headers.get_all(FOR).iter()).collect();
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
pub(super) fn set(headers: &mut HeaderMap, hop: &Hop<'_>) {
    if !hop.trusted {
        for name in [FOR, PROTO, HOST, PORT, FORWARDED] {
            headers.remove(name);
        }
    }
    let element = element(hop);
    append(headers, FOR, &hop.peer.to_string());
    append(headers, FORWARDED, &element);
    let proto = if hop.tls { "https" } else { "http" };
    for (name, value) in [(PROTO, proto), (HOST, hop.authority), (PORT, port(hop))] {
        if !headers.contains_key(&name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    }
}

/// One line: some backends read only the first or the last of several.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let mut line: Vec<u8> =
        headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
    if !line.is_empty() {
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(value.as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(name, line);
    }
}

/// RFC 7239 §4; an IPv6 address is bracketed and quoted (§6), a host always quoted, since it may have a port.
fn element(hop: &Hop<'_>) -> String {
    let address = match hop.peer {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let proto = if hop.tls { "https" } else { "http" };
    format!("for={address};host=\"{}\";proto={proto}", hop.authority)
}

fn port<'a>(hop: &Hop<'a>) -> &'a str {
    let after_address = hop.authority.rfind(']').unwrap_or(0);
    match hop.authority[after_address..].split_once(':') {
        Some((_, port)) if !port.is_empty() => port,
        _ if hop.tls => "443",
        _ => "80",
    }
}

#[cfg(test)]
mod tests {
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
        assert!(!is_secure(&map(&[("x-forwarded-proto", "http, https")]), false, true));
    }
}
