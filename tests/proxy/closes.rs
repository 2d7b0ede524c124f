//! Ends of tunnels on the wire: by the proxy, by the peers, and after protocol violations.

use std::time::Duration;

use switchyard::{
    proxy::Settings,
    table::{Keepalive, Pings, Rule},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    support::*,
    tls::secured,
    upgrade::{open, open_tls},
};

const SHORT: Duration = Duration::from_millis(60);

fn limited(backend: &RawBackend) -> Rule {
    let mut rule = rule(&[backend.own_endpoint()]);
    rule.policy.timeouts.max_duration = Some(Duration::from_millis(100));
    rule
}

/// Never cuts a connection.
fn patient() -> Settings {
    Settings { close_timeout: Duration::from_secs(60), ..Settings::default() }
}

/// Waits until the only tunnel has ended, and checks how its end is reported.
async fn ended(harness: &Harness, log: &Log, backend: &RawBackend, closer: &str, cause: &str, code: Option<u16>) {
    harness.tunnels(0).await;
    let lines = log.ends(backend);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert!(line.contains(&format!(r#"closer="{closer}" cause="{cause}" "#)), "{line}");
    let field = line.split(' ').find_map(|field| field.strip_prefix("code="));
    assert_eq!(field.map(|code| code.parse().unwrap()), code, "{line}");
    assert!(harness.counted(&closed(closer, cause, 1)), "{}", harness.metrics.encode());
}

/// Builds frames as sent by one side.
fn wire_of(by_client: bool) -> impl Fn(u8, &[u8]) -> Vec<u8> {
    move |first, payload| if by_client { from_client(first, payload) } else { from_server(first, payload) }
}

#[tokio::test]
async fn both_sides_get_the_reason_and_their_answers_are_awaited() {
    for cause in ["idle", "max_duration", "shutdown"] {
        let log = Log::capture();
        let backend = RawBackend::bind().await;
        let mut rule = rule(&[backend.own_endpoint()]);
        match cause {
            "idle" => rule.policy.timeouts.idle = Some(SHORT),
            "max_duration" => rule.policy.timeouts.max_duration = Some(SHORT),
            _ => {}
        }
        let settings = Settings { drain_window: Duration::ZERO, ..patient() };
        let mut harness = Harness::start(table(rule), settings);
        let (mut client, mut peer) = open(&harness, &backend).await;
        if cause == "shutdown" {
            harness.stop();
        }
        let code = if cause == "shutdown" { 1012 } else { 1001 };
        peer.answer_close_as_backend(code).await;
        let close = client.frame().await;
        assert_eq!((close.code(), close.masked), (Some(code), false));
        assert!(std::str::from_utf8(&close.payload[2..]).unwrap().len() > 2, "there is a reason");
        // What the client still sends is read, but not forwarded.
        client.send(from_client(TEXT, "still")).await;
        assert_eq!(harness.tunnels.count(), 1, "its Close is awaited");
        client.send(from_client(CLOSE, close.payload)).await;
        assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
        ended(&harness, &log, &backend, "proxy", cause, Some(code)).await;
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_is_closed_anyway() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let settings = Settings { close_timeout: SHORT, ..Settings::default() };
    let harness = Harness::start(table(limited(&backend)), settings);
    let (mut client, mut peer) = open(&harness, &backend).await;
    for (peer, masked) in [(&mut client, false), (&mut peer, true)] {
        let close = peer.frame().await;
        assert_eq!((close.code(), close.masked), (Some(1001), masked));
    }
    assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
    ended(&harness, &log, &backend, "proxy", "max_duration", Some(1001)).await;
}

#[tokio::test]
async fn the_frame_on_the_wire_becomes_whole_and_nothing_follows_the_close() {
    let frame = vec![1; 1000];
    // What follows the frame in the same piece as its end: nothing, another frame, or the sender's own Close.
    for (behind, by_client) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
        let log = Log::capture();
        let backend = RawBackend::bind().await;
        let harness = Harness::start(table(limited(&backend)), patient());
        let (mut client, mut peer) = open(&harness, &backend).await;
        let (talker, listener) = if by_client { (&mut client, &mut peer) } else { (&mut peer, &mut client) };
        let wire = wire_of(by_client);
        let whole = wire(BINARY, &frame);
        let (now, later) = whole.split_at(300);
        talker.send(now).await;
        assert!(listener.bytes(300).await == now);
        // Once the sender has got its Close, the receiver would have too, if it were not in the middle of a frame.
        assert_eq!(talker.frame().await.code(), Some(1001));
        let behind = [vec![], wire(TEXT, b"more"), wire(CLOSE, &reason(1001, "me too"))][behind].clone();
        talker.send([later, &behind].concat()).await;
        assert!(listener.bytes(700 + whole.len() - 1000).await == later);
        let close = listener.frame().await;
        assert_eq!((close.code(), close.masked), (Some(1001), by_client));
        talker.send(wire(CLOSE, &reason(1001, ""))).await;
        listener.send(wire_of(!by_client)(CLOSE, &close.payload)).await;
        assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
        ended(&harness, &log, &backend, "proxy", "max_duration", Some(1001)).await;
        let direction = if by_client { "to_backend" } else { "to_client" };
        let line = format!(r#"bytes_total{{direction="{direction}"}} {}"#, whole.len());
        assert!(harness.counted(&line), "the whole frame is counted: {}", harness.metrics.encode());
    }
}

#[tokio::test]
async fn an_incomplete_header_is_not_a_frame_on_the_wire() {
    let backend = RawBackend::bind().await;
    let harness = Harness::start(table(limited(&backend)), patient());
    let (mut client, mut peer) = open(&harness, &backend).await;
    peer.send(&from_server(TEXT, "hello")[..1]).await;
    client.send(&from_client(PONG, "hello")[..8]).await;
    assert_eq!(client.frame().await.code(), Some(1001));
    assert_eq!(peer.frame().await.code(), Some(1001));
    peer.send([&from_server(TEXT, "hello")[1..], &from_server(CLOSE, reason(1001, ""))].concat()).await;
    client.send([&from_client(PONG, "hello")[8..], &from_client(CLOSE, reason(1001, ""))].concat()).await;
    assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
}

#[tokio::test]
async fn a_peer_that_stalls_within_a_frame_is_cut() {
    for by_client in [false, true] {
        let log = Log::capture();
        let backend = RawBackend::bind().await;
        let settings = Settings { close_timeout: Duration::from_millis(100), ..Settings::default() };
        let harness = Harness::start(table(limited(&backend)), settings);
        let (mut client, mut peer) = open(&harness, &backend).await;
        let (talker, listener) = if by_client { (&mut client, &mut peer) } else { (&mut peer, &mut client) };
        let half = wire_of(by_client)(BINARY, &[1; 1000])[..300].to_vec();
        talker.send(&half).await;
        assert_eq!(talker.frame().await.code(), Some(1001));
        assert!(listener.bytes(300).await == half);
        assert_eq!(listener.rest().await, "", "no Close within a frame");
        assert_eq!(talker.rest().await, "");
        ended(&harness, &log, &backend, "proxy", "stalled", Some(1001)).await;
    }
}

#[tokio::test]
async fn a_side_that_got_the_close_of_the_other_gets_no_second_one() {
    for by_client in [false, true] {
        let log = Log::capture();
        let backend = RawBackend::bind().await;
        let harness = Harness::start(table(limited(&backend)), patient());
        let (mut client, mut peer) = open(&harness, &backend).await;
        let (talker, listener) = if by_client { (&mut client, &mut peer) } else { (&mut peer, &mut client) };
        talker.send(wire_of(by_client)(CLOSE, &reason(4000, "mine"))).await;
        listener.expect_frame(CLOSE, reason(4000, "mine")).await;
        assert_eq!(talker.frame().await.code(), Some(1001), "an answer, although not from the other peer");
        assert_eq!(harness.tunnels.count(), 1, "its answer is awaited");
        listener.send(wire_of(!by_client)(CLOSE, &reason(4000, "late"))).await;
        assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
        ended(&harness, &log, &backend, "proxy", "max_duration", Some(4000)).await;
    }
}

#[tokio::test]
async fn a_close_between_the_peers_is_relayed_and_the_servers_end_is_enough() {
    let closes =
        [(true, reason(1000, "bye"), Some(1000)), (false, reason(3001, "go"), Some(3001)), (true, vec![], None)];
    for (by_client, payload, code) in closes {
        let log = Log::capture();
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
        let (mut client, mut peer) = open(&harness, &backend).await;
        let (first, second) = if by_client { (&mut client, &mut peer) } else { (&mut peer, &mut client) };
        first.send(wire_of(by_client)(CLOSE, &payload)).await;
        assert_eq!(
            second.bytes(payload.len() + if by_client { 6 } else { 2 }).await,
            wire_of(by_client)(CLOSE, &payload)
        );
        second.send(wire_of(!by_client)(CLOSE, &reason(1002, "other"))).await;
        first.expect_frame(CLOSE, reason(1002, "other")).await;
        assert_eq!(harness.tunnels.count(), 1);
        peer.finish().await;
        ended(&harness, &log, &backend, if by_client { "client" } else { "backend" }, "closed", code).await;
        // The client has not closed, and the backend has not seen its end.
        assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
        assert!(harness.counted(r#"frames_total{direction="to_backend"} 1"#));
        assert!(harness.counted(r#"frames_total{direction="to_client"} 1"#));
    }
}

#[tokio::test]
async fn a_reset_after_both_closes_is_not_a_break() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
    let (mut client, mut peer) = open(&harness, &backend).await;
    client.send(from_client(CLOSE, reason(1000, ""))).await;
    peer.expect_frame(CLOSE, reason(1000, "")).await;
    peer.send(from_server(CLOSE, reason(1000, ""))).await;
    client.expect_frame(CLOSE, reason(1000, "")).await;
    peer.reset();
    assert_eq!(client.rest().await, "");
    ended(&harness, &log, &backend, "client", "closed", Some(1000)).await;
}

#[tokio::test]
async fn a_break_after_one_close_is_reported_with_its_code() {
    for by_client in [false, true] {
        let log = Log::capture();
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
        let (mut client, mut peer) = open(&harness, &backend).await;
        let (talker, listener) = if by_client { (&mut client, &mut peer) } else { (&mut peer, &mut client) };
        talker.send(wire_of(by_client)(CLOSE, &reason(1001, ""))).await;
        listener.expect_frame(CLOSE, reason(1001, "")).await;
        peer.reset();
        assert_eq!(client.rest().await, "");
        ended(&harness, &log, &backend, "backend", "reset", Some(1001)).await;
    }
}

#[tokio::test]
async fn ends_without_a_close_have_no_code() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
    let (mut client, mut peer) = open(&harness, &backend).await;
    client.send(from_client(TEXT, "half a frame")[..9].to_vec()).await;
    peer.bytes(9).await;
    drop(peer);
    client.rest().await;
    drop(client);
    ended(&harness, &log, &backend, "backend", "closed", None).await;
}

#[tokio::test]
async fn after_broken_framing_bytes_pass_unchanged_and_nothing_is_added() {
    let by_client: [(&str, Vec<u8>); 6] = [
        ("unmasked", from_server(TEXT, "hello")),
        ("reserved opcode", from_client(0x83, "hello")),
        ("reserved control opcode", from_client(0x8b, "hello")),
        ("RSV1 without an extension", from_client(0xc1, "hello")),
        ("long control frame", from_client(PING, [1; 126])),
        ("control frame in two", from_client(0x09, "hello")),
    ];
    let by_server: [(&str, Vec<u8>); 4] = [
        ("masked", from_client(TEXT, "hello")),
        ("reserved opcode", from_server(0x87, "hello")),
        ("RSV3", from_server(0x91, "hello")),
        ("a length beyond 2^63", [&[0x82, 127][..], &[0xff; 8], b"hello"].concat()),
    ];
    let cases = by_client.map(|(name, bytes)| (true, name, bytes)).into_iter();
    let rounds =
        cases.chain(by_server.map(|(name, bytes)| (false, name, bytes))).map(|(by_client, name, bytes)| async move {
            let backend = RawBackend::bind().await;
            let pings = Some(Pings { interval: SHORT, timeout: Some(SHORT) });
            let mut rule = limited(&backend);
            rule.policy.keepalive = Keepalive { client: pings, backend: pings };
            rule.policy.timeouts.max_duration = Some(Duration::from_millis(500));
            let harness = Harness::start(table(rule), patient());
            let (mut client, mut peer) = open(&harness, &backend).await;
            let (breaker, other) = if by_client { (&mut client, &mut peer) } else { (&mut peer, &mut client) };
            let good = wire_of(by_client)(TEXT, b"good");
            let sent = [&good[..], &bytes, b"\x88\x00 and anything else \x81\x05"].concat();
            breaker.send(&sent).await;
            assert_eq!(other.bytes(sent.len()).await, sent, "{name}");
            // Frames from the other side are still forwarded, and so are invalid ones.
            let answer = [&wire_of(!by_client)(TEXT, b"answer")[..], &wire_of(!by_client)(BINARY, &[1; 300])].concat();
            other.send(&answer).await;
            assert_eq!(breaker.bytes(answer.len()).await, answer, "{name}");
            // Until the limit, and at the limit, nothing but the end of the stream.
            assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""), "{name}");
            harness.tunnels(0).await;
            assert!(harness.counted(&closed("proxy", "max_duration", 1)), "{name}: {}", harness.metrics.encode());
        });
    futures::future::join_all(rounds).await;
}

#[tokio::test]
async fn a_tunnel_with_broken_framing_ends_without_a_code() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let harness = Harness::start(table(limited(&backend)), patient());
    let (mut client, mut peer) = open(&harness, &backend).await;
    client.send("no frame").await;
    peer.expect("no frame").await;
    assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
    ended(&harness, &log, &backend, "proxy", "max_duration", None).await;
}

#[tokio::test]
async fn a_peer_that_breaks_framing_after_our_close_is_not_waited_for() {
    let backend = RawBackend::bind().await;
    let harness = Harness::start(table(limited(&backend)), patient());
    let (mut client, mut peer) = open(&harness, &backend).await;
    assert_eq!(client.frame().await.code(), Some(1001));
    client.send("no frame").await;
    peer.answer_close_as_backend(1001).await;
    assert_eq!((client.rest().await.as_str(), peer.rest().await.as_str()), ("", ""));
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("proxy", "max_duration", 1)));
}

#[tokio::test]
async fn a_slow_reader_holds_only_its_own_peer_back() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
    let (mut slow, mut fast) = open(&harness, &backend).await;
    let (mut client, mut peer) = open(&harness, &backend).await;
    let chunk = from_server(BINARY, vec![7; (1 << 20) - 10]);
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), fast.stream.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 256 << 20, "the sender is not held back");
    }
    // The other direction of the same tunnel, and another tunnel, continue.
    slow.send(from_client(TEXT, "other way")).await;
    fast.expect_frame(TEXT, "other way").await;
    client.send(from_client(TEXT, "next to it")).await;
    peer.expect_frame(TEXT, "next to it").await;
    peer.send(from_server(TEXT, "and back")).await;
    client.expect_frame(TEXT, "and back").await;
    assert_eq!(slow.bytes(sent).await.len(), sent);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_when_we_end() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let settings = Settings { close_timeout: SHORT, drain_window: Duration::ZERO, ..Settings::default() };
    let mut harness = Harness::start(table(rule(&[backend.own_endpoint()])), settings);
    let (client, mut peer) = open(&harness, &backend).await;
    // One frame that is longer than all sockets can hold together.
    peer.send([&[0x82, 127], (1_u64 << 40).to_be_bytes().as_slice()].concat()).await;
    let chunk = vec![7; 1 << 20];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), peer.stream.write(&chunk)).await {
        written.unwrap();
    }
    harness.stop();
    assert_eq!(peer.frame().await.code(), Some(1012));
    ended(&harness, &log, &backend, "proxy", "stalled", Some(1012)).await;
    drop(client);
    harness.stopped().await;
}

#[tokio::test]
async fn over_tls_the_frame_becomes_whole_then_close_then_close_notify() {
    let log = Log::capture();
    let (certificate, der) = certificate(&[HOST]);
    let backend = RawBackend::bind().await;
    let harness = Harness::start(secured(limited(&backend), &certificate), patient());
    let (mut client, mut peer): (_, Peer<TcpStream>) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    let whole = from_server(BINARY, vec![1; 1000]);
    peer.send(&whole[..300]).await;
    assert!(client.bytes(300).await == whole[..300]);
    assert_eq!(peer.frame().await.code(), Some(1001));
    peer.send([&whole[300..], &from_server(TEXT, "more"), &from_server(CLOSE, reason(1001, ""))].concat()).await;
    assert!(client.bytes(whole.len() - 300).await == whole[300..]);
    client.answer_close_as_client(1001).await;
    // Without close_notify, rustls reports the end as an error.
    assert_eq!(soon(tokio::io::AsyncReadExt::read(&mut client.stream, &mut [0; 16])).await.unwrap(), 0);
    assert_eq!(peer.rest().await, "");
    ended(&harness, &log, &backend, "proxy", "max_duration", Some(1001)).await;
}
