//! Session tokens: issued tokens are read back, and no others.
#![no_main]

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/choices/mod.rs"]
mod choices;
#[allow(dead_code, unused_imports)]
#[rustfmt::skip]
#[path = "../../src/table/mod.rs"]
mod table;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use table::{EndpointId, ObjectName, SessionKeys};

const OLD: &str = "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=";
const NEW: &str = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";

static RETIRED: LazyLock<Arc<SessionKeys>> = LazyLock::new(|| Arc::new(SessionKeys::parse(OLD).expect("a key")));
static KEYS: LazyLock<Arc<SessionKeys>> =
    LazyLock::new(|| Arc::new(SessionKeys::parse(&format!("{NEW}\n{OLD}")).expect("two keys")));

/// Keys that sign nothing here: a fuzzer sees the tokens signed by others.
static UNUSED: LazyLock<Arc<SessionKeys>> = LazyLock::new(|| Arc::new(SessionKeys::random()));

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    text: &'a str,
    scope: &'a str,
    other_scope: &'a str,
    pod: &'a str,
    other_pod: &'a str,
    is_old: bool,
    issued: u64,
    now: u64,
    max_age: Option<u32>,
    /// Changes to the characters of a token: the position and the new character.
    changes: Vec<(u8, u8)>,
}

fuzz_target!(|input: Input| {
    let Input { text, scope, other_scope, pod, other_pod, is_old, issued, now, max_age, changes } = input;
    assert!(UNUSED.read(text, scope, now, None).is_none(), "nobody has issued it");
    let endpoint = |pod| EndpointId::new(&ObjectName::new("shop", "chat"), 80, &pod);
    let signer = if is_old { &RETIRED } else { &KEYS };
    let token = signer.issue(&endpoint(pod), scope, issued);

    let max_age = max_age.map(|seconds| Duration::from_secs(seconds.into()));
    let is_expired = max_age.is_some_and(|max_age| now.saturating_sub(issued) >= max_age.as_secs());
    let session = KEYS.read(&token, scope, now, max_age);
    assert_eq!(session.is_none(), is_expired);
    if let Some(session) = session {
        assert!(session.belongs_to(&endpoint(pod)));
        assert_eq!(session.belongs_to(&endpoint(other_pod)), pod == other_pod);
        assert_eq!((session.issued(), session.wants_new_signature()), (issued, is_old));
    }
    assert_eq!(KEYS.read(&token, other_scope, now, None).is_some(), scope == other_scope);

    let mut forged = token.clone().into_bytes();
    for (place, byte) in changes {
        let place = usize::from(place) % forged.len();
        forged[place] = byte;
    }
    if let Ok(forged) = String::from_utf8(forged) {
        assert_eq!(KEYS.read(&forged, scope, now, None).is_some(), forged == token);
        assert!(
            KEYS.read(&format!("{forged}{text}"), scope, now, None).is_none() || text.is_empty() && forged == token
        );
    }
});
