//! The handling of heads.

#[rustfmt::skip]
#[path = "../../../tests/proxy/differential/strict.rs"]
mod strict;

use std::{
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use rustix::time::{ClockId, clock_gettime};

use self::strict::StrictHead;
use crate::proxy::{
    fields::{Fields, Lines, protected::ProtectedFields},
    request::{
        check::{self, TargetParts},
        forwarded::{self, Hop},
        handshake::{Intent, intent},
        hop_by_hop,
        refusal::Refusal,
        session::Sticky,
    },
};
use crate::table::{Host, Persistence, Secure, SessionKeys};

const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// A millisecond for a release build, times the cost of a fuzzer's instrumentation and debug assertions; `make
/// bench-heads` prints the exact figures.
const BUDGET: Duration = Duration::from_millis(10);

static KEYS: LazyLock<Arc<SessionKeys>> = LazyLock::new(|| Arc::new(SessionKeys::random()));

/// A head of up to 64 KiB from a small input. A leading `!` means a trusted peer; the part between the bytes 2 and 1 is
/// repeated, 64 times the byte after them.
pub fn expand(input: &[u8]) -> (bool, Vec<u8>) {
    let (is_trusted, mut rest) = input.strip_prefix(b"!").map_or((false, input), |rest| (true, rest));
    let (mut head, mut start) = (Vec::new(), 0);
    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            2 => start = head.len(),
            1 => {
                let segment = head[start..].to_vec();
                let wanted = rest.first().map_or(0, |count| usize::from(*count) * 64);
                let room = (MAX_HEAD - head.len()) / segment.len().max(1);
                head.extend(segment.repeat(wanted.min(room)));
                start = head.len();
                rest = rest.get(1..).unwrap_or_default();
            }
            byte if head.len() < MAX_HEAD => head.push(*byte),
            _ => break,
        }
    }
    (is_trusted, head)
}

/// Parses a head in both forms and compares the results with each other and with the rules.
pub fn run(received: &[u8], is_trusted: bool) {
    let cost = (0..3).map(|_| timed(|| drop(by_lines(received, is_trusted)))).min().expect("three rounds");
    assert!(cost < BUDGET, "{} bytes take {cost:?}", received.len());
    let (lines, map) = (by_lines(received, is_trusted), by_map(received, is_trusted));
    let (written, mapped) = match (lines, map) {
        (Some(Ok(written)), Some(Ok(mapped))) => (written, mapped),
        (lines, map) => return assert_eq!(lines.map(Result::err), map.map(Result::err)),
    };
    let head = StrictHead::parse(&written).expect("a strict parser reads what is passed on");
    head.check_folded(is_trusted).expect("no field passes for another");
    if !is_trusted {
        check_claims(&head);
    }
    assert!(received.windows(head.target.len()).any(|window| window == head.target), "the target is the client's");
    for name in mapped.keys() {
        let values: Vec<_> = mapped.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect();
        assert_eq!(head.all(name.as_str()), values, "{name}");
    }
    assert_eq!(head.fields.len(), mapped.len());
}

/// Everything that a backend learns about an untrusted client is what the proxy has observed itself.
fn check_claims(head: &StrictHead) {
    for (name, value) in [("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1"), ("x-forwarded-proto", "http")] {
        assert_eq!(head.all(name), [value.as_bytes()], "{name}");
    }
    assert!(head.all("forwarded")[0].starts_with(b"for=192.0.2.1;host=\""));
    assert_eq!(head.all("x-forwarded-host"), head.all("host"));
    let told = head.fields.iter().filter(|(name, _)| ProtectedFields::default().contains(name)).count();
    assert_eq!(told, 6, "{head:?}");
}

fn by_lines(received: &[u8], is_trusted: bool) -> Option<Result<Vec<u8>, Refusal>> {
    let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
    let (target, fields) = parse(received, &mut room)?;
    let mut fields = Lines::new(fields);
    let treated = treat(target, &mut fields, is_trusted);
    Some(treated.map(|()| {
        let mut written = format!("GET {target} HTTP/1.1\r\n").into_bytes();
        fields.write(&mut written);
        written
    }))
}

fn by_map(received: &[u8], is_trusted: bool) -> Option<Result<HeaderMap, Refusal>> {
    let mut room = [MaybeUninit::uninit(); MAX_FIELDS];
    let (target, fields) = parse(received, &mut room)?;
    let mut map = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).expect("the parser takes tokens only");
        map.append(name, HeaderValue::from_bytes(field.value).expect("the parser takes no control characters"));
    }
    Some(treat(target, &mut map, is_trusted).map(|()| map))
}

/// The target and fields of a GET in origin form, as `understand` in `direct.rs` gets them.
fn parse<'h, 'b>(
    received: &'b [u8],
    room: &'h mut [MaybeUninit<httparse::Header<'b>>],
) -> Option<(&'b str, &'h [httparse::Header<'b>])> {
    let mut head = httparse::Request::new(&mut []);
    let parsed = head.parse_with_uninit_headers(received, room);
    let Ok(httparse::Status::Complete(length)) = parsed else { return None };
    let is_plain =
        |target: &&str| target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let is_usual = length <= MAX_HEAD && head.method == Some("GET") && head.version == Some(1);
    let (target, fields) = (head.path.filter(is_plain)?, &*head.headers);
    is_usual.then_some((target, fields))
}

/// The result of `understand` and `route` for the fields, for a rule with a session cookie.
fn treat(target: &str, fields: &mut impl Fields, is_trusted: bool) -> Result<(), Refusal> {
    if intent(&Method::GET, Version::HTTP_11, fields) != Intent::Upgrade {
        return Err(Refusal::NoUpgrade);
    }
    let parts = TargetParts { scheme: None, authority: None, path_and_query: target };
    let checked = check::check(&Method::GET, Version::HTTP_11, parts, fields)?;
    let authority = checked.authority.as_deref().expect("there is no HTTP/1.1 without");
    Host::parse(authority).map_err(|_| Refusal::MalformedHost)?;
    let trusted = if is_trusted { vec!["192.0.2.0/24".parse().expect("a net")] } else { Vec::new() };
    let secure = forwarded::is_secure(fields, false, is_trusted);
    let client = forwarded::client(fields, PEER, &trusted);
    let persistence = Persistence {
        scope: "shop/chat/main".into(),
        cookie: "sticky".into(),
        attributes: "; Path=/".into(),
        secure: Secure::Auto,
        max_age: None,
    };
    assert!(Sticky::take(&persistence, KEYS.clone(), fields, secure, 1000).session().is_none(), "it is forged");
    let hop = Hop { peer: PEER, tls: false, client, authority: Some(authority), trusted: is_trusted };
    let protected = ProtectedFields::default();
    forwarded::set(fields, &protected, &hop);
    hop_by_hop::handshake_fields(fields, &protected);
    Ok(())
}

/// The CPU time of this thread, unaffected by other load on the machine.
fn timed(what: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time goes forward");
    let start = now();
    what();
    now() - start
}
