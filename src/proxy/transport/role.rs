//! Which end of a connection the records belong to. rustls keeps what is needed for new keys, and knows which messages of
//! its handshake may come later.

use rustls::{
    ConnectionTrafficSecrets, ProtocolVersion,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
};

use super::fault::Fault;

const NEW_SESSION_TICKET: u8 = 4;
/// A `KeyUpdate` without and with the wish for one in return (RFC 8446 §4.6.3).
pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
pub(super) const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
/// The longest message of a handshake behind its end, in bytes: a ticket of the maximum length, with its extensions.
const MAX_MESSAGE: usize = 1 << 17;

/// A connection behind its handshake, as rustls sees it.
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

/// What a message of the handshake asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    /// The peer's next record has new keys. Whether it wants new ones of us as well.
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

    /// New keys for what is received.
    pub(super) fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(client) => client.kernel.update_rx_secret(),
        }
    }

    /// New keys for what is sent.
    pub(super) fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(client) => client.kernel.update_tx_secret(),
        }
    }

    /// Follows what a record has of the handshake. In TLS 1.2 it would be a renegotiation, which nobody needs.
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
