//! Text from the cluster, made safe to show.

use std::fmt::Write;

/// Replaces each character that a log or a terminal would interpret with an escape.
pub(super) fn printable(text: String) -> String {
    if !text.contains(is_unsafe) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 8), |mut escaped, character| {
        if is_unsafe(character) {
            write!(escaped, "{}", character.escape_default()).expect("writing to a String cannot fail");
        } else {
            escaped.push(character);
        }
        escaped
    })
}

/// Control characters, line and paragraph separators, and characters that change the direction of text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A file's text without the byte-order mark that some editors insert, after which a PEM label is not recognised.
#[must_use]
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
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
}
