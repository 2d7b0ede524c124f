//! The bearer tokens that give remote clients access to the API (RFC 6750).

use aws_lc_rs::{
    constant_time,
    digest::{Digest, SHA256, digest},
};
use http::HeaderValue;

/// Shorter tokens could be guessed.
const SHORTEST: usize = 20;

/// Tokens that each give access to the API. Only their digests are stored.
#[derive(Debug)]
pub struct ApiTokens(Vec<Digest>);

/// Why a token file is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    /// It contains no token.
    #[error("must contain one token per line, such as the output of `openssl rand -hex 32`")]
    Empty,
    /// A line has characters that are not allowed in a token.
    #[error("line {line}: a token must consist of letters, digits and -._~+/, with = only at its end")]
    Malformed {
        /// The line, from 1.
        line: usize,
    },
    /// A token is too short to be secret.
    #[error("line {line}: a token must have at least {SHORTEST} characters, got {length}")]
    Short {
        /// The line, from 1.
        line: usize,
        /// Its number of characters.
        length: usize,
    },
}

impl ApiTokens {
    /// Parses a token file, one token per line; empty lines and those starting with `#` are ignored.
    ///
    /// # Errors
    /// If it contains no token, or any line is invalid (RFC 6750 §2.1).
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (token, line) = (line.trim(), index + 1);
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            if !is_token(token) {
                return Err(TokenFileError::Malformed { line });
            }
            if token.len() < SHORTEST {
                return Err(TokenFileError::Short { line, length: token.len() });
            }
            tokens.push(digest(&SHA256, token.as_bytes()));
        }
        if tokens.is_empty() { Err(TokenFileError::Empty) } else { Ok(Self(tokens)) }
    }

    /// No tokens: no access.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether the value of an `Authorization` field contains one of the tokens. Takes constant time.
    pub(super) fn open(&self, authorization: &HeaderValue) -> bool {
        let credentials = authorization.to_str().ok().and_then(|value| value.split_once(' '));
        let Some((_, token)) = credentials.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer")) else {
            return false;
        };
        let token = digest(&SHA256, token.trim_start_matches(' ').as_bytes());
        let is_same = |known: &&Digest| constant_time::verify_slices_are_equal(known.as_ref(), token.as_ref()).is_ok();
        self.0.iter().filter(is_same).count() > 0
    }
}

/// `b64token` of RFC 6750 §2.1.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(is_fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "c2Vjb25kIHNlY29uZCBzZWNvbmQ=";

    fn open(tokens: &ApiTokens, authorization: &str) -> bool {
        tokens.open(&HeaderValue::from_str(authorization).unwrap())
    }

    #[test]
    fn each_line_is_a_token_that_opens() {
        let tokens = ApiTokens::parse(&format!("# ours\n{ONE}\n\n  {TWO}\r\n")).unwrap();
        for authorization in [format!("Bearer {ONE}"), format!("bearer {TWO}"), format!("BEARER  {ONE}")] {
            assert!(open(&tokens, &authorization), "{authorization}");
        }
    }

    #[test]
    fn nothing_else_opens() {
        let tokens = ApiTokens::parse(ONE).unwrap();
        let others = ["", "Bearer", "Bearer ", ONE, "Basic dXNlcjpwYXNz", "Bearer # ours"];
        let near = [&ONE[1..], &format!("{ONE}0"), &ONE.to_uppercase(), TWO].map(|token| format!("Bearer {token}"));
        for authorization in others.into_iter().chain(near.iter().map(String::as_str)) {
            assert!(!open(&tokens, authorization), "{authorization}");
        }
        let value = HeaderValue::from_bytes(b"Bearer \xff").unwrap();
        assert!(!tokens.open(&value));
    }

    #[test]
    fn a_file_that_cannot_be_used_says_what_to_mend() {
        let error = |text: &str| ApiTokens::parse(text).unwrap_err();
        assert_eq!(error("# nothing\n"), TokenFileError::Empty);
        assert_eq!(error(&format!("{ONE}\ntwo words that are long\n")), TokenFileError::Malformed { line: 2 });
        assert_eq!(error("===================="), TokenFileError::Malformed { line: 1 });
        assert_eq!(error("secret"), TokenFileError::Short { line: 1, length: 6 });
        assert!(error("secret").to_string().contains("at least 20"));
    }
}
