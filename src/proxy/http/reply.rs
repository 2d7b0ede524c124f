//! Responses that the proxy generates itself: short, stating the cause.

use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT, ALLOW, CONNECTION, CONTENT_TYPE, LOCATION, SEC_WEBSOCKET_VERSION, UPGRADE},
};

use crate::proxy::{
    body::{self, Body},
    fields::{Fields, visible},
    request::{account::Account, denied::Denied, handshake::HandshakeFault, refusal::Refusal},
};

/// How many elements of `Accept` are examined, since each is examined several times.
const MAX_RANGES: usize = 64;

/// Whether a client prefers JSON to text.
pub(crate) fn wants_json(headers: &impl Fields) -> bool {
    headers.has(&ACCEPT)
        && quality(headers, "application/json", "application/*") > quality(headers, "text/plain", "text/*")
}

/// A client's preference for a media type, from 0 to 1 (RFC 9110 §12.5.1): the weight of the type itself, or else of
/// its wildcard. `*/*` expresses no preference.
fn quality(headers: &impl Fields, media_type: &str, kind: &str) -> f32 {
    let of = |wanted: &str| {
        let elements = headers.lines(&ACCEPT).flat_map(|line| line.split(|byte| *byte == b',')).take(MAX_RANGES);
        let ranges = elements.filter_map(visible).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next()?.eq_ignore_ascii_case(wanted).then(|| weight(parts))
        });
        ranges.reduce(f32::max)
    };
    of(media_type).or_else(|| of(kind)).unwrap_or(0.0)
}

/// The weight among the parameters of a range: 1 if there is none, 0 if it is invalid.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> f32 {
    let weight = parameters.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
    weight.map_or(1.0, |weight| weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0))
}

/// The response to a request that does not get what it asked for, which is recorded in its account.
pub(crate) fn denied(denied: Denied, json: bool, account: &Account) -> Response<Body> {
    match denied {
        Denied::Refused(refusal) => {
            account.refuse(&refusal);
            reply(&refusal, json)
        }
        Denied::Answered(response) => answered(*response, account),
    }
}

/// A backend's response, which is recorded in the account.
pub(crate) fn answered(mut response: Response<Body>, account: &Account) -> Response<Body> {
    account.respond(response.status());
    upgrade_required(&mut response);
    response
}

/// The response to a refused request.
fn reply(refusal: &Refusal, json: bool) -> Response<Body> {
    let (kind, content) = content(refusal, json);
    let mut response = Response::new(body::text(content));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if refusal.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    match refusal {
        Refusal::Redirect(url) => {
            // A target may contain bytes that are not ASCII.
            if let Ok(url) = HeaderValue::from_bytes(url.as_bytes()) {
                headers.insert(LOCATION, url);
            }
        }
        Refusal::Handshake(HandshakeFault::Version) => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        Refusal::Handshake(HandshakeFault::Method) => {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        Refusal::Trace => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        _ => {}
    }
    upgrade_required(&mut response);
    response
}

/// Adds the protocol to a 426 (RFC 9110 §15.5.22), even from a backend, whose `Upgrade` field was removed at this hop.
fn upgrade_required(response: &mut Response<Body>) {
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// The response to a request that hyper could not read, as bytes. The connection closes after it.
pub(crate) fn raw(refusal: &Refusal) -> Vec<u8> {
    let (kind, content) = content(refusal, false);
    let (status, length) = (refusal.status(), content.len());
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{content}"
    )
    .into_bytes()
}

fn content(refusal: &Refusal, json: bool) -> (&'static str, String) {
    if json {
        ("application/json", format!("{}\n", serde_json::json!({ "error": refusal.to_string() })))
    } else {
        ("text/plain; charset=utf-8", format!("{refusal}\n"))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn every_426_says_what_to_upgrade_to() {
        for refusal in [
            Refusal::NoUpgrade,
            HandshakeFault::Version.into(),
            HandshakeFault::NoUpgrade.into(),
            HandshakeFault::NoConnection.into(),
        ] {
            let response = reply(&refusal, false);
            assert_eq!(response.status(), 426, "{refusal}");
            assert_eq!(response.headers()[UPGRADE], "websocket");
            assert_eq!(response.headers()[CONNECTION], "Upgrade");
        }
        assert_eq!(reply(&HandshakeFault::Version.into(), false).headers()[SEC_WEBSOCKET_VERSION], "13");
    }

    #[test]
    fn json_is_for_those_who_ask() {
        let accept = |value| wants_json(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]));
        assert!(accept("application/json"));
        assert!(accept("text/html, Application/JSON; q=0.9"));
        assert!(!accept("*/*") && !accept("text/html") && !wants_json(&HeaderMap::new()));
        assert!(accept("application/*, */*") && accept("application/json;charset=utf-8;q=0.5, text/*;q=0.1"));
        assert!(!accept("application/json;q=0") && !accept("application/*, application/json;q=0"));
        assert!(!accept("text/plain, application/json;q=0.9"), "text is preferred");
        assert!(!accept("application/json, text/plain"), "both are equally good");
        let late = |before: usize| format!("{}application/json", "a/b,".repeat(before));
        let accept_late = |before| wants_json(&HeaderMap::from_iter([(ACCEPT, late(before).parse().unwrap())]));
        assert!(accept_late(MAX_RANGES - 1) && !accept_late(MAX_RANGES), "no more are examined");
        assert!(!accept("application/jsonp") && !accept("application/json;q=high"));
        assert_eq!(content(&Refusal::NotFound, true).1, "{\"error\":\"no route matches\"}\n");
    }

    #[test]
    fn what_hyper_cannot_read_is_answered_in_full() {
        let raw = String::from_utf8(raw(&Refusal::TransferCoding)).unwrap();
        assert!(raw.starts_with("HTTP/1.1 501 Not Implemented\r\n"), "{raw}");
        assert!(raw.ends_with("\r\n\r\nTransfer-Encoding must be chunked and nothing else\n"), "{raw}");
    }
}
