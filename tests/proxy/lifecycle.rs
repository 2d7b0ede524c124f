//! Tunnels from their start to their end, and the end of the process.

use std::{sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use switchyard::{
    metrics::Direction,
    proxy::Settings,
    table::{RouteTable, Rule, Timeouts},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{support::*, upgrade::open};

#[tokio::test]
async fn a_table_swap_leaves_open_tunnels_alone_and_they_keep_no_old_table_alive() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_table(RouteTable::default());
    let shared: Arc<Rule> = Arc::new(rule(&[backend.endpoint("a")]));
    let (weak_rule, weak_backend) =
        (Arc::downgrade(&shared), Arc::downgrade(shared.backends[0].target.as_ref().unwrap()));
    let mut old = RouteTable::default();
    let host = switchyard::table::HostPattern::parse(HOST);
    old.claim(&host, &switchyard::table::PathPattern::prefix("/"), shared);
    let old = Arc::new(old);
    let weak_table = Arc::downgrade(&old);
    harness.table.publish(old);
    let (mut client, mut peer) = open(&harness, &backend).await;
    harness.tunnels(1).await;
    drop(harness.table.publish(Arc::default()));
    // The connection's own task ends once it has started the tunnel's.
    while weak_table.strong_count() + weak_rule.strong_count() + weak_backend.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    client.send("ping").await;
    peer.expect("ping").await;
    peer.send("pong").await;
    client.expect("pong").await;
    // Bytes are counted once they have been written, which may be after the client has read them.
    while harness.tunnels.list()[0].bytes(Direction::ToClient) < 4 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_side_that_closes_first_is_the_closer() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let (mut client, mut peer) = open(&harness, &backend).await;
    harness.tunnels(1).await;
    assert!(harness.counted(r#"tunnels_open{namespace="shop",route="chat"} 1"#));
    client.finish().await;
    assert_eq!(peer.rest().await, "");
    peer.finish().await;
    assert_eq!(client.rest().await, "");
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("client", "closed", 1)));
    let (mut client, mut peer) = open(&harness, &backend).await;
    peer.send("bye").await;
    peer.finish().await;
    assert_eq!(client.rest().await, "bye");
    client.finish().await;
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("backend", "closed", 1)));
    let (client, mut peer) = open(&harness, &backend).await;
    client.reset();
    peer.rest().await;
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("client", "reset", 1)));
    let (mut client, peer) = open(&harness, &backend).await;
    peer.reset();
    client.rest().await;
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("backend", "reset", 1)));
    assert!(harness.counted(r#"tunnels_open{namespace="shop",route="chat"} 0"#));
}

#[tokio::test]
async fn bytes_before_a_close_arrive_although_the_other_side_still_sends() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    for _ in 0..20 {
        let (mut client, mut peer) = open(&harness, &backend).await;
        peer.send("last words").await;
        drop(peer);
        for _ in 0..5 {
            client.send("talk").await;
        }
        client.expect("last words").await;
    }
}

#[tokio::test]
async fn a_backend_that_closes_without_having_read_all_does_not_break_the_clients_connection() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    for round in 1..=5 {
        let (client, mut peer) = open(&harness, &backend).await;
        let (mut receive, mut send) = client.stream.into_split();
        let talk = tokio::spawn(async move { while send.write_all(&vec![1; 1 << 16]).await.is_ok() {} });
        peer.stream.readable().await.unwrap();
        peer.send("last words").await;
        // There are unread bytes, so this resets the connection.
        drop(peer);
        let mut received = String::new();
        soon(receive.read_to_string(&mut received)).await.unwrap();
        assert_eq!(received, "last words");
        harness.tunnels(0).await;
        assert!(harness.counted(&closed("backend", "reset", round)));
        soon(talk).await.unwrap();
    }
}

#[tokio::test]
async fn limits_cut_tunnels_only_where_they_are_set() {
    let short = Some(Duration::from_millis(60));
    let cases = [("idle", short, None), ("max_duration", None, short)];
    for (cause, idle, max_duration) in cases {
        let backend = RawBackend::bind().await;
        let mut limited = rule(&[backend.endpoint("a")]);
        limited.policy.timeouts = Timeouts { idle, max_duration, ..Timeouts::default() };
        let usual = Rule { policy: rule(&[]).policy, ..limited.clone() };
        let harness = Harness::with_rule(limited);
        let (mut client, mut peer) = open(&harness, &backend).await;
        harness.table.publish(table(usual).into());
        let (mut unlimited, mut other) = open(&harness, &backend).await;
        client.answer_close_as_client(1001).await;
        peer.answer_close_as_backend(1001).await;
        assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
        harness.tunnels(1).await;
        assert!(harness.counted(&closed("proxy", cause, 1)));
        unlimited.send(from_client(TEXT, "still")).await;
        other.expect_frame(TEXT, "still").await;
    }
}

#[tokio::test]
async fn a_half_closed_tunnel_that_falls_silent_ends() {
    let backend = RawBackend::bind().await;
    let settings = Settings { half_closed_timeout: Duration::from_millis(60), ..Settings::default() };
    let harness = Harness::start(table(rule(&[backend.endpoint("a")])), settings);
    let (mut client, mut peer) = open(&harness, &backend).await;
    client.finish().await;
    assert_eq!(peer.rest().await, "");
    let close = client.frame().await;
    assert_eq!((close.code(), client.rest().await.as_str()), (Some(1001), ""));
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("proxy", "half_closed", 1)));
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let (mut client, mut peer) = open(&harness, &backend).await;
    let chunk = vec![7; 1 << 20];
    let mut sent = 0;
    // The sockets of both hops hold a few megabytes; without back-pressure, this would never end.
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), peer.stream.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 256 << 20, "the sender is not held back");
    }
    let received = client.bytes(sent).await;
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn large_messages_pass_both_ways_between_real_peers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let harness = Harness::with_rule(rule(&[endpoint("a", listener.local_addr().unwrap())]));
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() || message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let stream = TcpStream::connect(harness.http).await.unwrap();
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(format!("ws://{HOST}/ws"), stream, Some(config)).await.unwrap();
    let message = Message::binary(vec![3; 16 << 20]);
    for _ in 0..2 {
        socket.send(message.clone()).await.unwrap();
        assert!(soon(socket.next()).await.unwrap().unwrap() == message);
    }
    socket.close(None).await.unwrap();
    while soon(socket.next()).await.is_some() {}
    soon(echo).await.unwrap();
}

#[tokio::test]
async fn frames_pass_untouched() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let (client, peer) = open(&harness, &backend).await;
    let mut client = WebSocketStream::from_raw_socket(client.stream, Role::Client, None).await;
    let mut server = WebSocketStream::from_raw_socket(peer.stream, Role::Server, None).await;
    client.send(Message::text("hello")).await.unwrap();
    assert_eq!(soon(server.next()).await.unwrap().unwrap(), Message::text("hello"));
    server.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(soon(client.next()).await.unwrap().unwrap(), Message::Ping("p".into()));
}

#[tokio::test]
async fn stopping_asks_to_close_then_stops_accepting_then_ends_the_rest() {
    let backend = RawBackend::bind().await;
    let settings = Settings {
        shutdown_delay: Duration::from_millis(300),
        drain_window: Duration::from_millis(100),
        ..Settings::default()
    };
    let mut harness = Harness::start(table(rule(&[backend.endpoint("a")])), settings);
    let (mut client, mut peer) = open(&harness, &backend).await;
    let mut slow = harness.client().await;
    slow.send(get("/slow", "")).await;
    let mut answering = backend.accept().await;
    answering.head().await;
    harness.stop();
    // Until it is asked to close, a client is served as usual.
    loop {
        let mut late = harness.client().await;
        late.send(get("/", "")).await;
        let _peer = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        let head = late.head().await;
        assert_eq!(head.status(), 200);
        if head.field("connection") == Some("close") {
            assert_eq!(late.rest().await, "");
            break;
        }
    }
    client.send(from_client(TEXT, "still open")).await;
    peer.expect_frame(TEXT, "still open").await;
    client.answer_close_as_client(1012).await;
    peer.answer_close_as_backend(1012).await;
    assert_eq!(client.rest().await, "");
    assert_eq!(peer.rest().await, "");
    assert!(TcpStream::connect(harness.http).await.is_err(), "nothing listens any more");
    answering.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(slow.head().await.status(), 200);
    assert_eq!(slow.rest().await, "ok");
    harness.stopped().await;
    assert!(harness.counted(&closed("proxy", "shutdown", 1)));
}

/// Handshakes that have reached the backend, and are unanswered when the proxy stops accepting.
async fn asked_before_the_stop(
    harness: &mut Harness,
    backend: &RawBackend,
    count: usize,
) -> Vec<(Peer<TcpStream>, Peer<TcpStream>)> {
    let mut late = Vec::new();
    for _ in 0..count {
        let mut client = harness.client().await;
        client.send(handshake("/ws", "")).await;
        let mut peer = backend.accept().await;
        peer.head().await;
        late.push((client, peer));
    }
    harness.stop();
    while TcpStream::connect(harness.http).await.is_ok() {}
    late
}

#[tokio::test]
async fn handshakes_that_end_after_the_drain_become_tunnels_that_end_at_once() {
    let backend = RawBackend::bind().await;
    let settings = Settings { drain_window: Duration::ZERO, ..Settings::default() };
    let mut harness = Harness::start(table(rule(&[backend.endpoint("a")])), settings);
    let mut late = asked_before_the_stop(&mut harness, &backend, 4).await;
    for (_, peer) in &mut late {
        peer.send(switching("")).await;
    }
    for (client, peer) in &mut late {
        assert_eq!(client.head().await.status(), 101);
        client.answer_close_as_client(1012).await;
        peer.answer_close_as_backend(1012).await;
        assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
    }
    drop(late);
    harness.stopped().await;
    assert!(harness.counted(&closed("proxy", "shutdown", 4)));
}

#[tokio::test]
async fn handshakes_that_are_refused_while_the_proxy_stops_are_answered() {
    const HANDSHAKES: usize = 8;
    let backend = RawBackend::bind().await;
    let mut harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
    let mut late = asked_before_the_stop(&mut harness, &backend, HANDSHAKES).await;
    for (client, peer) in &mut late {
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 403);
        assert_eq!(client.rest().await, "");
    }
    drop(late);
    harness.stopped().await;
    let result = format!(r#"handshakes_total{{namespace="shop",route="chat",result="refused"}} {HANDSHAKES}"#);
    assert!(harness.counted(&result));
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_prevent_the_process_from_stopping() {
    let backend = RawBackend::bind().await;
    let settings =
        Settings { drain_window: Duration::ZERO, request_grace: Duration::from_millis(50), ..Settings::default() };
    let mut harness = Harness::start(table(rule(&[backend.endpoint("a")])), settings);
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    harness.stop();
    harness.stopped().await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tunnels_and_requests_at_once_leave_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chosen = endpoint("a", listener.local_addr().unwrap());
    let echo = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut peer = Peer::new(stream);
                while let Some(head) = peer.try_head().await {
                    if head.field("upgrade").is_none() {
                        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                        continue;
                    }
                    peer.send(switching("")).await;
                    let bytes = peer.bytes(100_000).await;
                    peer.send(bytes).await;
                    return;
                }
            });
        }
    });
    let harness = Arc::new(Harness::with_rule(rule(std::slice::from_ref(&chosen))));
    let clients = (0..100).map(|number| {
        let harness = harness.clone();
        tokio::spawn(async move {
            let message: Vec<u8> = (0..100_000_u32).map(|at| u8::try_from((at + number) % 251).unwrap()).collect();
            let (mut client, head) = harness.ask(&get("/", "")).await;
            assert_eq!((head.status(), client.body(&head).await.as_str()), (200, "ok"));
            client.send(handshake("/ws", "")).await;
            assert_eq!(client.head().await.status(), 101);
            client.send(&message).await;
            assert!(client.bytes(message.len()).await == message);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    harness.tunnels(0).await;
    while chosen.state.in_use() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!harness.metrics.encode().contains("endpoint=\"a\""));
    echo.abort();
}

#[tokio::test]
async fn a_tunnel_is_logged_once_when_it_opens_and_once_when_it_closes_without_secrets() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
    let mut client = harness.client().await;
    client.send(handshake("/ws?token=kept-to-itself", "Cookie: session=kept-to-itself\r\n")).await;
    let (mut peer, _) = backend.answer(&switching("")).await;
    client.head().await;
    client.send("12345").await;
    peer.expect("12345").await;
    drop(client);
    assert_eq!(peer.rest().await, "");
    drop(peer);
    harness.tunnels(0).await;
    let (text, endpoint) = (log.text(), format!(" endpoint={} ", backend.name));
    for (event, fields) in [
        ("tunnel opened", &["route=shop/chat", "rule=main", "client=127.0.0.1"][..]),
        ("tunnel closed", &["route=shop/chat", "closer=\"client\"", "cause=\"closed\"", "bytes_to_backend=5"]),
    ] {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(event) && line.contains(&endpoint)).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(fields.iter().all(|field| lines[0].contains(field)), "{}", lines[0]);
    }
    assert!(!text.contains("kept-to-itself"), "{text}");
}

#[tokio::test]
async fn the_limit_of_connections_holds_for_all_threads_together() {
    let settings = Settings { threads: 2, max_connections: 1, ..Settings::default() };
    let harness = Harness::start(RouteTable::default(), settings);
    let request = format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let (mut first, head) = harness.ask(&request).await;
    assert_eq!(head.status(), 404);
    let mut waiting = Vec::new();
    for _ in 0..16 {
        // The kernel distributes these over both threads.
        let mut late = harness.client().await;
        late.send(&request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        waiting.push(late);
    }
    first.send(&request).await;
    assert_eq!(first.head().await.status(), 404);
    // The other thread may already have been waiting for a connection; it accepts that one, and no more.
    let served = |count| harness.counted(&format!(r#"requests_total{{namespace="",route="",code="404"}} {count}"#));
    assert!(served(2) || served(3), "the others wait");
    drop(first);
    for mut late in waiting {
        assert_eq!(late.head().await.status(), 404);
    }
}

#[tokio::test]
async fn at_the_limit_of_connections_clients_wait_until_others_have_ended() {
    let settings = Settings { max_connections: 1, ..Settings::default() };
    let harness = Harness::start(RouteTable::default(), settings);
    let request = format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let (mut first, head) = harness.ask(&request).await;
    assert_eq!(head.status(), 404);
    let mut second = harness.client().await;
    second.send(&request).await;
    first.send(&request).await;
    assert_eq!(first.head().await.status(), 404);
    assert!(harness.counted(r#"requests_total{namespace="",route="",code="404"} 2"#), "the second client waits");
    drop(first);
    assert_eq!(second.head().await.status(), 404);
}
