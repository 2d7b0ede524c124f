//! Tunnels over TLS, down to its records.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    SupportedCipherSuite,
    crypto::aws_lc_rs::{self, cipher_suite},
    pki_types::{CertificateDer, ServerName},
};
use switchyard::table::{Keepalive, Pings};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use crate::{support::*, tls::secured, upgrade::open_tls};

struct Secured {
    harness: Harness,
    backend: RawBackend,
    der: CertificateDer<'static>,
}

async fn start() -> Secured {
    start_with(Keepalive { client: None, backend: None }).await
}

async fn start_with(keepalive: Keepalive) -> Secured {
    let (certificate, der) = certificate(&[HOST]);
    let backend = RawBackend::bind().await;
    let mut rule = rule(&[backend.endpoint("a")]);
    rule.policy.keepalive = keepalive;
    let harness = Harness::with_table(secured(rule, &certificate));
    Secured { harness, backend, der }
}

fn of_suite(suite: SupportedCipherSuite, trusted: &CertificateDer<'static>) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
    Arc::new(
        config.with_protocol_versions(&[suite.version()]).unwrap().with_root_certificates(roots).with_no_client_auth(),
    )
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// Forwards a frame of every significant size in both directions.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Peer<S>,
    peer: &mut Peer<TcpStream>,
    sizes: &[usize],
) {
    for size in sizes {
        let payload = noise(*size);
        tokio::join!(client.send(from_client(BINARY, &payload)), async {
            assert!(peer.frame().await.payload == payload, "{size} to the backend");
        });
        tokio::join!(peer.send(from_server(BINARY, &payload)), async {
            assert!(client.frame().await.payload == payload, "{size} to the client");
        });
    }
}

const SIZES: [usize; 9] = [0, 1, 125, 16_379, 16_380, 16_384, 16_385, 65_536, 1 << 20];

#[tokio::test]
async fn every_cipher_suite_carries_frames_of_all_sizes() {
    let Secured { harness, backend, der } = start().await;
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        let (mut client, mut peer) = open_tls(&harness, &backend, &of_suite(suite, &der)).await;
        assert_eq!(client.stream.get_ref().1.negotiated_cipher_suite(), Some(suite));
        exchange(&mut client, &mut peer, &SIZES).await;
        // Close_notify in both directions, one after the other.
        client.finish().await;
        assert_eq!(peer.rest().await, "");
        peer.send(from_server(TEXT, "still")).await;
        client.expect_frame(TEXT, "still").await;
        peer.finish().await;
        assert_eq!(soon(client.stream.read(&mut [0; 16])).await.unwrap(), 0, "close_notify");
        harness.tunnels(0).await;
    }
    assert!(harness.counted(&closed("client", "closed", 6)));
}

#[tokio::test]
async fn keys_change_in_the_middle_of_a_tunnel() {
    let Secured { harness, backend, der } = start().await;
    for suite in [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256] {
        let (mut client, mut peer) = open_tls(&harness, &backend, &of_suite(suite, &der)).await;
        for round in 0..5 {
            client.stream.get_mut().1.refresh_traffic_keys().unwrap();
            exchange(&mut client, &mut peer, &[5, 100_000]).await;
            if round == 3 {
                // Several updates before the proxy has anything to send.
                for _ in 0..3 {
                    client.stream.get_mut().1.refresh_traffic_keys().unwrap();
                    client.send(from_client(TEXT, "new keys")).await;
                    peer.expect_frame(TEXT, "new keys").await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_the_client_sends_along_with_its_handshake_arrives() {
    let Secured { harness, backend, der } = start().await;
    for length in [5, 10_000, 100_000] {
        let mut client = connect_tls(harness.https, &tls_client(std::slice::from_ref(&der)), HOST).await.unwrap();
        let early = from_client(BINARY, noise(length));
        let later = from_client(TEXT, "later");
        // One write, hence one record if it fits.
        let sent = [handshake("/ws", "").as_bytes(), &early].concat();
        let answer = [switching("").as_bytes(), &from_server(BINARY, noise(length))].concat();
        let backend = async {
            let mut peer = backend.accept().await;
            peer.head().await;
            peer.send(answer).await;
            assert!(peer.frame().await.payload == noise(length));
            peer.expect_frame(TEXT, "later").await;
        };
        let client = async {
            client.send(&sent).await;
            assert_eq!(client.head().await.status(), 101);
            assert!(client.frame().await.payload == noise(length));
            client.send(&later).await;
        };
        tokio::join!(backend, client);
    }
}

/// Writes a single byte at a time, and lets other tasks run in between.
struct Dribble {
    stream: TcpStream,
    rests: bool,
}

impl AsyncRead for Dribble {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.rests = !self.rests;
        if self.rests {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn records_may_come_byte_by_byte() {
    for suite in [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
        let Secured { harness, backend, der } = start().await;
        let stream = Dribble { stream: Peer::connect(harness.https).await.stream, rests: false };
        let name = ServerName::try_from(HOST).unwrap();
        let connector = tokio_rustls::TlsConnector::from(of_suite(suite, &der));
        let mut client = Peer::new(soon(connector.connect(name, stream)).await.unwrap());
        client.send(handshake("/ws", "")).await;
        let (mut peer, _) = backend.answer(&switching("")).await;
        assert_eq!(client.head().await.status(), 101);
        exchange(&mut client, &mut peer, &[0, 5, 126, 3000]).await;
        client.finish().await;
        assert_eq!(peer.rest().await, "");
    }
}

/// What rustls has to send, as bytes for the wire.
fn sealed(client: &mut Peer<TlsStream>, payload: &[u8]) -> Vec<u8> {
    let (_, tls) = client.stream.get_mut();
    io::Write::write_all(&mut tls.writer(), payload).unwrap();
    let mut wire = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut wire).unwrap();
    }
    wire
}

#[tokio::test]
async fn a_record_may_be_cut_anywhere_and_many_may_come_at_once() {
    let Secured { harness, backend, der } = start().await;
    let (mut client, mut peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    let length = sealed(&mut client, &from_client(TEXT, "whole")).len();
    // That record was lost on the way, so its keys cannot be used any more.
    drop((client, peer));
    let der = start().await;
    let Secured { harness, backend, der } = der;
    (client, peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    for cut in 0..=length {
        let before = sealed(&mut client, &from_client(TEXT, "before"));
        let wire = sealed(&mut client, &from_client(TEXT, "whole"));
        let (now, later) = wire.split_at(cut);
        let tcp = client.stream.get_mut().0;
        tcp.write_all(&[&before, now].concat()).await.unwrap();
        // Now only the beginning of the record has arrived.
        peer.expect_frame(TEXT, "before").await;
        tcp.write_all(later).await.unwrap();
        peer.expect_frame(TEXT, "whole").await;
    }
    let many: Vec<u8> = (0..1000).flat_map(|_| sealed(&mut client, &from_client(TEXT, "many"))).collect();
    client.stream.get_mut().0.write_all(&many).await.unwrap();
    for _ in 0..1000 {
        peer.expect_frame(TEXT, "many").await;
    }
}

#[tokio::test]
async fn a_forged_record_ends_the_tunnel_and_its_sender_is_told() {
    let Secured { harness, backend, der } = start().await;
    for suite in [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
        let (mut client, mut peer) = open_tls(&harness, &backend, &of_suite(suite, &der)).await;
        client.send(from_client(TEXT, "good")).await;
        let forged = [&[23, 3, 3, 0, 64][..], &[7; 64]].concat();
        client.stream.get_mut().0.write_all(&forged).await.unwrap();
        peer.expect_frame(TEXT, "good").await;
        assert_eq!(peer.rest().await, "");
        let error = soon(client.stream.read(&mut [0; 16])).await.unwrap_err();
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
        harness.tunnels(0).await;
    }
    assert!(harness.counted(&closed("client", "reset", 2)), "{}", harness.metrics.encode());
}

#[tokio::test]
async fn a_client_that_closes_without_close_notify_has_closed() {
    let Secured { harness, backend, der } = start().await;
    let (mut client, mut peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    client.send(from_client(TEXT, "last")).await;
    client.stream.get_mut().0.shutdown().await.unwrap();
    peer.expect_frame(TEXT, "last").await;
    assert_eq!(peer.rest().await, "");
    peer.finish().await;
    assert_eq!(client.rest().await, "");
    harness.tunnels(0).await;
    assert!(harness.counted(&closed("client", "closed", 1)));
}

#[tokio::test]
async fn pings_and_their_answers_pass_over_tls() {
    let pings = Some(Pings { interval: Duration::from_millis(40), timeout: None });
    let Secured { harness, backend, der } = start_with(Keepalive { client: pings, backend: None }).await;
    let (mut client, mut peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    for _ in 0..3 {
        let ping = client.frame().await;
        assert_eq!((ping.first, ping.masked, ping.payload.len()), (PING, false, 8));
        // A record for each byte.
        for byte in from_client(PONG, ping.payload) {
            client.send([byte]).await;
        }
    }
    client.send(from_client(TEXT, "hello")).await;
    assert_eq!(peer.bytes(11).await, from_client(TEXT, "hello"));
}

#[tokio::test]
async fn much_passes_both_ways_at_once_over_tls() {
    let Secured { harness, backend, der } = start().await;
    let (client, peer) = open_tls(&harness, &backend, &tls_client(&[der])).await;
    let bytes = from_client(BINARY, noise(8 << 20));
    let (mut client_reads, mut client_writes) = tokio::io::split(client.stream);
    let (mut peer_reads, mut peer_writes) = tokio::io::split(peer.stream);
    let answer = from_server(BINARY, noise(8 << 20));
    let (mut to_client, mut to_backend) = (vec![0; answer.len()], vec![0; bytes.len()]);
    let all = async {
        tokio::try_join!(
            async {
                client_writes.write_all(&bytes).await?;
                client_writes.flush().await
            },
            peer_writes.write_all(&answer),
            client_reads.read_exact(&mut to_client),
            peer_reads.read_exact(&mut to_backend),
        )
    };
    soon(all).await.unwrap();
    assert!(to_client == answer && to_backend == bytes);
}
