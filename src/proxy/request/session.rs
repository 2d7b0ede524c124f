//! The session cookie: removed from requests, set on responses. Nothing here does IO.

use std::sync::Arc;

use http::header::COOKIE;

use crate::{
    proxy::fields::Fields,
    table::{EndpointId, Persistence, Secure, Session, SessionKeys},
};

/// How many cookies with the name are checked: a client may have one for each of several paths, and a check costs an
/// HMAC.
const MAX_TOKENS: usize = 8;

/// The session of a request, and what the response needs.
#[derive(Debug)]
pub(crate) struct Sticky {
    persistence: Persistence,
    keys: Arc<SessionKeys>,
    /// The session that the client has proved with a token.
    session: Option<Session>,
    secure: bool,
    now: u64,
}

impl Sticky {
    /// Removes the rule's cookie from a request. There may be several cookies with the name, for several paths; the
    /// first valid one counts.
    pub(crate) fn take(
        persistence: &Persistence,
        keys: Arc<SessionKeys>,
        fields: &mut impl Fields,
        secure: bool,
        now: u64,
    ) -> Self {
        let Persistence { scope, cookie, max_age, .. } = persistence;
        let tokens = take_cookie(fields, cookie);
        let session = tokens.iter().take(MAX_TOKENS).find_map(|token| keys.read(token, scope, now, *max_age));
        Self { persistence: persistence.clone(), keys, session, secure, now }
    }

    /// The session that the client has proved with a token.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The `Set-Cookie` for a response from this endpoint; `None` if the client has the right cookie.
    pub(crate) fn cookie(&self, endpoint: &EndpointId) -> Option<String> {
        let session = self.session().filter(|session| session.belongs_to(endpoint));
        let issued = match session {
            Some(session) if !session.wants_new_signature() => return None,
            Some(session) => session.issued(),
            None => self.now,
        };
        let Persistence { scope, cookie, attributes, secure, .. } = &self.persistence;
        let token = self.keys.issue(endpoint, scope, issued);
        let secure = match secure {
            Secure::Always => true,
            Secure::Never => false,
            Secure::Auto => self.secure,
        };
        let secure = if secure { "; Secure" } else { "" };
        Some([cookie, "=", &token, attributes, secure].concat())
    }
}

/// Removes the cookies with a name from all `Cookie` fields and returns their values. Other cookies stay as sent; a
/// field without any is removed.
fn take_cookie(fields: &mut impl Fields, name: &str) -> Vec<String> {
    let mut taken = Vec::new();
    let mut kept = Vec::new();
    for line in fields.lines(&COOKIE) {
        let before = taken.len();
        let rest = split_cookie(line, name.as_bytes(), &mut taken);
        kept.push(if taken.len() > before { rest } else { line.to_vec() });
    }
    if !taken.is_empty() {
        fields.remove(&COOKIE);
        for line in kept.into_iter().filter(|line| !line.is_empty()) {
            fields.add(COOKIE, line);
        }
    }
    taken
}

fn split_cookie(line: &[u8], name: &[u8], taken: &mut Vec<String>) -> Vec<u8> {
    let mut rest: Vec<&[u8]> = Vec::new();
    for pair in line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
        match pair.strip_prefix(name).and_then(|value| value.trim_ascii_start().strip_prefix(b"=")) {
            Some(value) => taken.push(String::from_utf8_lossy(unquoted(value.trim_ascii_start())).into_owned()),
            None if pair.is_empty() => {}
            None => rest.push(pair),
        }
    }
    rest.join(&b"; "[..])
}

/// A cookie's value may be quoted (RFC 6265 §4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::table::ObjectName;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    fn lines(headers: &HeaderMap) -> Vec<&str> {
        headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect()
    }

    fn endpoint(uid: &str) -> EndpointId {
        EndpointId::new(&ObjectName::new("shop", "chat"), 80, &uid)
    }

    fn persistence(secure: Secure) -> Persistence {
        Persistence {
            scope: "shop/chat/main".into(),
            cookie: "chat".into(),
            attributes: "; Path=/; HttpOnly; SameSite=Lax".into(),
            secure,
            max_age: None,
        }
    }

    #[test]
    fn the_cookie_is_taken_out_and_the_others_stay() {
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&["a=1; chat=x; b=2"], &["x"], &["a=1; b=2"]),
            (&["chat=x"], &["x"], &[]),
            (&["chat=\"x\""], &["x"], &[]),
            (&["a=1", "chat=x", "chat=y; b=2"], &["x", "y"], &["a=1", "b=2"]),
            (&["chatter=1; Chat=2; xchat=3"], &[], &["chatter=1; Chat=2; xchat=3"]),
            (&["a=1;;b=chat=2"], &[], &["a=1;;b=chat=2"]),
            (&["chat"], &[], &["chat"]),
            (&["chat="], &[""], &[]),
        ];
        for (sent, values, rest) in cases {
            let mut headers = headers(sent);
            assert_eq!(&take_cookie(&mut headers, "chat"), values, "{sent:?}");
            assert_eq!(&lines(&headers), rest, "{sent:?}");
        }
    }

    #[test]
    fn a_cookie_is_set_only_where_the_client_lacks_the_right_one() {
        let keys = Arc::new(SessionKeys::random());
        let sticky = |lines: &[&str], now| {
            Sticky::take(&persistence(Secure::Auto), keys.clone(), &mut headers(lines), false, now)
        };
        let first = sticky(&[], 1000).cookie(&endpoint("a")).unwrap();
        let (pair, attributes) = first.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax");
        assert!(sticky(&[pair], 2000).session().unwrap().belongs_to(&endpoint("a")));
        assert!(sticky(&["chat=forged", pair], 2000).cookie(&endpoint("a")).is_none());
        assert!(sticky(&[pair], 2000).cookie(&endpoint("b")).is_some(), "another endpoint answered");
    }

    #[test]
    fn the_number_of_cookies_that_are_checked_is_limited() {
        let keys = Arc::new(SessionKeys::random());
        let token = keys.issue(&endpoint("a"), "shop/chat/main", 1000);
        let session = |forged: usize| {
            let line = format!("{}chat={token}", "chat=forged; ".repeat(forged));
            let mut sent = headers(&[&line]);
            let sticky = Sticky::take(&persistence(Secure::Auto), keys.clone(), &mut sent, false, 1000);
            assert!(sent.is_empty(), "unchecked ones are removed as well");
            sticky.session().is_some()
        };
        assert!(session(MAX_TOKENS - 1));
        assert!(!session(MAX_TOKENS));
    }

    #[test]
    fn secure_follows_the_setting_and_the_way_here() {
        let keys = Arc::new(SessionKeys::random());
        let cases = [
            (Secure::Auto, true, true),
            (Secure::Auto, false, false),
            (Secure::Always, false, true),
            (Secure::Never, true, false),
        ];
        for (setting, came_secure, expected) in cases {
            let sticky = Sticky::take(&persistence(setting), keys.clone(), &mut HeaderMap::new(), came_secure, 0);
            let cookie = sticky.cookie(&endpoint("a")).unwrap();
            assert_eq!(cookie.ends_with("; Secure"), expected, "{setting:?}");
        }
    }

    #[test]
    fn a_token_under_an_old_key_is_renewed_with_its_old_issue_time() {
        let (old, new) =
            ("b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=", "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=");
        let token = SessionKeys::parse(old).unwrap().issue(&endpoint("a"), "shop/chat/main", 1000);
        let keys = Arc::new(SessionKeys::parse(&format!("{new}\n{old}")).unwrap());
        let mut sent = headers(&[&format!("chat={token}")]);
        let sticky = Sticky::take(&persistence(Secure::Never), keys.clone(), &mut sent, false, 5000);
        let cookie = sticky.cookie(&endpoint("a")).unwrap();
        let renewed = cookie.split([';', '=']).nth(1).unwrap().to_owned();
        assert_eq!(keys.read(&renewed, "shop/chat/main", 5000, None).unwrap().issued(), 1000);
    }

    proptest! {
        #[test]
        fn no_cookie_field_makes_it_panic_or_lose_another_cookie(line in "[ -~]{0,60}", other in "[a-z]{5,8}=[a-z]{0,5}") {
            let mut sent = headers(&[&line, &other]);
            let _ = take_cookie(&mut sent, "chat");
            prop_assert!(lines(&sent).contains(&other.as_str()));
        }
    }
}
