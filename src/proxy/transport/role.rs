//! The end of a connection that records belong to. rustls keeps the state for new keys, and handles the handshake messages
//! that may arrive later.

use rustls::{
    ConnectionTrafficSecrets, ProtocolVersion,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
};

use super::fault::Fault;

const NEW_SESSION_TICKET: u8 = 4;
/// A `KeyUpdate` that does not request one in return, and one that does (RFC 8446 §4.6.3).
pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
pub(super) const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
/// The maximum length of a message after the handshake, in bytes: a ticket with its extensions.
const MAX_MESSAGE: usize = 1 << 17;

/// A connection after its handshake.
#[expect(clippy::large_enum_variant, reason = "nearly all connections over TLS are with clients")]
pub(crate) enum Role {
    Server(KernelConnection<ServerConnectionData>),
    Client(Box<Client>),
}

/// The client's end.
pub(crate) struct Client {
    kernel: KernelConnection<ClientConnectionData>,
    /// The start of a message whose end has not been received.
    partial: Vec<u8>,
}

/// What a handshake message requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    /// The peer's next record has new keys; `in_return` requests new ones from us.
    NewKeys {
        in_return: bool,
    },
}

/// The secrets of both directions, with the first sequence numbers.
pub(super) type Secrets = [(u64, ConnectionTrafficSecrets); 2];

/// A connection whose handshake rustls has completed.
pub(crate) trait Completed {
    /// Its keys for receiving and sending, and its role.
    fn take_over(self) -> Result<(Secrets, Role), rustls::Error>;
}

impl Completed for UnbufferedServerConnection {
    fn take_over(self) -> Result<(Secrets, Role), rustls::Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok(([secrets.rx, secrets.tx], Role::Server(kernel)))
    }
}

impl Completed for UnbufferedClientConnection {
    fn take_over(self) -> Result<(Secrets, Role), rustls::Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        let client = Client { kernel, partial: Vec::new() };
        Ok(([secrets.rx, secrets.tx], Role::Client(Box::new(client))))
    }
}

impl Role {
    pub(super) fn is_tls13(&self) -> bool {
        let version = match self {
            Self::Server(kernel) => kernel.protocol_version(),
            Self::Client(client) => client.kernel.protocol_version(),
        };
        version == ProtocolVersion::TLSv1_3
    }

    /// The next receiving keys.
    pub(super) fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(client) => client.kernel.update_rx_secret(),
        }
    }

    /// The next sending keys.
    pub(super) fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(client) => client.kernel.update_tx_secret(),
        }
    }

    /// Processes the handshake messages of a record. In TLS 1.2, it would be a renegotiation, which is not supported.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<Request, Fault> {
        match self {
            _ if !self.is_tls13() => Err(Fault::Unexpected),
            Self::Server(_) => key_update(bytes),
            Self::Client(client) => client.follow(bytes),
        }
    }
}

fn key_update(message: &[u8]) -> Result<Request, Fault> {
    if message != KEY_UPDATE && message != KEY_UPDATE_REQUESTED {
        return Err(Fault::Unexpected);
    }
    Ok(Request::NewKeys { in_return: message == KEY_UPDATE_REQUESTED })
}

impl Client {
    /// Session tickets may come at any time, several in a record or one in several (RFC 8446 §4.6.1, §5.1). A
    /// `KeyUpdate` ends its record.
    fn follow(&mut self, bytes: &[u8]) -> Result<Request, Fault> {
        self.partial.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(message) = first_message(&self.partial[start..]) {
            start += message.len();
            if message[0] != NEW_SESSION_TICKET {
                let is_last = start == self.partial.len();
                let request = if is_last { key_update(message) } else { Err(Fault::Unexpected) };
                self.partial = Vec::new();
                return request;
            }
            self.kernel.handle_new_session_ticket(&message[4..]).map_err(|_| Fault::Unexpected)?;
        }
        self.partial.drain(..start);
        self.partial.shrink_to_fit();
        if self.partial.len() > MAX_MESSAGE { Err(Fault::Overflow) } else { Ok(Request::Nothing) }
    }
}

/// The first message of a handshake, if all of it is there.
fn first_message(bytes: &[u8]) -> Option<&[u8]> {
    let &[_, high, middle, low] = bytes.first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
    bytes.get(..4 + length)
}
