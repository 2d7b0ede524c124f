//! The proxy's own pings: which peers get them, when, and that their answers are not forwarded.

use std::time::Duration;

use futures::future::join_all;
use switchyard::{
    metrics::Direction,
    proxy::Settings,
    table::{Keepalive, Pings, Rule},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    support::*,
    tls::secured,
    upgrade::{open, open_tls},
};

const SHORT: Duration = Duration::from_millis(40);

/// Pings that need no answer.
fn every(interval: Duration) -> Pings {
    Pings { interval, timeout: None }
}

fn pinging(backend: &RawBackend, to_client: impl Into<Option<Pings>>, to_backend: impl Into<Option<Pings>>) -> Rule {
    let keepalive = Keepalive { client: to_client.into(), backend: to_backend.into() };
    let mut rule = rule(&[backend.own_endpoint()]);
    rule.policy.keepalive = keepalive;
    rule
}

/// Reads one of the proxy's pings, and returns its payload.
async fn pinged<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>, masked: bool) -> Vec<u8> {
    let ping = peer.frame().await;
    assert_eq!((ping.first, ping.masked, ping.payload.len()), (PING, masked, 8), "{ping:?}");
    ping.payload
}

/// Lets time pass, measured by the pings to a backend that does not answer.
async fn after_pings(backend: &mut Peer<TcpStream>, count: usize) {
    for _ in 0..count {
        pinged(backend, true).await;
    }
}

/// The next frame that is not one of the proxy's pings.
async fn said(peer: &mut Peer<TcpStream>) -> Frame {
    loop {
        let frame = peer.frame().await;
        if frame.first != PING || frame.payload.len() != 8 {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_its_answers_reach_nobody_and_count_nowhere() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, every(SHORT), None));
    let (mut client, mut peer) = open(&harness, &backend).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let payload = pinged(&mut client, false).await;
        assert!(!seen.contains(&payload), "each is different");
        client.send(from_client(PONG, &payload)).await;
        seen.push(payload);
    }
    client.send(from_client(TEXT, "hello")).await;
    assert_eq!(peer.bytes(11).await, from_client(TEXT, "hello"), "the first frame that the backend gets");
    client.finish().await;
    assert_eq!(peer.rest().await, "");
    peer.finish().await;
    harness.tunnels(0).await;
    for line in [
        r#"frames_total{direction="to_backend"} 1"#,
        r#"frames_total{direction="to_client"} 0"#,
        r#"bytes_total{direction="to_backend"} 11"#,
        r#"bytes_total{direction="to_client"} 0"#,
    ] {
        assert!(harness.counted(line), "{line}");
    }
}

#[tokio::test]
async fn a_silent_backend_is_pinged_with_masked_frames() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, None, every(SHORT)));
    let (mut client, mut peer) = open(&harness, &backend).await;
    let (mut keys, mut payloads) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let wire = peer.bytes(14).await;
        assert_eq!(wire[..2], [PING, 0x88]);
        let (key, masked) = wire[2..].split_at(4);
        let payload: Vec<u8> = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        peer.send(from_server(PONG, &payload)).await;
        assert!(!keys.contains(&key.to_vec()) && !payloads.contains(&payload), "each is different");
        keys.push(key.to_vec());
        payloads.push(payload);
    }
    peer.send(from_server(TEXT, "hello")).await;
    assert_eq!(client.frame().await.payload, b"hello", "the first frame that the client gets");
}

#[tokio::test]
async fn the_rule_chooses_who_is_pinged() {
    let choices = [(false, false), (true, false), (false, true), (true, true)];
    let rounds = choices.map(|(to_client, to_backend)| async move {
        let backend = RawBackend::bind().await;
        let pings = |wanted: bool| wanted.then(|| every(SHORT));
        let mut chosen = pinging(&backend, pings(to_client), pings(to_backend));
        chosen.policy.timeouts.max_duration = Some(Duration::from_millis(600));
        let harness = Harness::with_rule(chosen);
        let (mut client, mut peer) = open(&harness, &backend).await;
        for (peer, wanted, masked) in [(&mut client, to_client, false), (&mut peer, to_backend, true)] {
            let mut count = 0;
            loop {
                let frame = peer.frame().await;
                if frame.first == CLOSE {
                    break;
                }
                assert_eq!((frame.first, frame.masked), (PING, masked));
                count += 1;
            }
            assert_eq!(count > 0, wanted, "{count} pings, client {to_client}, backend {to_backend}");
        }
    });
    join_all(rounds).await;
}

#[tokio::test]
async fn an_answer_that_comes_in_pieces_is_swallowed() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, every(SHORT), None));
    let (mut client, mut peer) = open(&harness, &backend).await;
    for _ in 0..3 {
        let payload = pinged(&mut client, false).await;
        for byte in from_client(PONG, payload) {
            client.send([byte]).await;
            tokio::task::yield_now().await;
        }
    }
    client.send(from_client(TEXT, "x")).await;
    assert_eq!(peer.bytes(7).await, from_client(TEXT, "x"));
}

#[tokio::test]
async fn an_answer_between_other_frames_is_cut_out_and_the_rest_stays_in_order() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, every(SHORT), None));
    let (mut client, mut peer) = open(&harness, &backend).await;
    let texts = [from_client(TEXT, "one"), from_client(BINARY, vec![7; 300]), from_client(TEXT, "three")];
    for place in 0..4 {
        let payload = pinged(&mut client, false).await;
        let mut parts = texts.to_vec();
        parts.insert(place, from_client(PONG, &payload));
        let sent = parts.concat();
        // The last frame is cut in two.
        let (now, later) = sent.split_at(sent.len() - 2);
        client.send(now).await;
        let all = texts.concat();
        let whole = if place == 3 { all.len() } else { all.len() - 2 };
        assert_eq!(peer.bytes(whole).await, all[..whole]);
        client.send(later).await;
        assert_eq!(peer.bytes(all.len() - whole).await, all[whole..]);
    }
}

/// Frames of all kinds and sizes in pieces of all sizes, each round with the answer to one of the proxy's pings among
/// them.
async fn talk_at_random<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Peer<S>, peer: &mut Peer<TcpStream>) {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let frames = (0..random.usize(1..6)).map(|_| {
            let (first, length) = if random.bool() {
                ([PING, PONG][random.usize(..2)], random.usize(..126))
            } else {
                ([1, 0x80, TEXT, BINARY][random.usize(..4)], [0, 7, 125, 126, 65_535, 65_536][random.usize(..6)])
            };
            from_client(first, vec![random.u8(..); length])
        });
        let mut frames: Vec<_> = frames.collect();
        let expected = frames.concat();
        let answer = from_client(PONG, pinged(client, false).await);
        frames.insert(random.usize(..=frames.len()), answer);
        let wire = frames.concat();
        let talk = async {
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let limit = [1, 3, 300, 70_000][random.usize(..4)];
                let (now, later) = rest.split_at(random.usize(1..=rest.len().min(limit)));
                // Pausing after each of many tiny pieces would take long.
                let (now, later) = if rest.len() > 5000 && limit < 300 { rest.split_at(4000) } else { (now, later) };
                client.send(now).await;
                tokio::task::yield_now().await;
                rest = later;
            }
        };
        let (received, ()) = tokio::join!(peer.bytes(expected.len()), talk);
        assert!(received == expected, "seed {seed}, round {round}");
    }
}

#[tokio::test]
async fn whatever_is_said_arrives_unchanged_around_the_answers() {
    let backend = RawBackend::bind().await;
    let (certificate, der) = certificate(&[HOST]);
    let rule = pinging(&backend, every(Duration::from_millis(2)), None);
    let harness = Harness::with_table(table(rule.clone()));
    let (mut client, mut peer) = open(&harness, &backend).await;
    talk_at_random(&mut client, &mut peer).await;
    harness.table.publish(secured(rule, &certificate).into());
    let (mut client, mut peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    talk_at_random(&mut client, &mut peer).await;
}

#[tokio::test]
async fn pongs_that_answer_no_ping_of_the_proxy_pass() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, every(SHORT), every(Duration::from_secs(60))));
    let (mut client, mut peer) = open(&harness, &backend).await;
    client.send(from_client(PONG, "8 bytes!")).await;
    peer.expect_frame(PONG, "8 bytes!").await;
    let payload = pinged(&mut client, false).await;
    client.send([from_client(PONG, ""), from_client(PONG, &payload[..7]), from_client(PONG, &payload)].concat()).await;
    peer.expect_frame(PONG, "").await;
    peer.expect_frame(PONG, &payload[..7]).await;
    // Already answered, so this pong does not answer one of the proxy's pings.
    client.send(from_client(PONG, &payload)).await;
    peer.expect_frame(PONG, &payload).await;
    // Nor does a pong from the other side, whatever its payload.
    let payload = pinged(&mut client, false).await;
    peer.send(from_server(PONG, &payload)).await;
    let pong = said(&mut client).await;
    assert_eq!((pong.first, pong.payload), (PONG, payload));
}

#[tokio::test]
async fn no_ping_comes_within_a_frame_and_one_comes_behind_it() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, every(SHORT), every(SHORT)));
    let (mut client, mut peer) = open(&harness, &backend).await;
    let frame = from_server(BINARY, vec![1; 1000]);
    for cut in [2, 3, 4, 500, 1003] {
        let (now, later) = frame.split_at(cut);
        peer.send(now).await;
        // A ping from before may still be waiting; an incomplete header is not forwarded.
        let come = if cut < 4 { 0 } else { cut };
        let header = |client: &[u8]| client == &frame[..2];
        let mut start = Vec::new();
        while come > 0 && start.is_empty() {
            let two = client.bytes(2).await;
            if header(&two) {
                start = two;
            } else {
                client.bytes(8).await;
            }
        }
        let rest = come.saturating_sub(2);
        assert!(come == 0 || client.bytes(rest).await == frame[2..cut]);
        after_pings(&mut peer, 3).await;
        peer.send(later).await;
        if come == 0 {
            assert_eq!(said(&mut client).await.payload, [1; 1000]);
        } else {
            assert!(client.bytes(later.len()).await == later, "nothing comes within a frame");
        }
        pinged(&mut client, false).await;
    }
    // In the other direction.
    let frame = from_client(BINARY, vec![1; 1000]);
    let (now, later) = frame.split_at(500);
    client.send(now).await;
    while peer.bytes(2).await != now[..2] {
        peer.bytes(12).await;
    }
    assert!(peer.bytes(498).await == now[2..]);
    for _ in 0..3 {
        pinged(&mut client, false).await;
    }
    client.send(later).await;
    assert!(peer.bytes(later.len()).await == later);
    pinged(&mut peer, true).await;
}

#[tokio::test]
async fn no_ping_comes_while_an_answer_to_the_other_side_is_owed() {
    let backend = RawBackend::bind().await;
    let pings = Some(Pings { interval: SHORT, timeout: Some(Duration::from_secs(10)) });
    let harness = Harness::with_rule(pinging(&backend, pings, every(SHORT)));
    let (mut client, mut peer) = open(&harness, &backend).await;
    peer.send([from_server(PING, "one"), from_server(PING, "two")].concat()).await;
    assert_eq!(said(&mut client).await.payload, b"one");
    client.expect_frame(PING, "two").await;
    after_pings(&mut peer, 3).await;
    peer.send(from_server(TEXT, "marker")).await;
    client.expect_frame(TEXT, "marker").await;
    // A peer may answer only the latest ping; an answer to another one is not the one that is owed.
    client.send(from_client(PONG, "one")).await;
    assert_eq!(said(&mut peer).await.payload, b"one");
    after_pings(&mut peer, 3).await;
    peer.send(from_server(TEXT, "marker")).await;
    client.expect_frame(TEXT, "marker").await;
    client.send(from_client(PONG, "two")).await;
    assert_eq!(said(&mut peer).await.payload, b"two");
    pinged(&mut client, false).await;
}

#[tokio::test]
async fn a_peer_that_sends_is_not_pinged() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(pinging(&backend, every(Duration::from_secs(1)), every(SHORT)));
    let (mut client, mut peer) = open(&harness, &backend).await;
    for _ in 0..35 {
        pinged(&mut peer, true).await;
        client.send(from_client(TEXT, "talk")).await;
        assert_eq!(said(&mut peer).await.payload, b"talk");
    }
    peer.send(from_server(TEXT, "marker")).await;
    client.expect_frame(TEXT, "marker").await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_given_up_and_the_other_is_told() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let pings = Some(Pings { interval: SHORT, timeout: Some(SHORT) });
    let harness = Harness::with_rule(pinging(&backend, pings, None));
    let (mut client, mut peer) = open(&harness, &backend).await;
    pinged(&mut client, false).await;
    peer.answer_close_as_backend(1001).await;
    assert_eq!(peer.rest().await, "");
    // The client may still be alive.
    client.answer_close_as_client(1001).await;
    assert_eq!(client.rest().await, "");
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("client", "ping_timeout", 1)));
    harness.table.publish(table(pinging(&backend, None, pings)).into());
    let (mut client, mut peer) = open(&harness, &backend).await;
    pinged(&mut peer, true).await;
    client.answer_close_as_client(1011).await;
    assert_eq!(client.rest().await, "");
    peer.answer_close_as_backend(1011).await;
    assert_eq!(peer.rest().await, "");
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("backend", "ping_timeout", 1)));
    let text = log.ends(&backend).concat();
    for fields in
        [r#"closer="client" cause="ping_timeout" code=1001"#, r#"closer="backend" cause="ping_timeout" code=1011"#]
    {
        assert!(text.contains(fields), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_never_answers_pings_gets_the_reason_over_tls_too() {
    let (certificate, der) = certificate(&[HOST]);
    let backend = RawBackend::bind().await;
    let pings = Some(Pings { interval: SHORT, timeout: Some(SHORT) });
    let harness = Harness::with_table(secured(pinging(&backend, pings, None), &certificate));
    let (mut client, mut peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    pinged(&mut client, false).await;
    client.answer_close_as_client(1001).await;
    peer.answer_close_as_backend(1001).await;
    harness.tunnels(0).await;
}

#[tokio::test]
async fn a_client_whose_socket_is_full_does_not_delay_its_end() {
    let backend = RawBackend::bind().await;
    let pings = Some(Pings { interval: SHORT, timeout: Some(Duration::from_secs(1)) });
    // Longer than any test waits.
    let settings = Settings { close_timeout: Duration::from_secs(60), ..Settings::default() };
    let harness = Harness::start(table(pinging(&backend, pings, None)), settings);
    let (client, mut peer) = open(&harness, &backend).await;
    // The ping has been sent. From here on, nothing more is read.
    soon(client.stream.readable()).await.unwrap();
    peer.send([&[BINARY, 127], (1_u64 << 40).to_be_bytes().as_slice()].concat()).await;
    let chunk = vec![7; 1 << 20];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(100), peer.stream.write(&chunk)).await {
        written.unwrap();
    }
    assert_eq!(peer.frame().await.code(), Some(1001));
    drop(peer);
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("client", "ping_timeout", 1)));
}

#[tokio::test]
async fn a_peer_is_given_up_although_the_other_side_pings_it_as_well() {
    let backend = RawBackend::bind().await;
    let pings = Some(Pings { interval: SHORT, timeout: Some(SHORT) });
    let harness = Harness::with_rule(pinging(&backend, pings, None));
    let mut client = harness.client().await;
    client.send(handshake("/ws", "")).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    // Never answered, and in the way of the proxy's own ping, since it is there before the first one is due.
    peer.send([switching("").as_bytes(), &from_server(PING, "there?")].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    client.expect_frame(PING, "there?").await;
    peer.answer_close_as_backend(1001).await;
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("client", "ping_timeout", 1)));
}

#[tokio::test]
async fn a_peer_that_has_closed_its_half_may_be_silent() {
    let backend = RawBackend::bind().await;
    let pings = Some(Pings { interval: SHORT, timeout: Some(Duration::from_millis(200)) });
    let settings = Settings { half_closed_timeout: Duration::from_millis(600), ..Settings::default() };
    let harness = Harness::start(table(pinging(&backend, pings, None)), settings);
    let (mut client, mut peer) = open(&harness, &backend).await;
    pinged(&mut client, false).await;
    client.finish().await;
    assert_eq!(peer.rest().await, "");
    assert_eq!(said(&mut client).await.code(), Some(1001));
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("proxy", "half_closed", 1)), "{}", harness.metrics.encode());
}

#[tokio::test]
async fn pings_of_the_proxy_do_not_keep_an_idle_tunnel_open() {
    let backend = RawBackend::bind().await;
    let mut limited = pinging(&backend, every(SHORT), every(SHORT));
    limited.policy.timeouts.idle = Some(Duration::from_millis(500));
    let harness = Harness::with_rule(limited);
    let (mut client, mut peer) = open(&harness, &backend).await;
    let answering = async |peer: &mut Peer<TcpStream>, masked: bool| {
        loop {
            let frame = peer.frame().await;
            if frame.first == CLOSE {
                assert_eq!(frame.code(), Some(1001));
                let close = if masked { from_client(CLOSE, frame.payload) } else { from_server(CLOSE, frame.payload) };
                return peer.send(close).await;
            }
            peer.send(if masked { from_client(PONG, frame.payload) } else { from_server(PONG, frame.payload) }).await;
        }
    };
    harness.tunnels(1).await;
    let handle = harness.tunnels.list()[0].clone();
    tokio::join!(answering(&mut client, true), answering(&mut peer, false));
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("proxy", "idle", 1)));
    for direction in [Direction::ToBackend, Direction::ToClient] {
        assert_eq!((handle.bytes(direction), handle.frames(direction)), (0, 0));
    }
}

#[tokio::test]
async fn no_ping_follows_a_close() {
    let backend = RawBackend::bind().await;
    let mut limited = pinging(&backend, every(SHORT), every(SHORT));
    limited.policy.timeouts.max_duration = Some(Duration::from_millis(500));
    let settings = Settings { close_timeout: SHORT, ..Settings::default() };
    let harness = Harness::start(table(limited), settings);
    let (mut client, mut peer) = open(&harness, &backend).await;
    peer.send(from_server(CLOSE, reason(1000, "done"))).await;
    assert_eq!(said(&mut client).await.code(), Some(1000));
    // Both see nothing but the end: no ping, and no second Close to the client.
    assert_eq!(client.rest().await, "");
    assert_eq!(said(&mut peer).await.code(), Some(1001));
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn pings_come_among_compressed_messages_and_unknown_extensions() {
    for (extension, first) in [("permessage-deflate; server_no_context_takeover", 0xc1), ("x-new", 0xb3)] {
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(pinging(&backend, every(SHORT), every(SHORT)));
        let mut client = harness.client().await;
        let offer = format!("Sec-WebSocket-Extensions: {extension}\r\n");
        client.send(handshake("/ws", &offer)).await;
        let (mut peer, _) = backend.answer(&switching(&offer)).await;
        assert_eq!(client.head().await.field("sec-websocket-extensions"), Some(extension));
        // A message in two frames; the second does not have the bit.
        client.send([from_client(first & 0x7f, "a"), from_client(0x80, "b")].concat()).await;
        peer.send(from_server(first, "c")).await;
        assert_eq!(said(&mut peer).await.first, first & 0x7f);
        assert_eq!(said(&mut peer).await.first, 0x80);
        assert_eq!(said(&mut client).await.first, first);
        let payload = pinged(&mut client, false).await;
        client.send(from_client(PONG, &payload)).await;
        pinged(&mut peer, true).await;
        client.send(from_client(first, "d")).await;
        assert_eq!(said(&mut peer).await.first, first);
    }
}
