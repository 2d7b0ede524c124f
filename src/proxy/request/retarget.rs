//! Targets that clients send but hyper's type for them cannot hold.
//!
//! `http::Uri` rejects `"`, `<`, `>` and a backquote in some or all parts of a target. Browsers and curl send them
//! unescaped, mostly in a query, and a proxy must not change a target. So hyper reads such a head with the characters
//! escaped, and they are restored in the head that it writes to the backend.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
};

/// A target in two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retarget {
    /// As hyper reads and writes it.
    escaped: String,
    /// As the client sent it.
    sent: String,
}

/// Escapes the characters of a target that hyper rejects.
fn escape(target: &str) -> Cow<'_, str> {
    if !target.contains(is_refused) {
        return Cow::Borrowed(target);
    }
    let mut escaped = String::with_capacity(target.len() + 16);
    for char in target.chars() {
        match char {
            '"' => escaped.push_str("%22"),
            '<' => escaped.push_str("%3C"),
            '>' => escaped.push_str("%3E"),
            '`' => escaped.push_str("%60"),
            char => escaped.push(char),
        }
    }
    Cow::Owned(escaped)
}

/// A target as hyper writes it: without a fragment, and without scheme and authority, after which the path may be
/// empty.
fn origin_form(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => match rest.find(['/', '?']).map(|start| &rest[start..]) {
            Some(path) if path.starts_with('/') => path.to_owned(),
            query => format!("/{}", query.unwrap_or_default()),
        },
        _ => target.to_owned(),
    }
}

/// The bytes after the empty lines that may precede a request (RFC 9112 §2.2).
pub(crate) fn after_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
        bytes = rest;
    }
    bytes
}

fn is_refused(char: char) -> bool {
    matches!(char, '"' | '<' | '>' | '`')
}

impl Retarget {
    /// Rewrites bytes that begin with a head whose target hyper would reject: returns the bytes to read instead, and
    /// the two forms of the target. `None` if the target needs no rewriting.
    pub(crate) fn of(received: &[u8]) -> Option<(Vec<u8>, Self)> {
        let head = after_empty_lines(received);
        let line = head.split(|byte| *byte == b'\n').next()?;
        let mut parts = str::from_utf8(line).ok()?.split(' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        if !version.starts_with("HTTP/1.") || parts.next().is_some() {
            return None;
        }
        let Cow::Owned(escaped) = escape(target) else { return None };
        let behind = &head[method.len() + 1 + target.len()..];
        let bytes = [method.as_bytes(), b" ", escaped.as_bytes(), behind].concat();
        Some((bytes, Self { escaped: origin_form(&escaped), sent: origin_form(target) }))
    }

    /// Restores the target in the head of a request; `None` if the head belongs to another request.
    pub(crate) fn restore(&self, head: &[u8]) -> Option<Vec<u8>> {
        let start = head.iter().position(|byte| *byte == b' ')? + 1;
        let behind = head[start..].strip_prefix(self.escaped.as_bytes()).filter(|rest| rest.starts_with(b" "))?;
        Some([&head[..start], self.sent.as_bytes(), behind].concat())
    }
}

/// The target to restore in the next request on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct NextTarget(Arc<Mutex<Option<Retarget>>>);

impl NextTarget {
    /// Sets the target to restore in the next request, if any.
    pub(crate) fn set(&self, retarget: Option<Retarget>) {
        *self.0.lock().expect("no holder panics") = retarget;
    }

    /// Takes the target to restore in the request that begins now.
    pub(crate) fn take(&self) -> Option<Retarget> {
        self.0.lock().expect("no holder panics").take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_with_such_characters_are_rewritten() {
        let (bytes, retarget) = Retarget::of(b"GET /a?b=\"<>`|{} HTTP/1.1\r\nX: \"\r\n\r\n").unwrap();
        assert_eq!(bytes, b"GET /a?b=%22%3C%3E%60|{} HTTP/1.1\r\nX: \"\r\n\r\n");
        assert_eq!(retarget.sent, "/a?b=\"<>`|{}");
        let others =
            ["GET /a HTTP/1.1\r\nX: \"\r\n\r\n", "GET", "", "GET /\"", "X: \"a\" b\r\n", "GET /\" HTTP/1.1 x\r\n"];
        for head in others {
            assert_eq!(Retarget::of(head.as_bytes()), None, "{head}");
        }
        let (_, absolute) = Retarget::of(b"GET http://a/b?\"c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((&*absolute.escaped, &*absolute.sent), ("/b?%22c", "/b?\"c"));
    }

    #[test]
    fn the_target_that_is_restored_is_the_one_that_hyper_writes() {
        let cases = [
            ("/a?u=http://b/\"c", "/a?u=http://b/%22c", "/a?u=http://b/\"c"),
            ("http://a?\"b", "/?%22b", "/?\"b"),
            ("http://a/\"b#c", "/%22b", "/\"b"),
            ("/a\"?b#c\"", "/a%22?b", "/a\"?b"),
        ];
        for (target, escaped, sent) in cases {
            let (_, retarget) = Retarget::of(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            assert_eq!((&*retarget.escaped, &*retarget.sent), (escaped, sent), "{target}");
        }
    }
}
