use std::io::Write;

use rustls::{AlertDescription, ClientConnection, Error};
use tokio::{net::TcpListener, task::yield_now};

use super::*;
use crate::proxy::transport::records::peer::{Ends, SUITES, hear, say, wire};

const TLS13: usize = 0;
const TLS12: usize = 3;

/// Both ends of a connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Serves like an HTTP server: sends pending data before it waits for a request.
async fn serve(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Stream> {
    let mut stream = start(socket).await?.0.finish(config).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn send(socket: &mut TcpStream, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        socket.write_all(piece).await.unwrap();
        yield_now().await;
    }
}

/// Receives until the client has decrypted at least `length` bytes, or failed.
async fn receive(client: &mut ClientConnection, socket: &mut TcpStream, length: usize) -> Result<Vec<u8>, Error> {
    let mut heard = Vec::new();
    while heard.len() < length {
        let mut bytes = Vec::new();
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "{heard:?}");
        heard.extend(hear(client, &bytes)?);
    }
    Ok(heard)
}

/// Performs the handshake as a client that sends in pieces, and sends `said` with its last message.
async fn perform_handshake(client: &mut ClientConnection, socket: &mut TcpStream, piece: usize, said: &[u8]) {
    client.writer().write_all(said).unwrap();
    loop {
        send(socket, &wire(client), piece).await;
        if !client.is_handshaking() {
            return;
        }
        let mut bytes = Vec::new();
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0);
        assert_eq!(hear(client, &bytes).unwrap(), b"");
    }
}

async fn connect(suite: usize) -> (ClientConnection, TcpStream, Stream) {
    let ends = Ends::new(SUITES[suite]);
    let ((mut socket, accepted), mut client) = (sockets().await, ends.client());
    let (server, ()) =
        tokio::join!(serve(accepted, ends.server.clone()), perform_handshake(&mut client, &mut socket, 4096, b""));
    (client, socket, server.unwrap())
}

#[tokio::test]
async fn a_handshake_may_come_in_pieces_and_payload_along_with_its_end() {
    let long = vec![0x5a; 50_000];
    for suite in SUITES {
        let ends = Ends::new(suite);
        for (piece, said) in [(1, &b"early"[..]), (7, b"early"), (1000, &long), (100_000, b"early"), (100_000, &long)] {
            let ((mut socket, accepted), mut client) = (sockets().await, ends.client());
            let server = async {
                let mut stream = serve(accepted, ends.server.clone()).await.unwrap();
                let mut heard = vec![0; said.len()];
                stream.read_exact(&mut heard).await.unwrap();
                assert!(heard == said);
                stream.write_all(b"answer").await.unwrap();
                stream.flush().await.unwrap();
                stream
            };
            let client = async {
                perform_handshake(&mut client, &mut socket, piece, said).await;
                assert_eq!(receive(&mut client, &mut socket, 6).await.unwrap(), b"answer");
            };
            tokio::join!(server, client);
        }
    }
}

#[tokio::test]
async fn bytes_that_are_not_a_hello_are_refused_with_an_alert() {
    let cases: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 0, 4, 20, 0, 0, 0], &[23, 3, 3, 0, 1, 0], &[0xff; 64]];
    for bytes in cases {
        let (mut socket, accepted) = sockets().await;
        socket.write_all(bytes).await.unwrap();
        assert_eq!(start(accepted).await.err().unwrap().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        let mut answer = Vec::new();
        // The unread rest of what it sent may have reset the connection.
        let _ = socket.read_to_end(&mut answer).await;
        assert!(matches!(answer[..], [] | [21, 3, _, 0, 2, 2, _]), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_early_is_noticed() {
    let ends = Ends::new(SUITES[TLS13]);
    let hello = wire(&mut ends.client());
    for length in [0, 3, 5, 100, hello.len()] {
        let (mut socket, accepted) = sockets().await;
        socket.write_all(&hello[..length]).await.unwrap();
        drop(socket);
        assert!(serve(accepted, ends.server.clone()).await.is_err());
    }
}

#[tokio::test]
async fn a_hello_without_an_end_is_not_read_forever() {
    let (mut socket, accepted) = sockets().await;
    let client = tokio::spawn(async move {
        // A hello of 16 MB in records of one byte.
        let mut record = vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff];
        while socket.write_all(&record).await.is_ok() {
            record = [22, 3, 1, 0, 1, 0].repeat(500);
        }
    });
    assert_eq!(start(accepted).await.err().unwrap().kind(), io::ErrorKind::InvalidData);
    client.await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_common_suite_gets_an_alert() {
    let (ends, other) = (Ends::new(SUITES[TLS13]), Ends::new(SUITES[TLS12]));
    let ((mut socket, accepted), mut client) = (sockets().await, other.client());
    socket.write_all(&wire(&mut client)).await.unwrap();
    assert!(serve(accepted, ends.server.clone()).await.is_err());
    let error = receive(&mut client, &mut socket, 1).await.unwrap_err();
    assert!(matches!(error, Error::AlertReceived(_)), "{error}");
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_answered_with_an_alert_at_once() {
    for suite in [TLS13, TLS12] {
        let (mut client, mut socket, mut stream) = connect(suite).await;
        let mut bytes = say(&mut client, b"payload");
        *bytes.last_mut().unwrap() ^= 1;
        socket.write_all(&bytes).await.unwrap();
        let error = stream.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(stream);
        let error = receive(&mut client, &mut socket, 1).await.unwrap_err();
        assert_eq!(error, Error::AlertReceived(AlertDescription::BadRecordMac));
    }
}

#[tokio::test]
async fn both_ends_may_close_in_order() {
    for suite in [TLS13, TLS12] {
        let (mut client, mut socket, mut stream) = connect(suite).await;
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(receive(&mut client, &mut socket, 10).await.unwrap(), b"last words");
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        hear(&mut client, &rest).unwrap();
        let mut closing = say(&mut client, b"bye");
        client.send_close_notify();
        closing.extend(wire(&mut client));
        socket.write_all(&closing).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye");
    }
}

/// A server by tokio-rustls that echoes what it receives. It sends tickets, and new keys for each echo.
async fn echo(socket: TcpStream, mut config: ServerConfig) {
    config.send_tls13_tickets = 4;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let mut stream = acceptor.accept(socket).await.unwrap();
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        stream.write_all(&bytes[..length]).await.unwrap();
        stream.flush().await.unwrap();
        if stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
        }
    }
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_backend_over_tls_is_a_stream_like_any_other() {
    for suite in SUITES {
        let ends = Ends::new(suite);
        let (socket, accepted) = sockets().await;
        let server = tokio::spawn(echo(accepted, ServerConfig::clone(&ends.server)));
        let name = "chat.example.com".try_into().unwrap();
        let mut stream = super::connect(socket, ends.client.clone(), name).await.unwrap();
        for length in [1, 100, 50_000, 1_000_000, 7] {
            let said: Vec<u8> = (0..length).map(|place: u32| place.to_le_bytes()[0]).collect();
            let mut heard = vec![0; said.len()];
            for (said, heard) in said.chunks(40_000).zip(heard.chunks_mut(40_000)) {
                stream.write_all(said).await.unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(heard).await.unwrap();
            }
            assert!(heard == said, "{length} bytes, {suite:?}");
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "{suite:?}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn tickets_of_a_server_resume_its_sessions() {
    let ends = Ends::new(SUITES[TLS13]);
    for is_resumed in [false, true] {
        let (socket, accepted) = sockets().await;
        let acceptor = tokio_rustls::TlsAcceptor::from(ends.server.clone());
        let server = tokio::spawn(async move {
            let mut stream = acceptor.accept(accepted).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            stream.get_ref().1.handshake_kind()
        });
        let name = "chat.example.com".try_into().unwrap();
        let mut stream = super::connect(socket, ends.client.clone(), name).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        let expected = if is_resumed { rustls::HandshakeKind::Resumed } else { rustls::HandshakeKind::Full };
        assert_eq!(server.await.unwrap(), Some(expected));
    }
}

#[tokio::test]
async fn a_backend_whose_certificate_is_for_another_name_gets_nothing() {
    let ends = Ends::new(SUITES[TLS13]);
    let (socket, accepted) = sockets().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(ends.server.clone());
    let server = tokio::spawn(async move { acceptor.accept(accepted).await.map(drop) });
    let name = "other.example.com".try_into().unwrap();
    let error = super::connect(socket, ends.client.clone(), name).await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
    let told = server.await.unwrap().unwrap_err().to_string();
    assert!(told.contains("alert"), "{told}");
}
