//! Request fields that backends trust as set by a proxy: untrusted clients must not send them.

use http::HeaderMap;
use http_body::Frame;

use super::Fields;

/// Fields that some backend, framework or middleware trusts regardless of who set them. `docs/security.md` lists them;
/// those that begin with [`PREFIX`] are protected too.
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
/// `X-Forwarded-For`, `-Proto`, `-Ssl`, `-Prefix`, `-Client-Cert` and whatever else proxies add with this prefix.
const PREFIX: &str = "x-forwarded-";

/// Fields that the proxy itself reads or sends, which nothing may imitate: CGI and its descendants replace all
/// punctuation in a name with `_` (RFC 3875 §4.1.18), so that `Content_Length` is the same as `Content-Length`.
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

/// The fields that only trusted proxies may send: a built-in list, and the operator's additions.
#[derive(Clone, Debug, Default)]
pub struct ProtectedFields {
    more: Box<[String]>,
}

/// How a name appears to a backend that trusts protected fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// An ordinary field.
    Free,
    /// A protected field.
    Protected,
    /// Not a protected field, but a backend that folds names cannot distinguish it from one.
    Imitation,
}

impl ProtectedFields {
    /// The built-in list, and `more`, in any case.
    #[must_use]
    pub fn with(more: impl IntoIterator<Item = String>) -> Self {
        Self { more: more.into_iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Whether a field is protected; the name may be in any case.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.standing(name) == Standing::Protected
    }

    /// Removes the fields that this peer must not send. A trusted proxy's own fields stay; imitations are always
    /// removed, since proxies forward them without noticing.
    pub(crate) fn remove(&self, fields: &mut impl Fields, is_trusted: bool) {
        fields.retain(|name| match self.standing(name) {
            Standing::Free => true,
            Standing::Protected => is_trusted,
            Standing::Imitation => false,
        });
    }

    /// Removes from the trailers of a request what is not allowed among its fields: some backends merge the two
    /// (RFC 9110 §6.5.1).
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
        } else if folds_to(start, PREFIX) || protected.any(|field| folds_to(name, field)) || imitates_own_field(name) {
            Standing::Imitation
        } else {
            Standing::Free
        }
    }
}

/// Removes fields for framing, routing and sessions, which do not belong in trailers.
fn keep_trailers(trailers: &mut HeaderMap) {
    const NEVER: [&str; 6] = ["connection", "content-length", "cookie", "host", "transfer-encoding", "upgrade"];
    for name in NEVER {
        trailers.remove(name);
    }
}

fn imitates_own_field(name: &str) -> bool {
    IMITATED.into_iter().any(|field| folds_to(name, field) && !name.eq_ignore_ascii_case(field))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// Whether a name is `field`, which must be in lower case, to a backend that treats all punctuation alike.
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
        // Removal changes the order of the map.
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
    fn untrusted_peers_may_not_send_protected_fields() {
        assert_eq!(left(&SENT, false), ["accept", "x-forwardedness", "x-realip", "cookie", "accept-encoding"]);
        assert_eq!(left(&SENT, true), SENT);
    }

    #[test]
    fn nobody_may_send_imitations_of_protected_fields() {
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
