//! The form in which paths are compared (RFC 3986 §6.2.2), and the paths that are refused because a backend could read
//! them as another path than the one that was matched.

use std::{borrow::Cow, iter};

/// How many times a path is decoded in search of dot segments: once is what every backend does, twice is what those do
/// that sit behind a decoding framework.
const DECODINGS: usize = 2;

/// A path without its query, in the form in which it is compared: escapes of unreserved characters are decoded, other
/// escapes are in upper case, characters that a path may not contain are escaped, and a run of `/` is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    text: Cow<'a, str>,
    has_escaped_slash: bool,
}

/// A path that may mean different things to the proxy and to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path may not contain dot segments, backslashes or NUL, in whatever encoding")]
pub struct AmbiguousPath;

impl<'a> NormalPath<'a> {
    /// Reads a path as it was sent.
    ///
    /// # Errors
    /// If it contains a backslash, a NUL, overlong UTF-8, or a dot segment: as such, escaped once or twice, between
    /// escaped slashes, or with parameters (`..;x`).
    pub fn parse(path: &'a str) -> Result<Self, AmbiguousPath> {
        if is_normal(path) {
            return Ok(Self { text: path.into(), has_escaped_slash: false });
        }
        check(path)?;
        Ok(Self { text: normalise(path).into(), has_escaped_slash: has_escaped_slash(path) })
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The normal form, by value.
    #[must_use]
    pub fn into_text(self) -> Cow<'a, str> {
        self.text
    }

    /// Whether the path contains `%2F` or `%5C`, which some backends take for a separator.
    #[must_use]
    pub fn has_escaped_slash(&self) -> bool {
        self.has_escaped_slash
    }
}

/// Whether a path is in its normal form and beyond doubt, as nearly all are.
fn is_normal(path: &str) -> bool {
    let before = iter::once(b'/').chain(path.bytes());
    before.zip(path.bytes()).enumerate().all(|(index, pair)| match pair {
        (b'/', b'/') => index == 0,
        (b'/', b'.') => false,
        (_, byte) => byte == b'/' || is_path_byte(byte),
    })
}

/// `pchar` of RFC 3986 §3.3, without escapes.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn check(path: &str) -> Result<(), AmbiguousPath> {
    if path.contains('\\') {
        return Err(AmbiguousPath);
    }
    let mut bytes = Cow::Borrowed(path.as_bytes());
    for _ in 0..DECODINGS {
        check_plain(&bytes)?;
        if !bytes.contains(&b'%') {
            return Ok(());
        }
        bytes = Cow::Owned(decode(&bytes));
    }
    check_plain(&bytes)
}

fn check_plain(bytes: &[u8]) -> Result<(), AmbiguousPath> {
    let is_dots = |segment: &[u8]| matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."));
    let has_dots = bytes.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots);
    if has_dots || bytes.contains(&0) || bytes.windows(2).any(is_overlong) { Err(AmbiguousPath) } else { Ok(()) }
}

/// Whether two bytes begin a sequence of UTF-8 that is longer than it has to be (RFC 3629 §3), such as `C0 AE` for a
/// dot: never legitimate, and decoded by some backends all the same.
fn is_overlong(pair: &[u8]) -> bool {
    matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
}

/// Decodes escapes once; what is not an escape stays.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, behind @ ..] = rest {
        let escape = if *first == b'%' { hexadecimal(behind) } else { None };
        decoded.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { &behind[2..] } else { behind };
    }
    decoded
}

/// The value of the two hexadecimal digits at the start.
fn hexadecimal(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(bytes.first()?)? << 4 | digit(bytes.get(1)?)?)
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|window| matches!(window, b"%2F" | b"%2f" | b"%5C" | b"%5c"))
}

fn normalise(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let escape = if *first == b'%' { hexadecimal(behind) } else { None };
        rest = if escape.is_some() { &behind[2..] } else { behind };
        let byte = escape.unwrap_or(*first);
        match (byte, escape) {
            (b'/', None) if normal.ends_with('/') => {}
            (b'/', None) => normal.push('/'),
            (byte, None) if is_path_byte(byte) => normal.push(char::from(byte)),
            (byte, Some(_)) if is_unreserved(byte) => normal.push(char::from(byte)),
            (byte, _) => push_escape(&mut normal, byte),
        }
    }
    normal
}

fn push_escape(text: &mut String, byte: u8) {
    text.push('%');
    for digit in [byte >> 4, byte & 0xf] {
        text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit").to_ascii_uppercase());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> String {
        NormalPath::parse(path).unwrap().as_str().to_owned()
    }

    #[test]
    fn equivalent_paths_have_one_form() {
        let cases = [
            ("/admin", &["/%61dmin", "//admin", "/%61%64%6d%69%6E", "///admin", "/%61dmi%6e"][..]),
            ("/a/b/", &["/a//b/", "/a/b//", "//a///b////"]),
            ("/a%2Cb%C3%A9", &["/a%2cb%c3%a9", "/a%2Cb\u{e9}"]),
            ("/a%22%3C%3E%60%7B%7D", &["/a\"<>`{}", "/a%22%3c%3e%60%7b%7d"]),
            ("/~user-x_y.z", &["/%7euser%2dx%5Fy%2ez"]),
            ("/100%25", &["/100%", "/100%25"]),
        ];
        for (form, paths) in cases {
            assert_eq!(normal(form), form);
            for path in paths {
                assert_eq!(normal(path), form, "{path}");
            }
        }
    }

    #[test]
    fn paths_that_differ_keep_different_forms() {
        let paths = ["/a", "/A", "/a/", "/a;x", "/a%3Bx", "/a@b", "/a%40b", "/a%2Fb", "/a/b", "/a%252Fb", "", "*"];
        for (index, path) in paths.iter().enumerate() {
            for other in &paths[index + 1..] {
                assert_ne!(normal(path), normal(other));
            }
        }
    }

    #[test]
    fn dot_segments_are_refused_in_every_encoding() {
        let bad = [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e",
            "/%2E%2e/x",
            "/.%2e",
            "/%2e.",
            "/pub/..;/admin",
            "/pub/..;x=1/admin",
            "/pub/.;/admin",
            "/pub/%2e%2e;/admin",
            "/pub/%2e%2e%3b/admin",
            "/pub/%252e%252e/admin",
            "/pub/%%32%65%2e/admin",
            "/pub/%25%32%65./admin",
            "/a%2f..%2fb",
            "/a%5C..%5cb",
            "/a%252f..%252fb",
            "/%c0%ae%c0%ae/x",
            "/%C0%AE./x",
            "/%e0%80%ae%e0%80%ae/x",
            "/%f0%80%80%ae/x",
            "/a%c0%afb",
            "/%25c0%25ae/x",
            "..",
            "/..%5cx",
            "/a\\b",
            "/a%00",
            "/a%2500",
            "/a%c0%80",
        ];
        for path in bad {
            assert_eq!(NormalPath::parse(path), Err(AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn dots_that_are_part_of_a_name_are_allowed() {
        let good = ["/...", "/a.b", "/.well-known/x", "/%2e%2e%2e", "/..a", "/a..", "/a;..", "/%252ea", "/%25", "/%2"];
        for path in good {
            assert!(NormalPath::parse(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn an_escaped_slash_is_an_ordinary_character_that_is_reported() {
        for path in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/%2F"] {
            assert!(NormalPath::parse(path).unwrap().has_escaped_slash(), "{path}");
        }
        assert_eq!(normal("/a%2fb%5cc"), "/a%2Fb%5Cc");
        assert_eq!(normal("/%2F/%2f"), "/%2F/%2F");
        assert!(!NormalPath::parse("/a/b%252F").unwrap().has_escaped_slash());
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_normal_form(path in "(/|%2[eEfF5]|%5[cC]|%c0%ae|[.;a%\u{e9}\"\\PC]){0,24}") {
            if let Ok(path) = NormalPath::parse(&path) {
                let again = NormalPath::parse(path.as_str()).unwrap();
                prop_assert_eq!(again.as_str(), path.as_str());
                prop_assert_eq!(again.has_escaped_slash(), path.has_escaped_slash());
                prop_assert!(path.as_str().is_ascii() && !path.as_str().contains("//"));
            }
        }
    }
}
