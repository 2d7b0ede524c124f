//! Clients that read slowly, send slowly, or leave without notice: what they make the proxy hold, and for how long.

use std::{fs, net::SocketAddr, slice::from_ref, sync::Arc, time::Duration};

use switchyard::{
    proxy::Settings,
    table::{Endpoint, HostPattern, InsecurePolicy},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::*;

/// What one slow reader may cost if there are many.
const MOST: usize = 64 * 1024;
/// How many bodies a thread reads in large parts, and what each of them may cost.
const LARGE_READERS: usize = 8;
const MOST_LARGE: usize = 512 * 1024;
/// What TLS adds to the bytes in the kernel, at most.
const OVERHEAD: usize = 16 * 1024;
const LONG: usize = 1 << 40;
/// More than is read ahead, and less than the kernel accepts: after more than that, the end of a connection would not
/// arrive.
const AHEAD: usize = 30_000;

/// The number of bytes in the kernel that this end of a connection has sent and the other has not received, and that it
/// has received and not read.
fn queued(local: SocketAddr, remote: SocketAddr) -> (usize, usize) {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
        }
        SocketAddr::V6(_) => unreachable!("all is IPv4 here"),
    };
    let (local, remote) = (hex(local), hex(remote));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|fields| fields[1] == local && fields[2] == remote);
    let (sent, received) = line.as_ref().map_or(("0", "0"), |fields| fields[4].split_once(':').unwrap());
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    (number(sent), number(received))
}

/// The number of bytes that a connection has in the kernel in one direction.
fn on_the_way(from: SocketAddr, to: SocketAddr) -> usize {
    queued(from, to).0 + queued(to, from).1
}

/// Writes until nothing more is accepted, and returns the number of bytes.
async fn fill(stream: &mut (impl AsyncWrite + Unpin)) -> usize {
    let (chunk, mut sent) = (vec![7; 1 << 16], 0);
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        sent += written.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.flush()).await;
    }
    sent
}

/// A client with little room for unread bytes.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    soon(socket.connect(address)).await.unwrap()
}

async fn over_tls(socket: TcpStream, config: Arc<rustls::ClientConfig>) -> TlsStream {
    let name = HOST.to_owned().try_into().unwrap();
    soon(tokio_rustls::TlsConnector::from(config).connect(name, socket)).await.unwrap()
}

/// A harness for both schemes, its backend, and what its clients trust.
async fn both(settings: Settings) -> (Harness, RawBackend, Arc<rustls::ClientConfig>) {
    let (certificate, der) = certificate(&[HOST]);
    let backend = RawBackend::bind().await;
    let mut rule = rule(&[backend.endpoint("a")]);
    rule.policy.timeouts.handshake = None;
    let mut table = table(rule);
    table.set_tls(&HostPattern::parse(HOST), host_tls(Ok(identity(&certificate)), InsecurePolicy::Allow));
    (Harness::start(table, settings), backend, tls_client(&[der]))
}

/// How much the proxy holds of a response that its client does not read.
async fn held_of_a_response<S: AsyncRead + AsyncWrite + Unpin>(
    backend: &RawBackend,
    client: &mut Peer<S>,
    ends: (SocketAddr, SocketAddr),
) -> (usize, Peer<TcpStream>) {
    client.send(get("/", "")).await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
    let (mut peer, _) = backend.answer(&head).await;
    let sent = fill(&mut peer.stream).await;
    let before = on_the_way(peer.stream.local_addr().unwrap(), peer.stream.peer_addr().unwrap());
    let behind = on_the_way(ends.0, ends.1);
    assert!(sent > before, "nothing has arrived: {sent} sent, {before} in the kernel");
    ((sent - before).saturating_sub(behind), peer)
}

/// Enough clients that do not read for all other bodies to be read in small parts, for as long as this is kept.
async fn crowd(harness: &Harness, backend: &RawBackend) -> impl Sized {
    let clients = (0..LARGE_READERS).map(async |_| {
        let mut client = Peer::new(narrow(harness.http).await);
        let ends = (harness.http, client.stream.local_addr().unwrap());
        let (held, peer) = held_of_a_response(backend, &mut client, ends).await;
        (held, client, peer)
    });
    let clients = futures::future::join_all(clients).await;
    // It is unknown which client a backend's connection belongs to, so only the sum is right.
    let held: usize = clients.iter().map(|(held, ..)| held).sum();
    assert!(held <= LARGE_READERS * MOST_LARGE, "{held} bytes for all of them");
    clients
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_the_proxy_hold_little() {
    let (harness, backend, config) = both(Settings::default()).await;
    let _crowd = crowd(&harness, &backend).await;
    let socket = narrow(harness.http).await;
    let ends = (harness.http, socket.local_addr().unwrap());
    let (held, _peer) = held_of_a_response(&backend, &mut Peer::new(socket), ends).await;
    assert!(held > 0 && held <= MOST, "{held} bytes over http");
    let socket = narrow(harness.https).await;
    let ends = (harness.https, socket.local_addr().unwrap());
    let mut client = Peer::new(over_tls(socket, config).await);
    let (held, _peer) = held_of_a_response(&backend, &mut client, ends).await;
    assert!(held <= MOST, "{held} bytes over https");
}

/// How much the proxy holds of a body that its backend does not read.
async fn held_of_a_body<S: AsyncRead + AsyncWrite + Unpin>(
    backend: &RawBackend,
    client: &mut Peer<S>,
    ends: (SocketAddr, SocketAddr),
) -> (usize, Peer<TcpStream>) {
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LONG}\r\n\r\n")).await;
    let peer = backend.accept().await;
    let sent = fill(&mut client.stream).await;
    let before = on_the_way(ends.1, ends.0);
    let behind = on_the_way(peer.stream.peer_addr().unwrap(), peer.stream.local_addr().unwrap());
    ((sent - sent.min(before)).saturating_sub(behind), peer)
}

#[tokio::test]
async fn a_backend_that_does_not_read_makes_the_proxy_hold_little() {
    let (harness, backend, config) = both(Settings::default()).await;
    let _crowd = crowd(&harness, &backend).await;
    let mut client = harness.client().await;
    let ends = (harness.http, client.stream.local_addr().unwrap());
    let (held, _peer) = held_of_a_body(&backend, &mut client, ends).await;
    assert!(held > 0 && held <= MOST, "{held} bytes over http");
    let socket = soon(TcpStream::connect(harness.https)).await.unwrap();
    let ends = (harness.https, socket.local_addr().unwrap());
    let mut client = Peer::new(over_tls(socket, config).await);
    let (held, _peer) = held_of_a_body(&backend, &mut client, ends).await;
    // The client itself holds up to 64 KiB that its socket has not accepted.
    assert!(held <= MOST + MOST + OVERHEAD, "{held} bytes over https");
}

#[tokio::test]
async fn a_response_that_was_held_back_arrives_whole_when_the_client_reads_on() {
    let (harness, backend, config) = both(Settings::default()).await;
    let body: Vec<u8> = (0..3 << 20).map(|index: u32| (index % 251) as u8).collect();
    for is_chunked in [false, true] {
        for is_tls in [false, true] {
            let socket = narrow(if is_tls { harness.https } else { harness.http }).await;
            let stream: Box<dyn Both> =
                if is_tls { Box::new(over_tls(socket, config.clone()).await) } else { Box::new(socket) };
            let mut client = Peer::new(stream);
            client.send(get("/", "Connection: close\r\n")).await;
            let framing = if is_chunked {
                "Transfer-Encoding: chunked".into()
            } else {
                format!("Content-Length: {}", body.len())
            };
            let (mut peer, _) = backend.answer(&format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
            let wire = if is_chunked { chunked(&body) } else { body.clone() };
            let ends = (peer.stream.local_addr().unwrap(), peer.stream.peer_addr().unwrap());
            let sending = tokio::spawn(async move { peer.send(&wire).await });
            // The proxy has left unread bytes in the kernel.
            let held_back = async {
                while queued(ends.1, ends.0).1 == 0 {
                    tokio::task::yield_now().await;
                }
            };
            soon(held_back).await;
            let head = client.head().await;
            assert_eq!(head.status(), 200);
            let mut received = Vec::new();
            soon(client.stream.read_to_end(&mut received)).await.ok();
            let early = client.buffered();
            let received = [early, received].concat();
            let received = if is_chunked { unchunked(&received) } else { received };
            assert!(received == body, "{} of {} bytes, chunked {is_chunked}, TLS {is_tls}", received.len(), body.len());
            sending.await.unwrap();
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Both for S {}

/// A body in chunks of various sizes.
fn chunked(mut body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for size in [1, 100, 4096, 70_000].iter().cycle() {
        let (chunk, rest) = body.split_at(body.len().min(*size));
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
        body = rest;
        if chunk.is_empty() {
            return wire;
        }
    }
    unreachable!("it has an end")
}

fn unchunked(mut wire: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = wire.windows(2).position(|window| window == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&wire[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend(&wire[end + 2..end + 2 + length]);
        wire = &wire[end + 2 + length + 2..];
    }
}

/// A harness that considers all clients too slow, once it has waited for them briefly.
async fn impatient() -> (Harness, RawBackend, Arc<Endpoint>) {
    let backend = RawBackend::bind().await;
    let chosen = backend.endpoint("a");
    let settings = Settings { stall_timeout: Duration::from_millis(300), min_rate: u32::MAX, ..Settings::default() };
    (Harness::start(table(rule(from_ref(&chosen))), settings), backend, chosen)
}

async fn freed(endpoint: &Endpoint) {
    while endpoint.state.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_body_that_drips_is_a_408_although_it_never_stalls() {
    let (harness, backend, chosen) = impatient().await;
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LONG}\r\n\r\n")).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    let drip = async {
        // Each byte has arrived before the next is sent, so there is always progress.
        while client.stream.write_all(b"x").await.is_ok()
            && peer.stream.read(&mut [0; 16]).await.is_ok_and(|read| read > 0)
        {}
    };
    soon(drip).await;
    let head = client.head().await;
    assert_eq!((head.status(), head.field("connection")), (408, Some("close")));
    soon(freed(&chosen)).await;
}

#[tokio::test]
async fn a_response_that_is_read_too_slowly_is_cut_although_it_never_stalls() {
    let (harness, backend, chosen) = impatient().await;
    // With so little room, the proxy waits for the client, however fast it reads.
    let mut client = Peer::new(narrow(harness.http).await);
    client.send(get("/", "")).await;
    let (mut peer, _) = backend.answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n")).await;
    let sending = tokio::spawn(async move {
        let chunk = vec![7; 1 << 20];
        while peer.stream.write_all(&chunk).await.is_ok() {}
    });
    let reading = async { while client.stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
    soon(reading).await;
    soon(freed(&chosen)).await;
    sending.await.unwrap();
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// A handshake as the first request on its connection.
    First,
    /// A handshake after another request.
    Later,
    /// A plain request.
    Plain,
}

/// A client whose request has reached the backend and is not answered, and that has then sent much that nobody reads.
async fn ahead<S: AsyncRead + AsyncWrite + Unpin>(
    backend: &RawBackend,
    client: &mut Peer<S>,
    doing: Doing,
    ends: (SocketAddr, SocketAddr),
) -> Peer<TcpStream> {
    if doing == Doing::Later {
        client.send(get("/before", "")).await;
        let (_peer, _) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200);
    }
    client.send(if doing == Doing::Plain { get("/poll", "") } else { handshake("/ws", "") }).await;
    let mut peer = backend.accept().await;
    peer.head().await;
    client.send(vec![b'x'; AHEAD]).await;
    // The proxy has read as much of it as it reads ahead.
    soon(async {
        while queued(ends.0, ends.1).1 == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    peer
}

#[tokio::test]
async fn a_client_that_has_sent_much_ahead_is_noticed_when_it_leaves() {
    let settings = Settings { half_closed_timeout: Duration::from_millis(50), ..Settings::default() };
    let (harness, backend, config) = both(settings).await;
    for doing in [Doing::First, Doing::Later, Doing::Plain] {
        for is_reset in [true, false] {
            for is_tls in [false, true] {
                let address = if is_tls { harness.https } else { harness.http };
                let socket = soon(TcpStream::connect(address)).await.unwrap();
                let ends = (address, socket.local_addr().unwrap());
                let leave = |socket: &TcpStream| {
                    if is_reset {
                        socket.set_zero_linger().unwrap();
                    }
                };
                let mut peer = if is_tls {
                    let mut client = Peer::new(over_tls(socket, config.clone()).await);
                    let peer = ahead(&backend, &mut client, doing, ends).await;
                    leave(client.stream.get_ref().0);
                    peer
                } else {
                    let mut client = Peer::new(socket);
                    let peer = ahead(&backend, &mut client, doing, ends).await;
                    leave(&client.stream);
                    peer
                };
                assert_eq!(peer.rest().await, "", "{doing:?}, reset {is_reset}, TLS {is_tls}");
            }
        }
    }
    harness.tunnels(0).await;
}

#[tokio::test]
async fn much_that_was_sent_ahead_of_a_101_arrives_behind_it() {
    let (harness, backend, _) = both(Settings::default()).await;
    let mut client = harness.client().await;
    let ends = (harness.http, client.stream.local_addr().unwrap());
    let mut peer = ahead(&backend, &mut client, Doing::First, ends).await;
    peer.send(switching("")).await;
    assert_eq!(client.head().await.status(), 101);
    assert!(peer.bytes(AHEAD).await == vec![b'x'; AHEAD]);
}
