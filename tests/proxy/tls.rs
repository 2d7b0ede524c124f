//! TLS: the certificate that is sent, the hosts that are served, and the effect of a rotation.

use std::{slice::from_ref, sync::Arc};

use futures::{SinkExt, StreamExt};
use rustls::{HandshakeKind, pki_types::CertificateDer};
use switchyard::table::{Certificate, HostPattern, InsecurePolicy, PathPattern, RouteTable, Rule};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use crate::{support::*, upgrade::open_tls};

pub(crate) fn secured(rule: Rule, certificate: &Arc<Certificate>) -> RouteTable {
    let mut table = table(rule);
    let tls = host_tls(Ok(identity(certificate)), InsecurePolicy::Redirect);
    table.set_tls(&HostPattern::parse(HOST), tls);
    table
}

async fn ok_backend() -> Served {
    RawBackend::bind().await.serve(|head| {
        if head.field("upgrade").is_some() {
            return switching("");
        }
        let proto = head.field("x-forwarded-proto").unwrap_or_default();
        format!("HTTP/1.1 200 OK\r\nX-Proto: {proto}\r\nContent-Length: 0\r\n\r\n")
    })
}

fn sent(peer: &Peer<TlsStream>) -> CertificateDer<'static> {
    peer.stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn status(peer: &mut Peer<TlsStream>, host: &str) -> u16 {
    peer.send(get("/", "").replace(HOST, host)).await;
    let head = peer.head().await;
    peer.body(&head).await;
    head.status()
}

#[tokio::test]
async fn requests_over_tls_are_served_and_known_to_be_secure() {
    let (certificate, der) = certificate(&[HOST]);
    let backend = ok_backend().await;
    let harness = Harness::with_table(secured(rule(&[endpoint("a", backend.address)]), &certificate));
    let mut client = connect_tls(harness.https, &tls_client(&[der]), HOST).await.unwrap();
    client.send(get("/", "")).await;
    let head = client.head().await;
    assert_eq!((head.status(), head.field("x-proto")), (200, Some("https")));
    assert!(harness.counted(r#"tls_handshakes_total{result="ok",version="TLSv1.3"} 1"#));
    drop(client);
}

#[tokio::test]
async fn tls_1_2_is_served_and_its_sessions_resume() {
    let (certificate, der) = certificate(&[HOST]);
    let backend = ok_backend().await;
    let harness = Harness::with_table(secured(rule(&[endpoint("a", backend.address)]), &certificate));
    let config = tls_client_of(&[&rustls::version::TLS12], &[der]);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = connect_tls(harness.https, &config, HOST).await.unwrap();
        assert_eq!(status(&mut client, HOST).await, 200);
        assert_eq!(client.stream.get_ref().1.handshake_kind(), Some(kind));
    }
    assert!(harness.counted(r#"tls_handshakes_total{result="ok",version="TLSv1.2"} 2"#));
}

#[tokio::test]
async fn a_connection_serves_the_host_that_it_was_opened_for_and_no_other() {
    let (chat, chat_der) = certificate(&[HOST, "shop.example.com"]);
    let backend = ok_backend().await;
    let shared = rule(&[endpoint("a", backend.address)]);
    let mut table = secured(shared.clone(), &chat);
    let shop = HostPattern::parse("shop.example.com");
    table.claim(&shop, &PathPattern::prefix("/"), Arc::new(shared));
    table.set_tls(&shop, host_tls(Ok(identity(&chat)), InsecurePolicy::Redirect));
    let harness = Harness::with_table(table);
    let mut client = connect_tls(harness.https, &tls_client(&[chat_der]), HOST).await.unwrap();
    assert_eq!(status(&mut client, HOST).await, 200);
    assert_eq!(status(&mut client, "shop.example.com").await, 421);
    assert_eq!(status(&mut client, "other.example.com").await, 421);
    assert_eq!(status(&mut client, HOST).await, 200, "each request is checked separately");
}

#[tokio::test]
async fn without_a_name_only_hosts_that_the_default_certificate_covers_are_served() {
    let (default, der) = certificate(&["chat.example.com", "127.0.0.1"]);
    let backend = ok_backend().await;
    let mut table = RouteTable::default();
    table.claim(&HostPattern::Any, &PathPattern::prefix("/"), Arc::new(rule(&[endpoint("a", backend.address)])));
    table.set_default_identity(Some(identity(&default)));
    let harness = Harness::with_table(table);
    // An address is never sent as a name (RFC 6066 §3).
    let mut client = connect_tls(harness.https, &tls_client(&[der]), "127.0.0.1").await.unwrap();
    assert_eq!(status(&mut client, HOST).await, 200);
    assert_eq!(status(&mut client, "127.0.0.1").await, 200);
    assert_eq!(status(&mut client, "other.example.com").await, 421);
}

#[tokio::test]
async fn unknown_names_get_the_alert_unrecognized_name() {
    let (certificate, der) = certificate(&[HOST]);
    let harness = Harness::with_table(secured(rule(&[]), &certificate));
    for name in ["other.example.com", "127.0.0.1"] {
        let error = connect_tls(harness.https, &tls_client(from_ref(&der)), name).await.err().unwrap();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    assert!(harness.counted(r#"tls_handshakes_total{result="unrecognized_name",version="unknown"} 2"#));
}

#[tokio::test]
async fn an_unusable_certificate_fails_the_handshake_and_never_opens_plaintext() {
    let (_, der) = certificate(&[HOST]);
    let mut table = table(rule(&[]));
    table.set_tls(&HostPattern::parse(HOST), host_tls(Err("no Secret".into()), InsecurePolicy::Redirect));
    let harness = Harness::with_table(table);
    let error = connect_tls(harness.https, &tls_client(&[der]), HOST).await.err().unwrap();
    assert!(error.to_string().contains("InternalError"), "{error}");
    assert_eq!(harness.ask(&get("/", "")).await.1.status(), 308);
}

#[tokio::test]
async fn plaintext_at_the_tls_listener_is_not_served() {
    let (certificate, _) = certificate(&[HOST]);
    let harness = Harness::with_table(secured(rule(&[]), &certificate));
    let mut client = Peer::connect(harness.https).await;
    client.send(get("/", "")).await;
    assert!(!client.rest().await.contains("HTTP"));
}

#[tokio::test]
async fn the_certificate_that_covers_the_name_is_sent() {
    let (one, _) = certificate(&["one.example.com"]);
    let (other, other_der) = certificate(&["*.example.com"]);
    let both = Arc::new(switchyard::table::TlsIdentity::new(Box::new([one, other])));
    let mut table = table(rule(&[]));
    table.set_tls(&HostPattern::parse(HOST), host_tls(Ok(both), InsecurePolicy::Redirect));
    let harness = Harness::with_table(table);
    let client = connect_tls(harness.https, &tls_client(from_ref(&other_der)), HOST).await.unwrap();
    assert_eq!(sent(&client), other_der);
}

#[tokio::test]
async fn a_rotated_certificate_closes_no_tunnel_and_no_kept_connection() {
    let ((old, old_der), (new, new_der)) = (certificate(&[HOST]), certificate(&[HOST]));
    let backend = ok_backend().await;
    let served = rule(&[endpoint("a", backend.address)]);
    let harness = Harness::with_table(secured(served.clone(), &old));
    let config = tls_client(&[old_der, new_der.clone()]);
    let mut kept = connect_tls(harness.https, &config, HOST).await.unwrap();
    assert_eq!(status(&mut kept, HOST).await, 200);
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        let mut client = connect_tls(harness.https, &config, HOST).await.unwrap();
        client.send(handshake("/ws", "")).await;
        assert_eq!(client.head().await.status(), 101);
        tunnels.push(client);
    }
    harness.table.publish(secured(served, &new).into());
    let fresh = connect_tls(harness.https, &tls_client(from_ref(&new_der)), HOST).await.unwrap();
    assert_eq!(sent(&fresh), new_der);
    assert_eq!(status(&mut kept, HOST).await, 200, "not 421, since it is the same host");
    assert_eq!(harness.tunnels.count(), 100);
    drop(tunnels);
    harness.tunnels(0).await;
}

#[tokio::test]
async fn replacing_a_certificate_defeats_old_tickets() {
    let ((old, old_der), (new, new_der)) = (certificate(&[HOST]), certificate(&[HOST]));
    let backend = ok_backend().await;
    let served = rule(&[endpoint("a", backend.address)]);
    let harness = Harness::with_table(secured(served.clone(), &old));
    let config = tls_client(&[old_der, new_der]);
    let kind = async || {
        let mut client = connect_tls(harness.https, &config, HOST).await.unwrap();
        assert_eq!(status(&mut client, HOST).await, 200);
        client.stream.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    harness.table.publish(secured(served, &new).into());
    assert_eq!(kind().await, HandshakeKind::Full);
}

#[tokio::test]
async fn a_real_client_speaks_through_wss() {
    let (certificate, der) = certificate(&[HOST]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let harness = Harness::with_table(secured(rule(&[endpoint("a", listener.local_addr().unwrap())]), &certificate));
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let stream = connect_tls(harness.https, &tls_client(&[der]), HOST).await.unwrap().stream;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("wss://{HOST}/ws"), stream).await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![9; 4 << 20])] {
        socket.send(message.clone()).await.unwrap();
        assert!(soon(socket.next()).await.unwrap().unwrap() == message);
    }
    socket.close(None).await.unwrap();
    while soon(socket.next()).await.is_some() {}
    soon(echo).await.unwrap();
    drop(socket);
    harness.tunnels(0).await;
}

#[tokio::test]
async fn a_tunnel_that_the_proxy_ends_sends_close_notify() {
    let (certificate, der) = certificate(&[HOST]);
    let backend = RawBackend::bind().await;
    let mut limited = rule(&[backend.endpoint("a")]);
    limited.policy.timeouts.idle = Some(std::time::Duration::from_millis(50));
    let harness = Harness::with_table(secured(limited, &certificate));
    let (mut client, mut peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    client.answer_close_as_client(1001).await;
    peer.answer_close_as_backend(1001).await;
    // Without close_notify, rustls reports the end as an error.
    assert_eq!(soon(client.stream.read(&mut [0; 16])).await.unwrap(), 0);
    assert_eq!(peer.rest().await, "");
}
