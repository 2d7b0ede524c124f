//! The TLS handshake, with clients and with backends: rustls' state machine over our own buffers.

use std::{future::poll_fn, io, sync::Arc};

use rustls::{
    ClientConfig, ProtocolVersion, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    server::{Accepted, Acceptor, ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    records::Records,
    role::Completed,
    stream::{READ, Stream},
};
use crate::proxy::bounds::budget::{Charge, poll_room};

/// How many bytes are read at once, which is enough for a hello of common size.
const CHUNK: usize = 4096;
const RECORD_HEADER: usize = 5;

/// A rustls connection over our own buffers, at either end.
trait Unbuffered: Completed {
    type Data;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn version(&self) -> Option<ProtocolVersion>;
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn version(&self) -> Option<ProtocolVersion> {
        self.protocol_version()
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn version(&self) -> Option<ProtocolVersion> {
        self.protocol_version()
    }
}

/// Performs the handshake with a server of this name. The configuration verifies its certificate, and must have
/// `enable_secret_extraction` set.
///
/// # Errors
/// If the connection fails, or either side rejects the other.
#[cfg_attr(not(test), expect(dead_code, reason = "no route can ask for TLS to its backends yet"))]
pub(crate) async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Stream> {
    let connection = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    Started { socket, received: Vec::new(), charge: Charge::default() }.complete(connection).await
}

/// A TLS handshake whose client hello has been read, or one of our own that has not begun.
pub(crate) struct Started {
    pub socket: TcpStream,
    /// Received bytes that rustls has not consumed yet. They still include the hello, because the connection from
    /// rustls' acceptor would have buffers of its own.
    received: Vec<u8>,
    charge: Charge,
}

/// Reads the client's hello.
pub(crate) async fn start(mut socket: TcpStream) -> io::Result<(Started, Accepted)> {
    let (mut received, mut charge) = (Vec::new(), Charge::default());
    let (mut acceptor, mut fed) = (Acceptor::default(), 0);
    loop {
        read_more(&mut socket, &mut received, &mut charge).await?;
        while fed < received.len() {
            fed += acceptor.read_tls(&mut &received[fed..])?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((Started { socket, received, charge }, accepted)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                alert.write_all(&mut bytes)?;
                // The error is what matters; a failure to send the alert does not change it.
                let _ = socket.write_all(&bytes).await;
                return Err(invalid(error));
            }
        }
    }
}

impl Started {
    /// Completes the handshake. Session tickets wait in the stream and are sent with the first response.
    pub(crate) async fn finish(self, config: Arc<ServerConfig>) -> io::Result<Stream> {
        self.complete(UnbufferedServerConnection::new(config).map_err(invalid)?).await
    }

    async fn complete(mut self, mut connection: impl Unbuffered) -> io::Result<Stream> {
        // Passed record by record, so that rustls never consumes what follows the handshake: the payload.
        let (mut given, mut to_send, mut failure) = (0, Vec::new(), None);
        loop {
            let UnbufferedStatus { discard, state } = connection.process(&mut self.received[..given]);
            let (mut blocked, mut over) = (false, false);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    encode(&mut to_send, |room| message.encode(room)).map_err(invalid)?;
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::BlockedHandshake) if failure.is_none() => blocked = true,
                // rustls has an alert for the peer, which is encoded next.
                Err(error) if failure.is_none() => failure = Some(error),
                // Payload may be sent, so the handshake is over. After a failure, it is over once the alert has been
                // encoded.
                Ok(_) | Err(_) => over = true,
            }
            self.received.drain(..discard);
            given -= discard;
            if over {
                break;
            }
            if blocked {
                self.send(&mut to_send).await?;
                given = self.next_record_end(given).await?;
            }
        }
        if let Some(error) = failure {
            let _ = self.send(&mut to_send).await;
            return Err(invalid(error));
        }
        // A TLS 1.2 client waits for these bytes. In TLS 1.3, they are tickets, for which nobody waits, or the end of our
        // own handshake, which is sent with the first request.
        if connection.version() == Some(ProtocolVersion::TLSv1_2) {
            self.send(&mut to_send).await?;
        }
        let records = Records::take_over(connection).map_err(invalid)?;
        Ok(Stream::secured(self.socket, records, &self.received, &to_send))
    }

    async fn send(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        bytes.clear();
        Ok(())
    }

    /// Waits until one more record is complete after the first `given` bytes, and returns where it ends.
    async fn next_record_end(&mut self, given: usize) -> io::Result<usize> {
        loop {
            if let Some(&[_, _, _, high, low]) = self.received[given..].first_chunk::<RECORD_HEADER>() {
                let end = given + RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
                if end <= self.received.len() {
                    return Ok(end);
                }
            }
            read_more(&mut self.socket, &mut self.received, &mut self.charge).await?;
        }
    }
}

async fn read_more(socket: &mut TcpStream, received: &mut Vec<u8>, charge: &mut Charge) -> io::Result<()> {
    // No handshake needs this much, even with certificates.
    if received.len() + CHUNK > READ {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the TLS handshake is too long"));
    }
    let room = poll_fn(|cx| poll_room(cx, CHUNK, charge.bytes())).await;
    received.reserve_exact(room);
    let read = (&mut *socket).take(room as u64).read_buf(received).await?;
    charge.set(received.len());
    if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn encode(
    to_send: &mut Vec<u8>,
    mut message: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), EncodeError> {
    let start = to_send.len();
    let mut needed = CHUNK;
    loop {
        to_send.resize(start + needed, 0);
        match message(&mut to_send[start..]) {
            Ok(length) => {
                to_send.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => needed = size.required_size,
            Err(error) => return Err(error),
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
