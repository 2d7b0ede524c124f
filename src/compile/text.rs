//! Text from the cluster, made safe to show.

use std::fmt::Write;

/// The text, with an escape in place of each character that a log or a terminal would act on.
pub(super) fn printable(text: String) -> String {
    if !text.contains(is_unsafe) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 8), |mut escaped, character| {
        if is_unsafe(character) {
            write!(escaped, "{}", character.escape_default()).expect("a String takes all text");
        } else {
            escaped.push(character);
        }
        escaped
    })
}

/// Control characters, the separators of lines and paragraphs, and what changes the direction of text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A file's text without the byte-order mark that some editors put first. In PEM, the label after one is not found.
#[must_use]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Whether a text is a name as most objects of Kubernetes have them (RFC 1123): labels of lower-case letters, digits and
/// `-`, with dots between them, at most 253 characters.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_label = |label: &str| {
        let label = label.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        is_end(label.first()) && is_end(label.last()) && label.iter().all(inner)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether a text is one such label of at most 63 characters, as the names of rules are.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && !name.contains('.') && is_dns_subdomain(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_or_a_terminal_acts_on_is_escaped() {
        let cases = [
            ("plain, with ünïcode", "plain, with ünïcode"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{2028}b\u{202e}c\u{2066}d", "a\\u{2028}b\\u{202e}c\\u{2066}d"),
            ("\0\u{7f}", "\\u{0}\\u{7f}"),
        ];
        for (text, shown) in cases {
            assert_eq!(printable(text.to_owned()), shown);
        }
    }

    #[test]
    fn names_of_pods_are_dns_subdomains() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        for name in ["chat-0", "chat-7d9f-x2x1z", "a.b", "0", &longest] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        let too_long = format!("{longest}e");
        for name in ["", "a\nb", "\u{1b}[2J", "Chat", "a..b", "-a", "a-", ".a", "a_b", "a b", "ä", &too_long] {
            assert!(!is_dns_subdomain(name), "{name:?}");
        }
        assert!(is_dns_label("main-2") && !is_dns_label("a.b") && !is_dns_label(&"a".repeat(64)));
    }
}
