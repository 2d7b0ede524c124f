//! Users' regular expressions: matched in linear time, bounded in size, and always against the whole text.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use regex::bytes::{Regex, RegexBuilder};

/// The maximum size of a compiled expression in bytes, which also bounds the time for each byte of a text.
const SIZE_LIMIT: usize = 16 * 1024;
/// The maximum size of its DFA states in bytes, on each thread that uses it. An expression that needs more is matched
/// without them, which takes microseconds for each byte of a text instead of nanoseconds.
const STATES_LIMIT: usize = 64 * 1024;

/// The maximum length in bytes of a text that an expression is matched against; a longer one does not match.
pub const MAX_MATCHED_BYTES: usize = 4096;

/// A regular expression (RE2 syntax) that must match a whole text. Two with the same source text are equal.
#[derive(Clone)]
pub struct Expression {
    text: Box<str>,
    regex: Regex,
}

/// A text that is not a regular expression, or too large a one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExpression {
    /// Its syntax is wrong.
    #[error("must be a regular expression in RE2 syntax: {0}")]
    Syntax(String),
    /// Repetitions make it too large.
    #[error("must be a smaller regular expression: the limit is {SIZE_LIMIT} bytes when compiled")]
    TooLarge,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// If the text is not a regular expression, or if it takes too much memory.
    pub fn parse(text: &str) -> Result<Self, InvalidExpression> {
        // The text alone first: "a)|(?:b" is valid only inside a group. The line feed ends a comment, and verbose mode,
        // the only mode with comments, ignores it.
        compile(text)?;
        let whole = compile(&format!(r"\A(?:{text})\z")).or_else(|_| compile(&format!("\\A(?:{text}\n)\\z")));
        Ok(Self { text: text.into(), regex: whole? })
    }

    /// Whether it matches the whole text.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        text.len() <= MAX_MATCHED_BYTES && self.regex.is_match(text)
    }

    /// The text that it was compiled from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn compile(text: &str) -> Result<Regex, InvalidExpression> {
    // As in RE2, `\w` and the like match ASCII only. With all of Unicode, a few of them would exceed the limit.
    let builder = &mut RegexBuilder::new(text);
    let built = builder.unicode(false).size_limit(SIZE_LIMIT).dfa_size_limit(STATES_LIMIT).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => InvalidExpression::TooLarge,
        // The last line of a multi-line message states the cause; those before it show the position.
        error => InvalidExpression::Syntax(cause(&error.to_string()).to_owned()),
    })
}

fn cause(message: &str) -> &str {
    let last = message.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last)
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_the_whole_text_or_not_at_all() {
        let cases = [("a|bc", "bc"), ("^a$", "a"), ("(?x) a # ends with a comment", "a"), ("(?i)a", "A"), ("", "")];
        for (expression, text) in cases {
            let expression = Expression::parse(expression).unwrap();
            assert!(expression.is_match(text.as_bytes()), "{expression:?}");
            for longer in [format!("x{text}"), format!("{text}x"), format!("{text}\n"), format!("x\n{text}\nx")] {
                assert!(!expression.is_match(longer.as_bytes()), "{expression:?} {longer:?}");
            }
        }
        let lines = Expression::parse("(?m)^a$").unwrap();
        assert!(!lines.is_match(b"b\na") && lines.is_match(b"a"));
    }

    #[test]
    fn what_is_not_an_expression_is_refused_with_the_cause() {
        let parse = |text: &str| Expression::parse(text).unwrap_err().to_string();
        assert_eq!(parse("a("), "must be a regular expression in RE2 syntax: unclosed group");
        assert_eq!(parse("a)|(?:b"), "must be a regular expression in RE2 syntax: unopened group");
        assert!(parse(r"(a)\1").contains("backreferences are not supported"), "{}", parse(r"(a)\1"));
        assert!(parse("a{1000}").starts_with("must be a smaller"));
    }

    #[test]
    fn expressions_as_people_write_them_are_not_too_large() {
        let expressions = [
            "/api/v[0-9]+/rooms/[a-z0-9-]{1,64}/ws",
            "/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            r"(.*;\s*)?canary=(always|1)(;.*)?",
            r"(?i)/users/\w+/rooms/\w+/sockets/\w+(/.*)?",
            r"^/(socket\.io|engine\.io|sockjs-node)/.*$",
            "(?u:[ä-ü]+)|ä",
        ];
        for expression in expressions {
            assert!(Expression::parse(expression).is_ok(), "{expression}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_does_not_match() {
        let any = Expression::parse("a*").unwrap();
        assert!(any.is_match(&b"a".repeat(MAX_MATCHED_BYTES)));
        assert!(!any.is_match(&b"a".repeat(MAX_MATCHED_BYTES + 1)));
    }
}
