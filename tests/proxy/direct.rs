//! A handshake that is the first on its connection is forwarded without hyper, a later one is not. The difference must
//! not be visible to anybody.

use std::time::Duration;

use proptest::prelude::*;
use switchyard::{
    proxy::Settings,
    table::{RouteTable, WeightedBackend},
};

use crate::support::*;

/// What reached the backend for a handshake, and what reached the client: the first line of each, and the fields sorted
/// by name.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    asked: (String, Vec<String>),
    answered: (String, Vec<String>),
}

/// How a handshake is forwarded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Hyper,
}

fn sticky(backend: &RawBackend) -> RouteTable {
    let mut rule = rule(&[backend.own_endpoint()]);
    rule.policy.persistence = Some(persistence());
    table(rule)
}

/// A proxy that trusts what we send about earlier hops, or does not.
fn harness(backend: &RawBackend, is_trusted: bool) -> Harness {
    let trusted = if is_trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
    Harness::start(sticky(backend), Settings { trusted_proxies: trusted, ..Settings::default() })
}

async fn pass(harness: &Harness, backend: &RawBackend, way: Way, request: &str, answer: &str) -> Passed {
    let mut client = harness.client().await;
    if way == Way::Hyper {
        client.send(get("/before", "")).await;
        let (_peer, _) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
    }
    client.send(request).await;
    let (_peer, asked) = backend.answer(answer).await;
    let answered = client.head().await;
    Passed { asked: sorted(&asked), answered: sorted(&answered) }
}

/// Only checks that a cookie is set and that there is a date, not their values.
fn sorted(head: &Head) -> (String, Vec<String>) {
    let mut lines: Vec<String> = head.0.lines().skip(1).map(|line| line.trim_end().to_owned()).collect();
    for line in &mut lines {
        for volatile in ["Set-Cookie: sticky=", "Date: "] {
            if line.starts_with(volatile) {
                line.truncate(volatile.len());
            }
        }
    }
    lines.sort_by_key(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase());
    (head.first().to_owned(), lines)
}

/// A line of a head, with names that a proxy treats specially and others. Those that the proxy sends itself are in the
/// case that it writes: hyper remembers the client's case even for a field that was replaced.
fn line() -> impl Strategy<Value = String> {
    let names = [
        "X-Private",
        "x-PUBLIC",
        "Cookie",
        "Origin",
        "Te",
        "Trailer",
        "Keep-Alive",
        "Proxy",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Proxy-Authorization",
        "Upgrade",
        "Accept",
        "Set-Cookie",
        "Server",
    ];
    let values = [
        "",
        "1",
        "a, b",
        "sticky=x; other=1",
        "other=1;; sticky=\"y\"",
        "trailers",
        "https",
        "http, https",
        "for=1.2.3.4",
        "for=\"[2001:db8::1]\";proto=https",
        "203.0.113.9, 127.0.0.1",
        "permessage-deflate; client_max_window_bits",
        "websocket",
        "h2c",
        "8443",
        "public.example.com:8443",
    ];
    (prop::sample::select(names.to_vec()), prop::sample::select(values.to_vec()), "[ \t]{0,2}", "[ \t]{0,2}")
        .prop_map(|(name, value, before, after)| format!("{name}:{before}{value}{after}\r\n"))
}

/// `close` is not included: hyper would add it to its 101 too, where it has no meaning.
fn connection() -> impl Strategy<Value = String> {
    let more = ["", ", X-Private", ", keep-alive", ", Sec-WebSocket-Key, Cookie", ", X-Forwarded-For, Upgrade"];
    prop::sample::select(more.to_vec()).prop_map(|more| format!("Connection: Upgrade{more}\r\n"))
}

fn lines() -> impl Strategy<Value = String> {
    prop::collection::vec(line(), 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_handshake_is_passed_on_the_same_whichever_way_it_goes(
        target in "/[a-z/]{0,8}(\\?[a-z=&%#;]{0,8})?",
        connection in connection(),
        asked in lines(),
        more in connection(),
        answered in lines(),
        is_trusted: bool,
    ) {
        let request = handshake(&target, &asked).replace("Connection: Upgrade\r\n", &connection);
        let answer = switching(&answered).replace("Connection: Upgrade\r\n", &more);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let backend = RawBackend::bind().await;
            let harness = harness(&backend, is_trusted);
            let direct = pass(&harness, &backend, Way::Direct, &request, &answer).await;
            let hyper = pass(&harness, &backend, Way::Hyper, &request, &answer).await;
            prop_assert_eq!(direct, hyper);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_head_in_pieces_is_the_same_handshake() {
    let backend = RawBackend::bind().await;
    let harness = harness(&backend, false);
    let (request, answer) = (handshake("/ws", "X-A: 1\r\n"), switching("X-B: 2\r\n"));
    let whole = pass(&harness, &backend, Way::Direct, &request, &answer).await;
    for cut in [1, 20, request.len() - 1] {
        let mut client = harness.client().await;
        client.send(&request[..cut]).await;
        // Long enough for the proxy to see the piece alone; otherwise, the test would show less but still pass.
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send(&request[cut..]).await;
        let (_peer, asked) = backend.answer(&answer).await;
        assert_eq!((sorted(&asked), sorted(&client.head().await)), (whole.asked.clone(), whole.answered.clone()));
    }
}

#[tokio::test]
async fn an_answer_in_pieces_is_the_same_answer() {
    let backend = RawBackend::bind().await;
    let harness = harness(&backend, false);
    let answer = switching("X-B: 2\r\n");
    for cut in [1, 20, answer.len() - 1] {
        let mut client = harness.client().await;
        client.send(handshake("/ws", "")).await;
        let mut peer = backend.accept().await;
        peer.head().await;
        peer.send(&answer[..cut]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        peer.send(format!("{}early", &answer[cut..])).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.field("x-b")), (101, Some("2")));
        client.expect("early").await;
        client.send("talk").await;
        peer.expect("talk").await;
    }
    assert!(harness.counted(r#"handshakes_total{namespace="shop",route="chat",result="switched"} 3"#));
}

#[tokio::test]
async fn bytes_ahead_of_an_unusual_answer_are_still_the_clients() {
    let backend = RawBackend::bind().await;
    let harness = harness(&backend, false);
    let mut client = harness.client().await;
    client.send(format!("{}GET /next HTTP/1.1\r\nHost: {HOST}\r\n\r\n", handshake("/ws", ""))).await;
    let (_first, _) = backend.answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope").await;
    assert_eq!(client.head().await.status(), 403);
    client.expect("nope").await;
    let (_second, asked) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(asked.first(), "GET /next HTTP/1.1");
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_target_that_was_restored_once_is_not_restored_again() {
    let backend = RawBackend::bind().await;
    let harness = harness(&backend, false);
    let mut client = harness.client().await;
    client.send(handshake("/a?\"", "")).await;
    let (_first, asked) = backend.answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((asked.first(), client.head().await.status()), ("GET /a?\" HTTP/1.1", 403));
    client.send(get("/a?%22", "")).await;
    let (_second, asked) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(asked.first(), "GET /a?%22 HTTP/1.1");
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_is_waited_for_no_longer_than_the_limit() {
    let backend = RawBackend::bind().await;
    let settings = Settings { half_closed_timeout: Duration::from_millis(50), ..Settings::default() };
    let harness = Harness::start(sticky(&backend), settings);
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    client.finish().await;
    let mut peer = backend.accept().await;
    peer.head().await;
    assert_eq!(peer.rest().await, "", "the backend's connection ends together with the client's");
    assert_eq!(client.rest().await, "");
    assert!(harness.counted(r#"handshakes_total{namespace="shop",route="chat",result="client_gone"} 1"#));
}

#[tokio::test]
async fn a_reference_that_does_not_resolve_keeps_its_share_of_the_handshakes() {
    const HANDSHAKES: usize = 600;
    let backend = RawBackend::bind().await;
    let mut rule = rule(&[backend.own_endpoint()]);
    let [whole] = &*rule.backends else { unreachable!("it has one") };
    let broken = WeightedBackend { weight: 1, target: Err("no such Service".into()) };
    rule.backends = Box::new([whole.clone(), broken]);
    let harness = Harness::with_rule(rule);
    let _backend = backend.serve(|_| switching(""));
    let mut refused = 0;
    for _ in 0..HANDSHAKES {
        let (_client, head) = harness.ask(&handshake("/ws", "")).await;
        refused += usize::from(head.status() == 503);
    }
    // A half; if each refused one were drawn again, it would be a quarter. The threshold is six standard deviations
    // from either.
    assert!(refused > HANDSHAKES * 3 / 8, "{refused} of {HANDSHAKES} are refused");
}
