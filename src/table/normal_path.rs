//! The normal form in which paths are compared (RFC 3986 §6.2.2), and the paths that are refused because a backend
//! could interpret them differently from the proxy.

use std::borrow::Cow;

/// How many times a path is decoded in search of dot segments: every backend decodes once, and those behind a decoding
/// framework twice.
const DECODINGS: usize = 2;

/// A path without its query, in normal form: escapes of unreserved characters are decoded, other escapes are in upper
/// case, characters that a path must not contain are escaped, and a run of `/` is collapsed into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    text: Cow<'a, str>,
    has_escaped_slash: bool,
}

/// A path that the proxy and a backend could interpret differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path must not contain dot segments, backslashes or NUL in any encoding")]
pub struct AmbiguousPath;

impl<'a> NormalPath<'a> {
    /// Parses a path as received.
    ///
    /// # Errors
    /// If it contains a backslash, a NUL, overlong UTF-8, or a dot segment: literally, escaped once or twice, between
    /// escaped slashes, with parameters (`..;x`), or disguised by characters that URL parsers remove (`.%09.`) or at
    /// which they end the path (`..%23`).
    pub fn parse(path: &'a str) -> Result<Self, AmbiguousPath> {
        if is_normal(path) {
            return Ok(Self { text: path.into(), has_escaped_slash: false });
        }
        check(path)?;
        Ok(normalise(path))
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The normal form as an owned or borrowed text.
    #[must_use]
    pub fn into_text(self) -> Cow<'a, str> {
        self.text
    }

    /// Whether the path contains `%2F` or `%5C`, which some backends treat as a separator.
    #[must_use]
    pub fn has_escaped_slash(&self) -> bool {
        self.has_escaped_slash
    }
}

/// Whether a path is already in normal form and unambiguous, as nearly all are.
fn is_normal(path: &str) -> bool {
    let mut before = None;
    path.bytes().all(|byte| {
        let before = before.replace(byte);
        match byte {
            b'/' => before != Some(b'/'),
            b'.' => !matches!(before, None | Some(b'/')),
            byte => is_path_byte(byte),
        }
    })
}

/// The kind of each byte in a path. A table, because every byte of every path is looked up.
static KINDS: [ByteKind; 256] = {
    let mut kinds = [ByteKind::Other; 256];
    let mut byte = 0_u8;
    loop {
        kinds[byte as usize] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => ByteKind::Unreserved,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {
                ByteKind::Delimiter
            }
            _ => ByteKind::Other,
        };
        if byte == u8::MAX {
            break kinds;
        }
        byte += 1;
    }
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum ByteKind {
    /// RFC 3986 §2.3.
    Unreserved,
    /// The rest of `pchar` (RFC 3986 §3.3), without escapes.
    Delimiter,
    /// Bytes that must be escaped, `/` and `%`.
    Other,
}

fn is_path_byte(byte: u8) -> bool {
    KINDS[usize::from(byte)] != ByteKind::Other
}

fn is_unreserved(byte: u8) -> bool {
    KINDS[usize::from(byte)] == ByteKind::Unreserved
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
        let decoded = decode(&bytes);
        if decoded.len() == bytes.len() {
            // It contained no escapes.
            return Ok(());
        }
        bytes = Cow::Owned(decoded);
    }
    check_plain(&bytes)
}

fn check_plain(bytes: &[u8]) -> Result<(), AmbiguousPath> {
    let (mut segment, mut before) = (Segment::default(), 0);
    for byte in bytes {
        match byte {
            0 => return Err(AmbiguousPath),
            b'/' | b'\\' if segment.is_dots() => return Err(AmbiguousPath),
            b'/' | b'\\' => segment = Segment::default(),
            0x80.. if is_overlong([before, *byte]) => return Err(AmbiguousPath),
            byte => segment.push(*byte),
        }
        before = *byte;
    }
    if segment.is_dots() { Err(AmbiguousPath) } else { Ok(()) }
}

/// A segment as a backend could interpret it. Parameters begin at `;`. URL parsers (WHATWG), to which some backends
/// pass decoded paths, remove tabs and line ends, and end the path at `?` or `#`.
#[derive(Default)]
struct Segment {
    dots: usize,
    has_others: bool,
    is_over: bool,
}

impl Segment {
    fn push(&mut self, byte: u8) {
        match byte {
            _ if self.is_over => {}
            b';' | b'?' | b'#' => self.is_over = true,
            b'.' => self.dots += 1,
            b'\t' | b'\n' | b'\r' => {}
            _ => self.has_others = true,
        }
    }

    /// Whether it is `.` or `..`.
    fn is_dots(&self) -> bool {
        matches!(self.dots, 1 | 2) && !self.has_others
    }
}

/// Whether two bytes begin an overlong UTF-8 sequence (RFC 3629 §3), such as `C0 AE` for a dot: never valid, but
/// decoded by some backends.
fn is_overlong(pair: [u8; 2]) -> bool {
    matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
}

/// Decodes escapes once; malformed escapes stay unchanged.
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

/// The value of the first two hexadecimal digits.
fn hexadecimal(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let [high, low, ..] = bytes else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn normalise(path: &str) -> NormalPath<'static> {
    // An escape is the longest output for a byte.
    let (mut normal, mut has_escaped_slash) = (Vec::with_capacity(3 * path.len()), false);
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let escape = if *first == b'%' { hexadecimal(behind) } else { None };
        rest = if escape.is_some() { &behind[2..] } else { behind };
        let byte = escape.unwrap_or(*first);
        match (byte, escape) {
            (b'/', None) if normal.last() == Some(&b'/') => {}
            (b'/', None) => normal.push(b'/'),
            (byte, None) if is_path_byte(byte) => normal.push(byte),
            (byte, Some(_)) if is_unreserved(byte) => normal.push(byte),
            (byte, escape) => {
                has_escaped_slash |= matches!(escape, Some(b'/' | b'\\'));
                normal.extend_from_slice(&escaped(byte));
            }
        }
    }
    let text = String::from_utf8(normal).expect("all that is pushed is ASCII");
    NormalPath { text: text.into(), has_escaped_slash }
}

fn escaped(byte: u8) -> [u8; 3] {
    let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value)];
    [b'%', digit(byte >> 4), digit(byte & 0xf)]
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
            "/pub/.%09./admin",
            "/pub/%2e%0a%2e/admin",
            "/pub/.%0d/admin",
            "/pub/.%2509./admin",
            "/pub/..%3fx/admin",
            "/pub/..%23/admin",
            "/pub/..%2523",
        ];
        for path in bad {
            assert_eq!(NormalPath::parse(path), Err(AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn dots_that_are_part_of_a_name_are_allowed() {
        let good = [
            "/...",
            "/a.b",
            "/.well-known/x",
            "/%2e%2e%2e",
            "/..a",
            "/a..",
            "/a;..",
            "/%252ea",
            "/%25",
            "/%2",
            "/a%09b",
            "/%23..",
        ];
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
