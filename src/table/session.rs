//! Session tokens: clients present them, and they identify the session's endpoint if they are authentic.
//!
//! A token is the base64url encoding of: version (1 byte), key id (4), issue time in seconds (8), a keyed hash of the
//! endpoint's identity (8), and an HMAC-SHA-256 over these and the rule's scope, truncated to 16 bytes (RFC 2104 §5).
//! It contains no address in the clear and needs no state, so every replica with the keys can read it, even after a
//! restart.

use std::{fmt, hash::Hasher, sync::Arc, time::Duration};

use aws_lc_rs::{constant_time, digest, hmac};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use siphasher::sip::SipHasher24;

use super::EndpointId;

const VERSION: u8 = 1;
const ID_LENGTH: usize = 4;
const SIGNED_LENGTH: usize = 1 + ID_LENGTH + 8 + 8;
const MAC_LENGTH: usize = 16;
const TOKEN_LENGTH: usize = SIGNED_LENGTH + MAC_LENGTH;
/// The length of a token in characters: base64 without padding.
const TEXT_LENGTH: usize = (TOKEN_LENGTH * 4).div_ceil(3);
const MINIMUM_KEY_BYTES: usize = 32;

/// The keys for session tokens. The first signs, all verify, so that keys can be rotated without losing sessions.
#[derive(Debug)]
pub struct SessionKeys(Vec<SessionKey>);

/// Why a key file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It contains no key.
    #[error("must contain at least one key: one per line, each {MINIMUM_KEY_BYTES} or more random bytes in base64")]
    Empty,
    /// A line is not base64.
    #[error("line {line}: must be a key in base64")]
    NotBase64 {
        /// The line, from 1.
        line: usize,
    },
    /// A key is too short.
    #[error("line {line}: a key must have at least {MINIMUM_KEY_BYTES} bytes, got {bytes}")]
    Short {
        /// The line, from 1.
        line: usize,
        /// The length of the key in bytes.
        bytes: usize,
    },
}

impl SessionKeys {
    /// Parses a key file: one base64 key of 32 bytes or more per line; empty lines and those that begin with `#` are
    /// ignored.
    ///
    /// # Errors
    /// If there is no key, or if any line is not a valid key.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let secret = STANDARD.decode(line).map_err(|_| KeyFileError::NotBase64 { line: number })?;
            if secret.len() < MINIMUM_KEY_BYTES {
                return Err(KeyFileError::Short { line: number, bytes: secret.len() });
            }
            keys.push(SessionKey::new(&secret));
        }
        if keys.is_empty() { Err(KeyFileError::Empty) } else { Ok(Self(keys)) }
    }

    /// A random key that no other process has: its sessions end with this process.
    #[must_use]
    pub fn random() -> Self {
        let mut secret = [0; MINIMUM_KEY_BYTES];
        aws_lc_rs::rand::fill(&mut secret).expect("the system provides random bytes");
        Self(vec![SessionKey::new(&secret)])
    }

    /// A token for a session in `scope` that begins at `now`, in seconds since 1970.
    #[must_use]
    pub fn issue(&self, endpoint: &EndpointId, scope: &str, now: u64) -> String {
        self.0[0].sign(endpoint, scope, now)
    }

    /// Reads a token of `scope` that is not older than `max_age`. `None` for anything else: forged, malformed, of
    /// another rule, signed with a removed key, or expired.
    #[must_use]
    pub fn read(self: &Arc<Self>, text: &str, scope: &str, now: u64, max_age: Option<Duration>) -> Option<Session> {
        if text.len() != TEXT_LENGTH {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, mac) = bytes.split_at_checked(SIGNED_LENGTH)?;
        let (&[version], rest) = signed.split_first_chunk::<1>()?;
        let (id, rest) = rest.split_first_chunk::<ID_LENGTH>()?;
        let (issued, rest) = rest.split_first_chunk::<8>()?;
        let endpoint = u64::from_be_bytes(rest.try_into().ok()?);
        let key = self.0.iter().position(|key| key.id == *id)?;
        let expected = self.0[key].mac(signed, scope);
        if version != VERSION || constant_time::verify_slices_are_equal(&expected, mac).is_err() {
            return None;
        }
        let issued = u64::from_be_bytes(*issued);
        let age = Duration::from_secs(now.saturating_sub(issued));
        if max_age.is_some_and(|max_age| age >= max_age) {
            return None;
        }
        Some(Session { keys: self.clone(), key, issued, endpoint })
    }
}

/// A session that a client has proved with a token.
#[derive(Clone, Debug)]
pub struct Session {
    keys: Arc<SessionKeys>,
    /// The position of the key that signed its token.
    key: usize,
    issued: u64,
    endpoint: u64,
}

impl Session {
    /// Whether the session belongs to this endpoint.
    #[must_use]
    pub fn belongs_to(&self, endpoint: &EndpointId) -> bool {
        self.keys.0[self.key].hash(endpoint) == self.endpoint
    }

    /// When it began, in seconds since 1970.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// Whether its key is no longer the one that signs: a new token, with the same issue time, then allows the old key
    /// to be removed.
    #[must_use]
    pub fn wants_new_signature(&self) -> bool {
        self.key != 0
    }
}

struct SessionKey {
    id: [u8; ID_LENGTH],
    hmac: hmac::Key,
    endpoint_hash: [u8; 16],
}

impl SessionKey {
    fn new(secret: &[u8]) -> Self {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let id = digest::digest(&digest::SHA256, secret);
        let derived = hmac::sign(&hmac, b"switchyard endpoint hash");
        let (id, _) = id.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
        let (endpoint_hash, _) = derived.as_ref().split_first_chunk().expect("HMAC-SHA-256 has 32 bytes");
        Self { id: *id, hmac, endpoint_hash: *endpoint_hash }
    }

    fn sign(&self, endpoint: &EndpointId, scope: &str, issued: u64) -> String {
        let mut token = Vec::with_capacity(TOKEN_LENGTH);
        token.push(VERSION);
        token.extend_from_slice(&self.id);
        token.extend_from_slice(&issued.to_be_bytes());
        token.extend_from_slice(&self.hash(endpoint).to_be_bytes());
        let mac = self.mac(&token, scope);
        token.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(token)
    }

    fn mac(&self, signed: &[u8], scope: &str) -> [u8; MAC_LENGTH] {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(signed);
        context.update(scope.as_bytes());
        let tag = context.sign();
        let (mac, _) = tag.as_ref().split_first_chunk().expect("HMAC-SHA-256 has 32 bytes");
        *mac
    }

    fn hash(&self, endpoint: &EndpointId) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.endpoint_hash);
        hasher.write(endpoint.as_str().as_bytes());
        hasher.finish()
    }
}

/// Does not print the secret.
impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ObjectName;

    const SCOPE: &str = "shop/chat/main";
    const OLD: &str = "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=";
    const NEW: &str = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";

    fn endpoint(uid: &str) -> EndpointId {
        EndpointId::new(&ObjectName::new("shop", "chat"), 80, &uid)
    }

    #[test]
    fn a_token_names_its_endpoint_and_no_other() {
        let keys = Arc::new(SessionKeys::random());
        let token = keys.issue(&endpoint("a"), SCOPE, 1000);
        let session = keys.read(&token, SCOPE, 2000, None).unwrap();
        assert!(session.belongs_to(&endpoint("a")));
        assert!(!session.belongs_to(&endpoint("b")));
        assert_eq!(session.issued(), 1000);
        assert!(!session.wants_new_signature());
    }

    #[test]
    fn any_changed_byte_makes_a_token_worthless() {
        let keys = Arc::new(SessionKeys::random());
        let token = keys.issue(&endpoint("a"), SCOPE, 1000);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for position in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[position] ^= 1;
            assert!(keys.read(&URL_SAFE_NO_PAD.encode(forged), SCOPE, 1000, None).is_none(), "byte {position}");
        }
    }

    #[test]
    fn malformed_and_foreign_tokens_are_not_sessions() {
        let keys = Arc::new(SessionKeys::random());
        let token = keys.issue(&endpoint("a"), SCOPE, 1000);
        for text in ["", "x", &token[1..], &format!("{token}A"), &"?".repeat(token.len()), &"A".repeat(100_000)] {
            assert!(keys.read(text, SCOPE, 1000, None).is_none(), "{text}");
        }
        assert!(keys.read(&token, "shop/chat/other", 1000, None).is_none(), "of another rule");
        assert!(Arc::new(SessionKeys::random()).read(&token, SCOPE, 1000, None).is_none(), "of another key");
    }

    #[test]
    fn a_token_expires_at_its_age() {
        let keys = Arc::new(SessionKeys::random());
        let token = keys.issue(&endpoint("a"), SCOPE, 1000);
        let hour = Some(Duration::from_secs(3600));
        assert!(keys.read(&token, SCOPE, 4599, hour).is_some());
        assert!(keys.read(&token, SCOPE, 4600, hour).is_none());
        assert!(keys.read(&token, SCOPE, 10, hour).is_some(), "a clock that is behind does not end sessions");
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let old = SessionKeys::parse(OLD).unwrap();
        let token = old.issue(&endpoint("a"), SCOPE, 1000);
        let both = Arc::new(SessionKeys::parse(&format!("# newest first\n{NEW}\n\n{OLD}\n")).unwrap());
        let new = Arc::new(SessionKeys::parse(NEW).unwrap());
        let session = both.read(&token, SCOPE, 1000, None).unwrap();
        assert!(session.belongs_to(&endpoint("a")) && session.wants_new_signature());
        let renewed = both.issue(&endpoint("a"), SCOPE, session.issued());
        assert!(new.read(&renewed, SCOPE, 1000, None).is_some());
        assert!(new.read(&token, SCOPE, 1000, None).is_none());
    }

    #[test]
    fn a_key_file_that_cannot_be_used_says_why() {
        assert_eq!(SessionKeys::parse("\n# none\n").unwrap_err(), KeyFileError::Empty);
        assert_eq!(SessionKeys::parse("\n!").unwrap_err(), KeyFileError::NotBase64 { line: 2 });
        assert_eq!(SessionKeys::parse("c2hvcnQ=").unwrap_err(), KeyFileError::Short { line: 1, bytes: 5 });
    }
}
