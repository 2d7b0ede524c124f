//! Request fields that backends take for the word of a proxy: an untrusted client may not send them.

use http::HeaderMap;
use http_body::Frame;

use super::Fields;

/// Fields that some backend, framework or middleware believes without asking who wrote them. `docs/security.md` lists
/// them; those that begin with [`PREFIX`] belong here too.
pub(crate) const PROTECTED: [&str; 18] = [
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];
/// `X-Forwarded-For`, `-Proto`, `-Ssl`, `-Prefix`, `-Client-Cert` and whatever else proxies add there.
const PREFIX: &str = "x-forwarded-";

/// Fields that are ours to read or to send, so that nothing may pass for them: CGI and its descendants turn all
/// punctuation of a name into `_` (RFC 3875 §4.1.18), after which `Content_Length` is `Content-Length`.
const IMITATED: [&str; 11] = [
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
];

/// The fields that only trusted proxies may send: a list of our own, and what the operator adds to it.
#[derive(Clone, Debug, Default)]
pub struct ProtectedFields {
    more: Box<[String]>,
}

/// What a name means to a backend that believes protected fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing.
    Free,
    /// It is a protected field.
    Protected,
    /// It is not one, but a backend that folds names cannot tell it from one.
    Imitation,
}

impl ProtectedFields {
    /// The fields of our own list, and `more`, in any case.
    #[must_use]
    pub fn with(more: impl IntoIterator<Item = String>) -> Self {
        Self { more: more.into_iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Whether a field is protected, by a name in any case.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.standing(name) == Standing::Protected
    }

    /// Removes what this peer may not send. A trusted proxy's own fields stay; imitations go all the same, since
    /// proxies pass them on without noticing.
    pub(crate) fn remove(&self, fields: &mut impl Fields, is_trusted: bool) {
        fields.retain(|name| match self.standing(name) {
            Standing::Free => true,
            Standing::Protected => is_trusted,
            Standing::Imitation => false,
        });
    }

    /// Removes from the trailers of a request what would not have been let through among its fields: some backends
    /// merge the two (RFC 9110 §6.5.1).
    pub(crate) fn filter_trailers<T>(&self, frame: Frame<T>) -> Frame<T> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                self.remove(&mut trailers, false);
                keep_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }

    fn standing(&self, name: &str) -> Standing {
        let more = self.more.iter().map(String::as_str);
        let mut protected = PROTECTED.into_iter().chain(more);
        let start = name.get(..PREFIX.len()).unwrap_or_default();
        if start.eq_ignore_ascii_case(PREFIX) && name.bytes().all(is_plain)
            || protected.clone().any(|field| name.eq_ignore_ascii_case(field))
        {
            Standing::Protected
        } else if folds_to(start, PREFIX) || protected.any(|field| folds_to(name, field)) || imitates_ours(name) {
            Standing::Imitation
        } else {
            Standing::Free
        }
    }
}

/// Fields that end a request's framing or its way have no place behind the body.
fn keep_trailers(trailers: &mut HeaderMap) {
    const NEVER: [&str; 6] = ["connection", "content-length", "cookie", "host", "transfer-encoding", "upgrade"];
    for name in NEVER {
        trailers.remove(name);
    }
}

fn imitates_ours(name: &str) -> bool {
    IMITATED.into_iter().any(|field| folds_to(name, field) && !name.eq_ignore_ascii_case(field))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// Whether a name is `field`, which is in lower case, to a backend that makes one character of all punctuation.
fn folds_to(name: &str, field: &str) -> bool {
    let same = |(byte, wanted): (u8, u8)| {
        byte.eq_ignore_ascii_case(&wanted) || wanted == b'-' && !byte.is_ascii_alphanumeric()
    };
    name.len() == field.len() && name.bytes().zip(field.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sent: &[&'static str]) -> HeaderMap {
        sent.iter().map(|name| (name.parse().unwrap(), "1".parse().unwrap())).collect()
    }

    fn left(sent: &[&'static str], is_trusted: bool) -> Vec<String> {
        let mut fields = names(sent);
        ProtectedFields::with(["X-Team".into()]).remove(&mut fields, is_trusted);
        // Removing from a map changes its order.
        sent.iter().filter(|name| fields.contains_key(**name)).map(ToString::to_string).collect()
    }

    const SENT: [&str; 12] = [
        "x-real-ip",
        "x-forwarded-ssl",
        "x-forwarded-anything",
        "front-end-https",
        "x-original-url",
        "x-team",
        "forwarded",
        "accept",
        "x-forwardedness",
        "x-realip",
        "cookie",
        "accept-encoding",
    ];

    #[test]
    fn strangers_may_not_send_protected_fields() {
        assert_eq!(left(&SENT, false), ["accept", "x-forwardedness", "x-realip", "cookie", "accept-encoding"]);
        assert_eq!(left(&SENT, true), SENT);
    }

    #[test]
    fn nobody_may_send_what_a_backend_could_take_for_one() {
        let imitations = [
            "x_forwarded_for",
            "x-forwarded_for",
            "x-forwarded.for",
            "x_real-ip",
            "x~real~ip",
            "content_length",
            "transfer_encoding",
            "sec_websocket-key",
            "x_team",
        ];
        assert!(left(&imitations, false).is_empty());
        assert!(left(&imitations, true).is_empty());
        assert_eq!(left(&["access_token", "x_request_id"], false), ["access_token", "x_request_id"]);
    }

    #[test]
    fn trailers_cannot_bring_in_what_fields_cannot() {
        let frame: Frame<()> = Frame::trailers(names(&["x-sum", "x-forwarded-for", "x_real_ip", "content-length"]));
        let trailers = ProtectedFields::default().filter_trailers(frame).into_trailers().unwrap();
        assert_eq!(trailers, names(&["x-sum"]));
    }
}
