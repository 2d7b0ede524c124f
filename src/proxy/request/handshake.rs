//! The opening handshake of a WebSocket connection (RFC 6455 §4), without any IO.

use aws_lc_rs::digest;
use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use http::{
    Method, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
        UPGRADE,
    },
};

use crate::proxy::fields::Fields;

/// The GUID that is appended to a key before it is hashed (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// An ordinary response. This includes an upgrade to anything but websocket: a server may ignore `Upgrade`
    /// (RFC 9110 §7.8).
    Plain,
    /// A WebSocket connection.
    Upgrade,
    /// A WebSocket connection, but not as RFC 6455 requires.
    Faulty(HandshakeFault),
}

/// What is wrong with a handshake (RFC 6455 §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeFault {
    /// Number 1.
    #[error("a WebSocket handshake must be a GET request")]
    Method,
    /// Number 3, if the rest of the handshake is present.
    #[error(
        "the Upgrade field is missing from a WebSocket handshake: a proxy or CDN in between may have removed it, or \
         may not be configured for WebSockets"
    )]
    NoUpgrade,
    /// Number 4, if the rest of the handshake is present.
    #[error(
        "\"Connection: Upgrade\" is missing from a WebSocket handshake: a proxy or CDN in between may have removed \
         it, or may not be configured for WebSockets"
    )]
    NoConnection,
    /// Number 6.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// Number 5.
    #[error("Sec-WebSocket-Key must be present once, with 16 bytes in base64")]
    Key,
    /// Bytes after the head would be interpreted as frames.
    #[error("a WebSocket handshake must not have a body")]
    Body,
}

/// What a request asks for, according to its head.
pub(crate) fn intent(method: &Method, version: Version, fields: &impl Fields) -> Intent {
    if version != Version::HTTP_11 {
        return Intent::Plain;
    }
    let upgrade = fields.has_token(&UPGRADE, "websocket");
    let connection = fields.has_token(&CONNECTION, "upgrade");
    let rest = fields.has(&SEC_WEBSOCKET_KEY) || fields.has(&SEC_WEBSOCKET_VERSION);
    match (upgrade, connection) {
        (true, true) => checked(method, fields).map_or_else(Intent::Faulty, |()| Intent::Upgrade),
        // Handshake fields in a request for something else (such as h2c) do not prove that a field was lost.
        (false, _) if rest && *method == Method::GET && !fields.has(&UPGRADE) => {
            Intent::Faulty(HandshakeFault::NoUpgrade)
        }
        (true, false) if rest && *method == Method::GET => Intent::Faulty(HandshakeFault::NoConnection),
        _ => Intent::Plain,
    }
}

fn checked(method: &Method, fields: &impl Fields) -> Result<(), HandshakeFault> {
    if *method != Method::GET {
        return Err(HandshakeFault::Method);
    }
    if fields.has(&TRANSFER_ENCODING) || fields.lines(&CONTENT_LENGTH).any(|length| !is_zero(length)) {
        return Err(HandshakeFault::Body);
    }
    if fields.only(&SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(HandshakeFault::Version);
    }
    if fields.only(&SEC_WEBSOCKET_KEY).is_none_or(|key| !is_nonce(key)) {
        return Err(HandshakeFault::Key);
    }
    Ok(())
}

fn is_zero(length: &[u8]) -> bool {
    !length.is_empty() && length.iter().all(|digit| *digit == b'0')
}

/// Unused bits of the last character may have any value: they do in RFC 6455's own example (§4.1), and in keys from
/// small devices.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

fn is_nonce(key: &[u8]) -> bool {
    // The largest size that base64 of the right length may decode to.
    LENIENT.decode_slice(key, &mut [0; 18]) == Ok(16)
}

/// Why the response to our own handshake is not valid (RFC 6455 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSwitch {
    /// A server cannot switch in HTTP/1.0 (RFC 9110 §7.8).
    #[error("the 101 is not HTTP/1.1")]
    Version,
    /// Number 2.
    #[error("the 101 has no \"Upgrade: websocket\"")]
    NoUpgrade,
    /// Number 3.
    #[error("the 101 has no \"Connection: Upgrade\"")]
    NoConnection,
    /// Number 4.
    #[error("Sec-WebSocket-Accept does not match the key")]
    Accept,
    /// A 101 to a plain request.
    #[error("it switched protocols without being asked")]
    Unasked,
}

/// Checks a 101 in response to a handshake whose key requires this `accept`.
pub(crate) fn check_switch(version: Version, fields: &impl Fields, accept: &str) -> Result<(), BadSwitch> {
    if version != Version::HTTP_11 {
        return Err(BadSwitch::Version);
    }
    if !fields.has_token(&UPGRADE, "websocket") {
        return Err(BadSwitch::NoUpgrade);
    }
    if !fields.has_token(&CONNECTION, "upgrade") {
        return Err(BadSwitch::NoConnection);
    }
    if fields.only(&SEC_WEBSOCKET_ACCEPT) != Some(accept.as_bytes()) {
        return Err(BadSwitch::Accept);
    }
    Ok(())
}

/// The `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2, number 5.4).
pub(crate) fn accept_of(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn of(method: &Method, version: Version, fields: &[(&'static str, &'static str)]) -> Intent {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        intent(method, version, &fields.collect::<HeaderMap>())
    }

    fn get(fields: &[(&'static str, &'static str)]) -> Intent {
        of(&Method::GET, Version::HTTP_11, fields)
    }

    const GOOD: [(&str, &str); 4] = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        let mut fields: Vec<_> = GOOD.into_iter().filter(|(there, _)| *there != name).collect();
        fields.push((name, value));
        fields
    }

    fn without(names: &[&str]) -> Vec<(&'static str, &'static str)> {
        GOOD.into_iter().filter(|(there, _)| !names.contains(there)).collect()
    }

    #[test]
    fn handshakes_are_recognised_in_lists_and_in_any_case() {
        assert_eq!(get(&GOOD), Intent::Upgrade);
        assert_eq!(get(&with("connection", "keep-alive, Upgrade")), Intent::Upgrade);
        assert_eq!(get(&with("connection", "keep-alive,uPGRADE ,x")), Intent::Upgrade);
        assert_eq!(get(&with("upgrade", "h2c, WebSocket")), Intent::Upgrade);
        assert_eq!(get(&with("content-length", "0")), Intent::Upgrade);
    }

    #[test]
    fn each_fault_has_its_name() {
        assert_eq!(of(&Method::POST, Version::HTTP_11, &GOOD), Intent::Faulty(HandshakeFault::Method));
        assert_eq!(get(&without(&["upgrade"])), Intent::Faulty(HandshakeFault::NoUpgrade));
        assert_eq!(get(&without(&["connection"])), Intent::Faulty(HandshakeFault::NoConnection));
        assert_eq!(get(&without(&["connection", "upgrade"])), Intent::Faulty(HandshakeFault::NoUpgrade));
        assert_eq!(get(&without(&["sec-websocket-version"])), Intent::Faulty(HandshakeFault::Version));
        for version in ["8", "013", "13, 8", ""] {
            assert_eq!(
                get(&with("sec-websocket-version", version)),
                Intent::Faulty(HandshakeFault::Version),
                "{version}"
            );
        }
        assert_eq!(get(&without(&["sec-websocket-key"])), Intent::Faulty(HandshakeFault::Key));
        for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "dGhlIHNhbXBsZSBub25jZR=="] {
            assert_eq!(get(&with("sec-websocket-key", key)), Intent::Upgrade, "{key}: unused bits may have any value");
        }
        for key in ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "!hlIHNhbXBsZSBub25jZQ=="] {
            assert_eq!(get(&with("sec-websocket-key", key)), Intent::Faulty(HandshakeFault::Key), "{key}");
        }
        let mut twice = GOOD.to_vec();
        twice.push(("sec-websocket-key", KEY));
        assert_eq!(get(&twice), Intent::Faulty(HandshakeFault::Key));
        assert_eq!(get(&with("content-length", "5")), Intent::Faulty(HandshakeFault::Body));
        assert_eq!(get(&with("transfer-encoding", "chunked")), Intent::Faulty(HandshakeFault::Body));
    }

    #[test]
    fn everything_else_is_plain() {
        assert_eq!(get(&[]), Intent::Plain);
        assert_eq!(of(&Method::GET, Version::HTTP_10, &GOOD), Intent::Plain);
        assert_eq!(get(&[("upgrade", "h2c"), ("connection", "Upgrade, HTTP2-Settings")]), Intent::Plain);
        assert_eq!(get(&[("connection", "upgrade")]), Intent::Plain);
        assert_eq!(get(&[("upgrade", "websocket")]), Intent::Plain);
        assert_eq!(of(&Method::POST, Version::HTTP_11, &without(&["upgrade"])), Intent::Plain);
    }

    #[test]
    fn the_accept_is_that_of_the_example_in_the_rfc() {
        assert_eq!(accept_of(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_switch_needs_all_three_fields() {
        let check = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            check_switch(Version::HTTP_11, &fields.collect::<HeaderMap>(), &accept_of(KEY.as_bytes()))
        };
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (upgrade, connection) = (("upgrade", "WebSocket"), ("connection", "upgrade"));
        assert_eq!(check(&[upgrade, connection, accept]), Ok(()));
        assert_eq!(check(&[connection, accept]), Err(BadSwitch::NoUpgrade));
        assert_eq!(check(&[upgrade, accept]), Err(BadSwitch::NoConnection));
        assert_eq!(check(&[upgrade, connection]), Err(BadSwitch::Accept));
        assert_eq!(check(&[upgrade, connection, ("sec-websocket-accept", KEY)]), Err(BadSwitch::Accept));
        assert_eq!(check_switch(Version::HTTP_10, &HeaderMap::new(), ""), Err(BadSwitch::Version));
    }
}
