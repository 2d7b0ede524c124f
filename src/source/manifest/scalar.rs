//! Plain scalars that YAML 1.1 and YAML 1.2 interpret differently.
//!
//! kubectl reads YAML 1.1 (`on` is a boolean, `010` is eight), `serde_yaml` reads YAML 1.2. Scalars that only one of
//! them reads as a boolean or a number must be quoted, so that a file has one meaning.

/// What YAML 1.1 or 1.2 takes a plain scalar to be, if the other one disagrees.
///
/// `None` for values that both read alike, timestamps, image tags and versions.
#[must_use]
pub fn ambiguity(text: &str) -> Option<&'static str> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "n" | "N" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off" | "Off"
        | "OFF" => Some("a boolean"),
        "<<" => Some("a merge key"),
        "=" => Some("a default value"),
        _ => number_ambiguity(text).then_some("a number"),
    }
}

fn number_ambiguity(text: &str) -> bool {
    let signed = text.starts_with(['-', '+']);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return false;
    }
    based(digits, signed) || leading_zero(digits) || sexagesimal(digits) || underscored(digits) || exponent(digits)
}

/// `0b1` (1.1 only), `0o17` (1.2 only), and `-0x1f` (1.2 has no signed hexadecimal numbers).
fn based(digits: &str, signed: bool) -> bool {
    let is = |prefix: &str, digit: fn(char) -> bool| {
        digits.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c == '_' || digit(c)))
    };
    let hexadecimal = is("0x", |c| c.is_ascii_hexdigit());
    is("0b", |c| matches!(c, '0' | '1'))
        || is("0o", |c| c.is_digit(8))
        || hexadecimal && (signed || digits.contains('_'))
}

/// `010` is eight in 1.1 and ten in 1.2.
fn leading_zero(digits: &str) -> bool {
    digits.len() > 1 && digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit() || c == '_')
}

/// `1:30` is ninety in 1.1.
fn sexagesimal(digits: &str) -> bool {
    let whole = digits.split_once('.').map_or(digits, |(whole, fraction)| {
        if fraction.chars().all(|c| c.is_ascii_digit() || c == '_') { whole } else { "" }
    });
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit() || c == '_');
    let is_sixtieth = |part: &str| match part.as_bytes() {
        [unit] => unit.is_ascii_digit(),
        [ten, unit] => (b'0'..=b'5').contains(ten) && unit.is_ascii_digit(),
        _ => false,
    };
    whole.contains(':') && is_number(first) && parts.all(is_sixtieth)
}

/// `1_000` is a thousand in 1.1.
fn underscored(digits: &str) -> bool {
    digits.contains('_')
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '_' | '.'))
        && digits.matches('.').count() <= 1
}

/// `1e3` is a thousand in 1.2; 1.1 requires a point and a signed exponent.
fn exponent(digits: &str) -> bool {
    let Some((mantissa, exponent)) = digits.split_once(['e', 'E']) else { return false };
    let unsigned = exponent.strip_prefix(['-', '+']);
    let is_number = mantissa.chars().any(|c| c.is_ascii_digit())
        && mantissa.chars().all(|c| c.is_ascii_digit() || c == '.')
        && mantissa.matches('.').count() <= 1;
    let power = unsigned.unwrap_or(exponent);
    is_number
        && !power.is_empty()
        && power.chars().all(|c| c.is_ascii_digit())
        && !(mantissa.contains('.') && unsigned.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_two_versions_of_yaml_read_differently_is_found() {
        let cases = [
            "y",
            "N",
            "yes",
            "NO",
            "On",
            "off",
            "<<",
            "=",
            "010",
            "-08",
            "00",
            "0o17",
            "0b1",
            "-0x1f",
            "0x1_f",
            "1:30",
            "190:20:30.15",
            "1_000",
            "1_0.5",
            "1e3",
            "1E-3",
            "1.5e3",
            ".5e3",
        ];
        for text in cases {
            assert!(ambiguity(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_both_read_alike_is_left_alone() {
        let cases = [
            "",
            "~",
            "null",
            "true",
            "False",
            "yEs",
            "0",
            "-1",
            "+12",
            "8080",
            "1.5",
            "1.5e+3",
            "0x1f",
            "1.2.3",
            "v1",
            "nginx:1.25",
            "10.0.0.1",
            "10:99",
            "1:2:x",
            "2026-01-01T00:00:00Z",
            "2026-01-01",
            ".inf",
            ".",
            "-",
            "1e",
            "e3",
            "123abc",
            "chat.example.com",
            "_1",
            "a_b",
            "1_a",
            "fe80::1",
            "::1",
            "0.5",
            "12:34:56:78:9a:bc",
        ];
        for text in cases {
            assert_eq!(ambiguity(text), None, "{text}");
        }
    }
}
