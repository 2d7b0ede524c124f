//! Requests that are not an upgrade.

use std::{slice::from_ref, sync::Arc, time::Duration};

use switchyard::{proxy::Settings, table::Endpoint};
use tokio::io::AsyncWriteExt;

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/1", "")).await;
    let (mut peer, _) = backend.answer(OK).await;
    for path in ["/2", "/3"] {
        assert_eq!(client.head().await.status(), 200);
        client.expect("ok").await;
        client.send(get(path, "")).await;
        assert_eq!(peer.head().await.first(), format!("GET {path} HTTP/1.1"));
        peer.send(OK).await;
    }
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn unused_connections_are_closed_before_a_backend_would() {
    let backend = RawBackend::bind().await;
    let settings = Settings { pool_idle_timeout: Duration::from_millis(40), ..Settings::default() };
    let harness = Harness::start(table(rule(&[backend.endpoint("a")])), settings);
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let (mut peer, _) = backend.answer(OK).await;
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_closes_costs_no_request() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    for _ in 0..3 {
        client.send(get("/", "")).await;
        let (mut peer, _) = backend.answer(OK).await;
        assert_eq!(client.head().await.status(), 200);
        client.expect("ok").await;
        // The next request may find the connection still kept: it is then lost without a response.
        peer.finish().await;
    }
}

/// A client, and the backend's end of a kept connection that has read the client's second request and then broken.
async fn broken_after(request: &str, backend: &RawBackend, harness: &Harness) -> Peer<tokio::net::TcpStream> {
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let (mut kept, _) = backend.answer(OK).await;
    client.head().await;
    client.expect("ok").await;
    client.send(request).await;
    kept.head().await;
    kept.reset();
    client
}

#[tokio::test]
async fn what_was_lost_on_a_kept_connection_is_sent_again_only_where_that_is_safe() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let post = get("/", "Content-Length: 0\r\n").replace("GET", "POST");
    let mut client = broken_after(&post, &backend, &harness).await;
    assert_eq!(client.head().await.status(), 502);
    let mut client = broken_after(&get("/again", ""), &backend, &harness).await;
    let (_peer, asked) = backend.answer(OK).await;
    assert_eq!(asked.first(), "GET /again HTTP/1.1");
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn what_was_lost_on_a_kept_connection_is_not_sent_to_another_endpoint() {
    let (backend, other) = (RawBackend::bind().await, RawBackend::bind().await);
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let (mut peer, _) = backend.answer(OK).await;
    assert_eq!(client.head().await.status(), 200);
    client.bytes(2).await;
    let both = [backend.endpoint("a"), other.endpoint("b")];
    let _busy = both[1].state.enter();
    harness.table.publish(Arc::new(table(rule(&both))));
    client.send(get("/again", "")).await;
    peer.head().await;
    drop((peer, backend));
    assert_eq!(client.head().await.status(), 502);
}

#[tokio::test]
async fn a_body_that_is_malformed_or_too_short_is_the_clients_fault() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    for (fields, body) in [
        ("Transfer-Encoding: chunked\r\n", "zz\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabcdef\r\n"),
        ("Content-Length: 5\r\n", "ab"),
    ] {
        let mut client = harness.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")).await;
        let mut peer = backend.accept().await;
        peer.head().await;
        client.send(body).await;
        client.finish().await;
        assert_eq!(client.head().await.status(), 400, "{body}");
    }
    assert!(harness.counted(r#"requests_total{namespace="shop",route="chat",code="400"} 3"#));
}

#[tokio::test]
async fn a_stream_arrives_chunk_by_chunk() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/events", "Accept: text/event-stream\r\n")).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut peer, _) = backend.answer(answer).await;
    let head = client.head().await;
    assert_eq!((head.field("transfer-encoding"), head.field("content-length")), (Some("chunked"), None));
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        let chunk = format!("{:X}\r\n{event}\r\n", event.len());
        peer.send(&chunk).await;
        client.expect(&chunk).await;
    }
    peer.send("0\r\n\r\n").await;
    client.expect("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_body_is_passed_on_while_it_is_still_being_sent() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 8\r\n\r\nhalf")).await;
    let mut peer = backend.accept().await;
    assert_eq!(peer.head().await.field("content-length"), Some("8"));
    peer.expect("half").await;
    client.send("rest").await;
    peer.expect("rest").await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn the_client_is_told_to_continue_when_the_backend_says_so() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")).await;
    let mut peer = backend.accept().await;
    assert_eq!(peer.head().await.field("expect"), Some("100-continue"));
    peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 100);
    client.send("body").await;
    peer.expect("body").await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_backend_that_wants_no_body_spares_the_client_from_sending_it() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")).await;
    let _peer = backend.answer("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.field("connection")), (417, Some("close")));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn an_answer_instead_of_a_100_arrives_whole_although_its_body_comes_later() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")).await;
    let (mut peer, _) = backend.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 401);
    peer.send("who ").await;
    client.expect("who ").await;
    peer.send("are?").await;
    assert_eq!(client.rest().await, "are?");
    assert_eq!(peer.rest().await, "", "the backend's connection is not used again");
}

#[tokio::test]
async fn answers_to_head_have_their_length_and_no_body() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/", "").replace("GET", "HEAD")).await;
    let (mut peer, _) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(client.head().await.field("content-length"), Some("2"));
    client.send(get("/", "")).await;
    peer.head().await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    let fields = "Transfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n";
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")).await;
    let mut peer = backend.accept().await;
    let asked = peer.head().await;
    assert_eq!((asked.field("te"), asked.field("trailer")), (Some("trailers"), Some("X-Sum")));
    peer.expect("2\r\nhi\r\n0\r\n").await;
    assert_eq!(peer.head().await.0.to_lowercase(), "x-sum: 7");
    let answer =
        "HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-End: 1\r\n\r\n";
    peer.send(answer).await;
    assert_eq!(client.head().await.field("trailer"), Some("X-End"));
    client.expect("2\r\nok\r\n0\r\n").await;
    assert_eq!(client.head().await.0.to_lowercase(), "x-end: 1");
}

#[tokio::test]
async fn a_length_beside_chunked_in_an_answer_is_deleted() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let _peer = backend.answer(answer).await;
    let head = client.head().await;
    for (name, value) in [("content-length", None), ("transfer-encoding", Some("chunked")), ("x-hop", None)] {
        assert_eq!(head.field(name), value, "{name}");
    }
    client.expect("2\r\nok\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn the_answer_of_an_old_backend_becomes_one_of_http_1_1() {
    for (fields, framing, body) in [
        ("Content-Length: 2\r\n", ("content-length", "2"), "ok"),
        ("", ("transfer-encoding", "chunked"), "2\r\nok\r\n0\r\n\r\n"),
    ] {
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
        let mut client = harness.client().await;
        client.send(get("/", "")).await;
        let (mut peer, _) = backend.answer(&format!("HTTP/1.0 200 OK\r\n{fields}\r\nok")).await;
        peer.finish().await;
        let head = client.head().await;
        assert_eq!((head.first(), head.field(framing.0)), ("HTTP/1.1 200 OK", Some(framing.1)));
        client.expect(body).await;
        // The connection with the client is kept.
        client.send(get("/", "")).await;
        let _peer = backend.answer(OK).await;
        assert_eq!(client.head().await.status(), 200);
    }
}

#[tokio::test]
async fn an_answer_with_a_transfer_coding_that_would_be_lost_is_502() {
    for coding in ["gzip, chunked", "gzip", "chunked\r\nTransfer-Encoding: chunked"] {
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
        let mut client = harness.client().await;
        client.send(get("/", "")).await;
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let _peer = backend.answer(&answer).await;
        assert_eq!(client.head().await.status(), 502, "{coding}");
    }
}

#[tokio::test]
async fn an_unasked_101_and_nonsense_are_502() {
    for answer in [switching(""), "nonsense\r\n\r\n".to_owned(), String::new()] {
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
        let mut client = harness.client().await;
        client.send(get("/", "").replace("GET", "POST")).await;
        let (mut peer, _) = backend.answer(&answer).await;
        peer.finish().await;
        assert_eq!(client.head().await.status(), 502, "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_504_only_where_a_limit_is_set() {
    let backend = RawBackend::bind().await;
    let mut limited = rule(&[backend.endpoint("a")]);
    limited.policy.timeouts.response = Some(Duration::from_millis(50));
    let harness = Harness::with_rule(limited);
    let (mut client, head) = harness.ask(&get("/", "")).await;
    assert_eq!(head.status(), 504);
    client.body(&head).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_after_a_request_gets_the_answer() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    client.finish().await;
    let (_peer, _) = backend.answer(OK).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.rest().await, "ok");
}

#[tokio::test]
async fn a_client_that_leaves_during_a_request_frees_all_that_it_held() {
    let settings = Settings { half_closed_timeout: Duration::from_millis(50), ..Settings::default() };
    for (leaves_by_reset, ahead) in [(true, ""), (false, ""), (true, "G"), (false, "G")] {
        let backend = RawBackend::bind().await;
        let chosen = backend.endpoint("a");
        let harness = Harness::start(table(rule(from_ref(&chosen))), settings.clone());
        let mut client = harness.client().await;
        client.send(get("/poll", "")).await;
        let mut peer = backend.accept().await;
        peer.head().await;
        client.send(ahead).await;
        if leaves_by_reset {
            client.reset();
        } else {
            drop(client);
        }
        assert_eq!(peer.rest().await, "", "the backend's connection is closed");
        while chosen.state.in_use() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// A harness whose clients may stall only briefly, its backend, and the endpoint that counts its use.
async fn hasty() -> (Harness, RawBackend, Arc<Endpoint>) {
    let backend = RawBackend::bind().await;
    let chosen = backend.endpoint("a");
    let settings = Settings { stall_timeout: Duration::from_millis(60), ..Settings::default() };
    (Harness::start(table(rule(from_ref(&chosen))), settings), backend, chosen)
}

async fn freed(endpoint: &Endpoint) {
    while endpoint.state.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_send_the_body_that_it_promised_is_told_and_frees_the_backend() {
    let (harness, backend, chosen) = hasty().await;
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 8\r\n\r\nhalf")).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    assert_eq!(peer.rest().await, "half");
    let head = client.head().await;
    assert_eq!((head.status(), head.field("connection")), (408, Some("close")));
    client.body(&head).await;
    assert_eq!(client.rest().await, "");
    soon(freed(&chosen)).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_frees_the_backend() {
    let (harness, backend, chosen) = hasty().await;
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let (mut peer, _) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let chunk = vec![7; 1 << 20];
    while soon(peer.stream.write(&chunk)).await.is_ok() {}
    soon(freed(&chosen)).await;
}

#[tokio::test]
async fn waiting_for_the_backend_is_no_stall_of_the_client() {
    let (harness, backend, _) = hasty().await;
    let mut streaming = harness.client().await;
    streaming.send(get("/events", "")).await;
    let (_events, _) = backend.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    streaming.head().await;
    let mut polling = harness.client().await;
    polling.send(format!("POST /poll HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nhi")).await;
    let mut poll = backend.accept().await;
    poll.head().await;
    poll.expect("hi").await;
    let (tunnelled, _silent) = crate::upgrade::open(&harness, &backend).await;
    let silence = async |client: &Peer<tokio::net::TcpStream>| {
        let ends = client.stream.readable();
        assert!(tokio::time::timeout(Duration::from_millis(300), ends).await.is_err(), "nothing may arrive");
    };
    tokio::join!(silence(&streaming), silence(&polling), silence(&tunnelled));
    poll.send(OK).await;
    assert_eq!(polling.head().await.status(), 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let served = RawBackend::bind().await.serve(|head| {
        let path = head.first().split(' ').nth(1).unwrap();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len())
    });
    let harness = Harness::with_rule(rule(&[endpoint("a", served.address)]));
    let mut client = harness.client().await;
    client.send([get("/1", ""), get("/2", ""), get("/3", "")].concat()).await;
    for path in ["/1", "/2", "/3"] {
        client.head().await;
        client.expect(path).await;
    }
}
