//! Handshakes, and what follows them.

use std::{slice::from_ref, time::Duration};

use switchyard::table::Timeouts;

use crate::support::*;

/// A client and a backend with a tunnel between them.
pub(crate) async fn open(
    harness: &Harness,
    backend: &RawBackend,
) -> (Peer<tokio::net::TcpStream>, Peer<tokio::net::TcpStream>) {
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    let (backend, _) = backend.answer(&switching("")).await;
    assert_eq!(client.head().await.status(), 101);
    (client, backend)
}

/// The same over TLS.
pub(crate) async fn open_tls(
    harness: &Harness,
    backend: &RawBackend,
    config: &std::sync::Arc<rustls::ClientConfig>,
) -> (Peer<TlsStream>, Peer<tokio::net::TcpStream>) {
    let mut client = connect_tls(harness.https, config, HOST).await.unwrap();
    client.send(handshake("/ws", "")).await;
    let (backend, _) = backend.answer(&switching("")).await;
    assert_eq!(client.head().await.status(), 101);
    (client, backend)
}

#[tokio::test]
async fn a_handshake_is_passed_on_as_our_own_and_answered_with_the_backends_fields() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    let more = "Connection: keep-alive, X-Hop, Host, X-Forwarded-For\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
                X-Forwarded-For: 6.6.6.6\r\nSec-WebSocket-Protocol: b, a\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
                Origin: https://app.example.com\r\nX-CasE: kept\r\n";
    client.send(handshake("/ws?token=secret", more)).await;
    let answer = switching(
        "Set-Cookie: a=1\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Extensions: permessage-deflate\r\nX-BacK: 1\r\nKeep-Alive: 9\r\n",
    );
    let (_backend, asked) = backend.answer(&answer).await;
    assert_eq!(asked.first(), "GET /ws?token=secret HTTP/1.1");
    for (name, value) in [
        ("host", Some(HOST)),
        ("upgrade", Some("websocket")),
        ("connection", Some("Upgrade")),
        ("sec-websocket-version", Some("13")),
        ("sec-websocket-protocol", Some("b, a")),
        ("sec-websocket-extensions", Some("permessage-deflate")),
        ("origin", Some("https://app.example.com")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some(HOST)),
        ("x-forwarded-port", Some("80")),
        ("x-hop", None),
        ("keep-alive", None),
        ("te", None),
    ] {
        assert_eq!(asked.field(name), value, "{name}");
    }
    assert!(asked.0.contains("\r\nX-CasE: kept"), "{}", asked.0);
    let head = client.head().await;
    assert_eq!(head.first(), "HTTP/1.1 101 Switching Protocols");
    for (name, value) in [
        ("upgrade", Some("websocket")),
        ("connection", Some("Upgrade")),
        ("sec-websocket-accept", Some(ACCEPT)),
        ("sec-websocket-protocol", Some("a")),
        ("sec-websocket-extensions", Some("permessage-deflate")),
        ("set-cookie", Some("a=1")),
        ("keep-alive", None),
    ] {
        assert_eq!(head.field(name), value, "{name}");
    }
    assert!(head.0.contains("\r\nX-BacK: 1"), "{}", head.0);
}

#[tokio::test]
async fn early_bytes_on_either_side_arrive_in_order() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("{}first ", handshake("/ws", ""))).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    client.send("second ").await;
    peer.send(format!("{}eins ", switching(""))).await;
    client.send("third").await;
    peer.send("zwei").await;
    assert_eq!(client.head().await.status(), 101);
    client.expect("eins zwei").await;
    peer.expect("first second third").await;
}

#[tokio::test]
async fn a_switch_that_does_not_belong_to_the_handshake_is_a_502() {
    let answers = [
        switching("").replace(ACCEPT, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        switching("").replace("Upgrade: websocket\r\n", ""),
        switching("").replace("Connection: Upgrade\r\n", ""),
        switching("").replace("Upgrade: websocket", "Upgrade: h2c"),
        "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        "garbage\r\n\r\n".to_owned(),
    ];
    for answer in answers {
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
        let mut client = harness.client().await;
        client.send(handshake("/ws", "")).await;
        let (_peer, _) = backend.answer(&answer).await;
        let head = client.head().await;
        assert_eq!(head.status(), 502, "{answer}");
        client.body(&head).await;
        assert!(harness.counted(r#"handshakes_total{namespace="shop",route="chat",result="bad_answer"} 1"#));
        assert_eq!(harness.tunnels.count(), 0);
    }
}

#[tokio::test]
async fn interim_responses_are_not_the_answer() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    let answer =
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}hi", switching(""));
    let (_peer, _) = backend.answer(&answer).await;
    assert_eq!(client.head().await.status(), 101);
    client.expect("hi").await;
}

#[tokio::test]
async fn another_answer_is_passed_back_and_the_connection_stays_http() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    let (_first, _) = backend.answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: no\r\n\r\nnope").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.field("x-why")), (403, Some("no")));
    client.expect("nope").await;
    client.send(get("/next", "")).await;
    let (_second, asked) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(asked.first(), "GET /next HTTP/1.1");
    assert_eq!(client.head().await.status(), 200);
    assert!(harness.counted(r#"handshakes_total{namespace="shop",route="chat",result="refused"} 1"#));
}

#[tokio::test]
async fn a_426_of_the_backend_keeps_its_upgrade() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let _peer =
        backend.answer("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.field("upgrade"), head.field("connection")), (Some("websocket"), Some("Upgrade")));
}

#[tokio::test]
async fn refusing_endpoints_are_passed_over_and_nothing_but_they_is_a_503() {
    let backend = RawBackend::bind().await;
    let dead = endpoint("dead", refusing().await);
    let harness = Harness::with_rule(rule(&[dead.clone(), backend.endpoint("live")]));
    for _ in 0..4 {
        let (_client, _peer) = open(&harness, &backend).await;
    }
    harness.table.publish(table(rule(from_ref(&dead))).into());
    let (mut client, head) = harness.ask(&handshake("/ws", "")).await;
    assert_eq!(head.status(), 503);
    let body = client.body(&head).await;
    assert!(body.contains("no endpoint accepts connections") && !body.contains("127.0.0.1"), "{body}");
    assert_eq!(dead.state.in_use(), 0);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_a_handshake_is_a_504() {
    let backend = RawBackend::bind().await;
    let mut rule = rule(&[backend.endpoint("a")]);
    rule.policy.timeouts = Timeouts { handshake: Some(Duration::from_millis(50)), ..Timeouts::default() };
    let harness = Harness::with_rule(rule);
    let (mut client, head) = harness.ask(&handshake("/ws", "")).await;
    assert_eq!(head.status(), 504);
    client.body(&head).await;
    assert_eq!(backend.accept().await.rest().await.matches("GET /ws").count(), 1, "and its connection is closed");
}

#[tokio::test]
async fn an_endpoint_that_accepts_no_connection_in_time_is_a_504() {
    let (address, _socket, _waiting) = silent().await;
    let mut hasty = rule(&[endpoint("a", address)]);
    hasty.policy.timeouts.backend_connect = Some(Duration::from_millis(50));
    let harness = Harness::with_rule(hasty);
    for request in [handshake("/ws", ""), get("/", "")] {
        let (mut client, head) = harness.ask(&request).await;
        assert_eq!(head.status(), 504);
        assert!(client.body(&head).await.contains("no endpoint accepted a connection in time"));
    }
}

#[tokio::test]
async fn a_long_answer_to_a_handshake_streams_to_its_end() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    let (mut peer, _) = backend.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    for chunk in ["1\r\na\r\n", "1\r\nb\r\n", "0\r\n\r\n"] {
        peer.send(chunk).await;
        client.expect(chunk).await;
    }
}

#[tokio::test]
async fn a_client_that_resets_during_the_handshake_takes_the_backends_connection_with_it() {
    let backend = RawBackend::bind().await;
    let chosen = backend.endpoint("a");
    let harness = Harness::with_rule(rule(from_ref(&chosen)));
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    assert_eq!(chosen.state.in_use(), 1);
    client.reset();
    assert_eq!(peer.rest().await, "");
    while chosen.state.in_use() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(harness.counted(r#"handshakes_total{namespace="shop",route="chat",result="client_gone"} 1"#));
}

#[tokio::test]
async fn a_client_that_closes_its_half_after_the_handshake_still_gets_its_tunnel() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("{}all", handshake("/ws", ""))).await;
    client.finish().await;
    let (mut peer, _) = backend.answer(&switching("")).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(peer.rest().await, "all");
    peer.send("answer").await;
    peer.finish().await;
    assert_eq!(client.rest().await, "answer");
}

#[tokio::test]
async fn http_1_0_never_gets_a_101() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(handshake("/ws", "").replace("HTTP/1.1", "HTTP/1.0")).await;
    let (_peer, asked) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!((asked.field("upgrade"), asked.field("connection")), (None, None));
    assert_eq!(client.head().await.first(), "HTTP/1.0 200 OK");
}

#[tokio::test]
async fn an_upgrade_to_something_else_is_passed_on_as_plain() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    let more = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    client.send(get("/", more)).await;
    let (_peer, asked) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(asked.field(name), None);
    }
    assert_eq!(client.head().await.status(), 200);
}
