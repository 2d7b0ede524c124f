//! Fields that end at a proxy (RFC 9110 §7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

use super::{error::Refusal, fields::Fields};

/// Fields that are meant for the next hop only. `Proxy` is no field at all, but CGI makes a variable of it that
/// libraries believe.
const HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that `Connection` cannot remove: how long a body is, where a request goes, and what we say of the client
/// ourselves.
const KEPT: [HeaderName; 7] = [
    CONTENT_LENGTH,
    HOST,
    FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
];

/// Removes what ends here from a request, and issues anew what the next hop must know.
pub(super) fn request_fields(headers: &mut HeaderMap) {
    let (trailers, chunked) = (headers.has_token(&TE, "trailers"), headers.contains_key(TRANSFER_ENCODING));
    strip(headers);
    if trailers {
        // A sender of TE names it in Connection (RFC 9110 §10.1.4).
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    if chunked {
        // Said outright, since hyper would send a GET of unknown length without its body; and never beside a length.
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes the head of an answer one of ours. It has our version (RFC 9112 §2.3), after which hyper frames the body.
///
/// # Errors
/// When the body has a transfer coding that hyper would leave in: the client would not be told of it.
pub(super) fn answer<B>(response: &mut Response<B>) -> Result<(), Refusal> {
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
        return Err(Refusal::BadAnswer);
    }
    *response.version_mut() = Version::HTTP_11;
    answer_fields(response.headers_mut());
    Ok(())
}

/// Removes what ends here from an answer. The transfer coding is anew hyper's to choose; a length beside chunked is
/// not to be believed (RFC 9112 §6.3).
fn answer_fields(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    strip(headers);
}

/// Removes the fields for the next hop, and those that `Connection` names. `Trailer` stays: it announces what is
/// passed on.
pub(super) fn strip(fields: &mut impl Fields) {
    let named: Vec<HeaderName> = fields.tokens(&CONNECTION).filter_map(|name| name.parse().ok()).collect();
    let trailer: Vec<Vec<u8>> = fields.lines(&TRAILER).map(<[u8]>::to_vec).collect();
    for name in named.iter().filter(|name| !KEPT.contains(name)).chain(&HOP_BY_HOP) {
        fields.remove(name);
    }
    for value in trailer {
        fields.add(TRAILER, value);
    }
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
        strip(&mut headers);
        let kept = [("host", "a"), ("x-forwarded-for", "192.0.2.1"), ("x-public", "2"), ("content-length", "3")];
        assert_eq!(headers, map(&kept));
    }

    #[test]
    fn trailers_are_asked_for_and_announced_anew() {
        let mut headers = map(&[("te", "gzip, trailers;q=1"), ("te", "trailers"), ("trailer", "x-sum")]);
        request_fields(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-sum"), ("te", "trailers"), ("connection", "TE")]));
    }

    #[test]
    fn no_length_stays_beside_chunked() {
        let mut request = map(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        request_fields(&mut request);
        assert_eq!(request, map(&[("transfer-encoding", "chunked")]));
        let mut answer = map(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        answer_fields(&mut answer);
        assert!(answer.is_empty());
    }
}
