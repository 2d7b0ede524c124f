//! Hop-by-hop fields, which end at a proxy (RFC 9110 §7.6.1).

use std::collections::HashSet;

use http::{
    HeaderMap, HeaderValue, Response, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
};

use super::{handshake::accept_of, refusal::BadResponse};
use crate::proxy::fields::{Fields, protected::ProtectedFields, visible};

/// Fields for the next hop only. `Proxy` is not a registered field, but CGI turns it into a variable that libraries
/// trust. `Trailer` is not listed: it announces what is forwarded.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that `Connection` cannot remove: the length of a body, its trailers, and the host of a request.
const KEPT: [&str; 3] = ["content-length", "host", "trailer"];

/// Removes the hop-by-hop fields of a request, and adds those that the next hop needs.
pub(crate) fn request_fields(headers: &mut HeaderMap, protected: &ProtectedFields) {
    let (trailers, chunked) = (headers.has_token(&TE, "trailers"), headers.contains_key(TRANSFER_ENCODING));
    strip(headers, |name| protected.contains(name));
    if trailers {
        // A sender of TE must name it in Connection (RFC 9110 §10.1.4).
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    if chunked {
        // Set explicitly, since hyper would send a GET of unknown length without its body; and never beside a length.
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Turns the fields of a request into the proxy's own handshake (RFC 6455 §4.1), and returns the `Sec-WebSocket-Accept`
/// for it. The key is the client's: the response then proves to the client that the backend has understood.
pub(crate) fn handshake_fields(fields: &mut impl Fields, protected: &ProtectedFields) -> String {
    let key = fields.only(&SEC_WEBSOCKET_KEY).expect("an upgrade request has a key").to_vec();
    let accept = accept_of(&key);
    strip(fields, |name| protected.contains(name));
    for name in &[CONTENT_LENGTH, EXPECT, TE, TRAILER] {
        fields.remove(name);
    }
    fields.set(UPGRADE, b"websocket");
    fields.set(CONNECTION, b"Upgrade");
    fields.set(SEC_WEBSOCKET_VERSION, b"13");
    // The client may have named it in Connection, which removes it.
    fields.set(SEC_WEBSOCKET_KEY, key);
    accept
}

/// Turns the fields of a backend's response into the proxy's own.
///
/// # Errors
/// If the length or the coding of the body is ambiguous.
pub(crate) fn response_fields(fields: &mut impl Fields) -> Result<(), BadResponse> {
    check_coding(fields)?;
    if fields.has(&TRANSFER_ENCODING) {
        // A length beside chunked must not be trusted (RFC 9112 §6.3).
        fields.remove(&CONTENT_LENGTH);
    }
    merge_lengths(fields)?;
    // The transfer coding is chosen again when the response is written.
    strip(fields, |_| false);
    Ok(())
}

/// The same for a response from hyper. It gets our version (RFC 9112 §2.3), after which hyper frames the body.
pub(crate) fn response<B>(response: &mut Response<B>) -> Result<(), BadResponse> {
    *response.version_mut() = Version::HTTP_11;
    response_fields(response.headers_mut())
}

/// Rejects codings that hyper would not decode, since the client would not learn about them.
fn check_coding(fields: &impl Fields) -> Result<(), BadResponse> {
    let mut codings = fields.lines(&TRANSFER_ENCODING);
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
        return Err(BadResponse::TransferCoding);
    }
    Ok(())
}

/// Merges equal lengths, in any combination of lines and lists (RFC 9110 §8.6); this includes responses without a body,
/// to HEAD and with 304, whose lengths nothing else checks.
fn merge_lengths(fields: &mut impl Fields) -> Result<(), BadResponse> {
    let mut lengths = fields.lines(&CONTENT_LENGTH).flat_map(|line| line.split(|byte| *byte == b','));
    let Some(first) = lengths.next() else { return Ok(()) };
    let length = parse_length(first)?;
    for other in lengths {
        if parse_length(other)? != length {
            return Err(BadResponse::ContentLength);
        }
    }
    fields.set(CONTENT_LENGTH, length.to_string().into_bytes());
    Ok(())
}

fn parse_length(text: &[u8]) -> Result<u64, BadResponse> {
    let digits = visible(text.trim_ascii()).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(BadResponse::ContentLength)
}

/// Removes the fields for the next hop, and those that `Connection` names unless they are kept. Each field is looked up
/// once, however many names there are.
pub(crate) fn strip(fields: &mut impl Fields, is_kept: impl Fn(&str) -> bool) {
    let named: HashSet<String> = fields.tokens(&CONNECTION).filter(is_telling).map(str::to_ascii_lowercase).collect();
    fields.retain(|name| {
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        let is_named = !named.is_empty() && named.contains(&name.to_ascii_lowercase());
        let may_go = || !KEPT.iter().any(is) && !is_kept(name);
        !(HOP_BY_HOP.iter().any(is) || is_named && may_go())
    });
}

/// Whether an option of `Connection` matters: most name fields that are removed anyway.
fn is_telling(name: &&str) -> bool {
    !["close", "keep-alive", "upgrade"].iter().any(|usual| name.eq_ignore_ascii_case(usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_for_one_hop_ends_here_with_all_that_connection_names() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close, content-length, X-Forwarded-For, host"),
            ("host", "a"),
            ("x-forwarded-for", "192.0.2.1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("x-private", "1"),
            ("x-public", "2"),
            ("content-length", "3"),
        ]);
        strip(&mut headers, |name| ProtectedFields::default().contains(name));
        let kept = [("host", "a"), ("x-forwarded-for", "192.0.2.1"), ("x-public", "2"), ("content-length", "3")];
        assert_eq!(headers, map(&kept));
    }

    #[test]
    fn trailers_are_requested_and_announced_again() {
        let mut headers = map(&[("te", "gzip, trailers;q=1"), ("te", "trailers"), ("trailer", "x-sum")]);
        request_fields(&mut headers, &ProtectedFields::default());
        assert_eq!(headers, map(&[("trailer", "x-sum"), ("te", "trailers"), ("connection", "TE")]));
    }

    #[test]
    fn no_length_stays_beside_chunked() {
        let mut request = map(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        request_fields(&mut request, &ProtectedFields::default());
        assert_eq!(request, map(&[("transfer-encoding", "chunked")]));
        assert_eq!(passed(&[("transfer-encoding", "chunked"), ("content-length", "3")]), Ok(HeaderMap::new()));
    }

    /// The fields of a response as the client receives them.
    fn passed(fields: &[(&'static str, &'static str)]) -> Result<HeaderMap, BadResponse> {
        let mut received = Response::new(());
        *received.headers_mut() = map(fields);
        response(&mut received)?;
        Ok(received.into_parts().0.headers)
    }

    #[test]
    fn equal_lengths_of_a_response_become_one() {
        for lengths in [&["5"][..], &["5", "5"], &["5, 5"], &["5,5", " 5 ", "05"]] {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            assert_eq!(passed(&fields), Ok(map(&[("content-length", "5")])), "{lengths:?}");
        }
    }

    #[test]
    fn lengths_of_a_response_that_are_in_doubt_are_refused() {
        for lengths in [&["x"][..], &["-5"], &["+5"], &["5, 6"], &["5", "6"], &[""], &["5,"], &["99999999999999999999"]]
        {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            assert_eq!(passed(&fields), Err(BadResponse::ContentLength), "{lengths:?}");
        }
    }

    #[test]
    fn codings_of_a_response_that_hyper_would_leave_in_are_refused() {
        for codings in [&["gzip, chunked"][..], &["chunked", "chunked"], &["chunked, chunked"], &["identity"]] {
            let fields: Vec<_> = codings.iter().map(|coding| ("transfer-encoding", *coding)).collect();
            assert_eq!(passed(&fields), Err(BadResponse::TransferCoding), "{codings:?}");
        }
    }
}
