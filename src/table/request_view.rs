//! The parts of a request that matching looks at.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};

use super::expression::MAX_MATCHED_BYTES;

/// How many query parameters are examined, which bounds the cost of a match.
const MAX_PARAMETERS: usize = 100;

/// Access to the header fields of a request, regardless of how they are stored.
pub trait HeaderLines {
    /// The values of a field, one for each line.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;
}

impl HeaderLines for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

/// The parts of a request that decide which rule serves it. Borrows the head.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a, H> {
    /// The path in its normal form ([`super::NormalPath`]).
    pub path: &'a str,
    /// The query as received, without its `?`; empty if there is none.
    pub query: &'a str,
    /// Whether the request asks for a WebSocket.
    pub is_upgrade: bool,
    /// The header fields.
    pub headers: &'a H,
}

impl<'a, H: HeaderLines> RequestView<'a, H> {
    /// The value of a field; if it has several lines, their values joined by commas (RFC 9110 §5.3). A combination that
    /// is longer than any condition can match counts as absent.
    pub(super) fn header(&self, name: &'a HeaderName) -> Option<Cow<'a, [u8]>> {
        let mut lines = self.headers.lines(name);
        let mut value = Cow::Borrowed(lines.next()?.trim_ascii());
        for line in lines {
            let combined = value.to_mut();
            combined.push(b',');
            combined.extend_from_slice(line.trim_ascii());
            if combined.len() > MAX_MATCHED_BYTES {
                return None;
            }
        }
        Some(value)
    }

    /// The decoded value of the first query parameter with a name, copied only if it contains escapes.
    pub(super) fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut parameters = self.query.split('&').take(MAX_PARAMETERS);
        let sent = parameters.find(|sent| is_named(sent, name))?;
        form_urlencoded::parse(sent.as_bytes()).next().map(|(_, value)| value)
    }

    /// Whether the client offers a subprotocol; only requests for a WebSocket can.
    pub(super) fn offers(&self, subprotocol: &str) -> bool {
        let mut offered = self.headers.lines(&SEC_WEBSOCKET_PROTOCOL).flat_map(|line| line.split(|byte| *byte == b','));
        self.is_upgrade && offered.any(|offered| offered.trim_ascii() == subprotocol.as_bytes())
    }
}

/// Whether a parameter, as received, has this name.
fn is_named(sent: &str, name: &str) -> bool {
    let sent = sent.split('=').next().unwrap_or_default();
    if !sent.contains(['%', '+']) {
        return sent == name && !name.is_empty();
    }
    form_urlencoded::parse(sent.as_bytes()).next().is_some_and(|(sent, _)| sent == name)
}
