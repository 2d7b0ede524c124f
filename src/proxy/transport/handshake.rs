//! The handshake of TLS, with clients and with backends: rustls' state machine over bytes that are ours.

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

/// What is read at once, and what a hello of common size needs.
const CHUNK: usize = 4096;
const RECORD_HEADER: usize = 5;

/// A connection of rustls that works on buffers of ours, at either end.
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

/// Shakes hands with a server of this name, whose certificate the configuration verifies. It has to allow the extraction
/// of secrets.
///
/// # Errors
/// If the connection breaks, or either side does not accept the other.
#[cfg_attr(not(test), expect(dead_code, reason = "no route can ask for TLS to its backends yet"))]
pub(crate) async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Stream> {
    let connection = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    Started { socket, received: Vec::new(), charge: Charge::default() }.complete(connection).await
}

/// A handshake of which the client's hello has been read, or one of ours that has not begun.
pub(crate) struct Started {
    pub socket: TcpStream,
    /// What was received and not yet taken by rustls. The hello is still in it, since rustls' acceptor gives a
    /// connection with buffers of its own only.
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
                // The error is what matters: that the alert does not arrive changes nothing.
                let _ = socket.write_all(&bytes).await;
                return Err(invalid(error));
            }
        }
    }
}

impl Started {
    /// Shakes hands to the end. Session tickets wait in the stream, to go along with the first answer.
    pub(crate) async fn finish(self, config: Arc<ServerConfig>) -> io::Result<Stream> {
        self.complete(UnbufferedServerConnection::new(config).map_err(invalid)?).await
    }

    async fn complete(mut self, mut connection: impl Unbuffered) -> io::Result<Stream> {
        // Given record by record, so that rustls never gets to see what belongs to us: payload behind the handshake.
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
                // Payload may be sent: the handshake is over. So it is behind the alert of a failure.
                Ok(_) | Err(_) => over = true,
            }
            self.received.drain(..discard);
            given -= discard;
            if over {
                break;
            }
            if blocked {
                self.send(&mut to_send).await?;
                given = self.one_more_record(given).await?;
            }
        }
        if let Some(error) = failure {
            let _ = self.send(&mut to_send).await;
            return Err(invalid(error));
        }
        // The client of TLS 1.2 waits for it. In TLS 1.3 it is tickets, for which nobody waits, or the end of the client's
        // own handshake, which its first request goes along with.
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

    /// Waits until one record more is there than so many bytes, and returns where it ends.
    async fn one_more_record(&mut self, given: usize) -> io::Result<usize> {
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
    // Nobody needs so much for a handshake, certificates included.
    if received.len() + CHUNK > READ {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake that is too long"));
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
