//! Where the frames of one direction begin and end (RFC 6455 §5.2). Pure, and without a buffer: the caller keeps the
//! few bytes that could not be parsed yet and passes them again with more.
//!
//! Data payload is skipped without being examined. Headers are validated, and control frames are returned whole.

/// The frames of one direction.
#[derive(Debug)]
pub struct Frames {
    sender: Sender,
    extensions: Extensions,
    /// The number of payload bytes of the current data frame that are still to come.
    left: u64,
    broken: bool,
}

/// The sender, which determines whether frames are masked (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client, which masks every frame.
    Client,
    /// The server, which masks none.
    Server,
}

/// The negotiated extensions, which determine the reserved bits that may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extensions {
    /// Nothing.
    None,
    /// permessage-deflate (RFC 7692): RSV1 on the first frame of a message.
    Deflate,
    /// Anything that may define any reserved bit or opcode.
    Unknown,
}

/// The opcode of a control frame (RFC 6455 §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// The last frame of its sender.
    Close,
    /// A request for a pong with the same payload.
    Ping,
    /// The answer to a ping, or unsolicited.
    Pong,
    /// One that only an extension can define.
    Reserved,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This many bytes of payload, of a data frame whose header came earlier.
    Payload(usize),
    /// The header of a data frame, and as much of its payload as is available: this many bytes in total.
    Data(usize),
    /// A whole control frame.
    Control(Control),
    /// An incomplete header or control frame. To be passed again with more, from its first byte.
    Incomplete,
    /// A protocol violation. From here on, frames in this direction cannot be recognised.
    Broken,
}

/// A whole control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its opcode.
    pub opcode: Opcode,
    /// Its length including the header, in bytes.
    pub length: usize,
    payload: [u8; MAX_CONTROL_PAYLOAD],
    payload_length: usize,
}

/// The maximum payload of a control frame in bytes (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;
/// The maximum length of an incomplete piece: a masked control frame.
pub const MAX_INCOMPLETE: usize = 2 + MASK + MAX_CONTROL_PAYLOAD;
const MASK: usize = 4;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const LAST_DATA_OPCODE: u8 = 2;
const FIRST_CONTROL_OPCODE: u8 = 8;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Frames {
    /// A direction in which nothing has been sent yet.
    #[must_use]
    pub fn new(sender: Sender, extensions: Extensions) -> Self {
        Self { sender, extensions, left: 0, broken: false }
    }

    /// The sender.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.sender
    }

    /// Whether everything taken so far ends with a complete frame, so that another may follow.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.left == 0 && !self.broken
    }

    /// Whether the sender has violated the protocol.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the piece at the start of these bytes, which must not be empty.
    pub fn next(&mut self, bytes: &[u8]) -> Piece {
        if self.broken {
            return Piece::Broken;
        }
        if self.left > 0 {
            return Piece::Payload(self.take_payload(bytes.len()));
        }
        self.next_frame(bytes).unwrap_or(Piece::Incomplete)
    }

    /// Takes as many bytes of the current frame as are available.
    fn take_payload(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.left).map_or(available, |left| left.min(available));
        self.left -= taken as u64;
        taken
    }

    /// `None` if more bytes are needed.
    fn next_frame(&mut self, bytes: &[u8]) -> Option<Piece> {
        let first = *bytes.first()?;
        if !self.allows(first) {
            return Some(self.break_off());
        }
        let second = *bytes.get(1)?;
        let masked = second & 0x80 != 0;
        if masked != (self.sender == Sender::Client) {
            return Some(self.break_off());
        }
        let short = usize::from(second & 0x7f);
        if first & OPCODE >= FIRST_CONTROL_OPCODE {
            return if short > MAX_CONTROL_PAYLOAD { Some(self.break_off()) } else { control(bytes, masked, short) };
        }
        let (length, length_end) = match short {
            126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            short => (short as u64, 2),
        };
        // The most significant bit must be 0 (RFC 6455 §5.2).
        if length > i64::MAX as u64 {
            return Some(self.break_off());
        }
        let header = length_end + if masked { MASK } else { 0 };
        let available = bytes.len().checked_sub(header)?;
        self.left = length;
        Some(Piece::Data(header + self.take_payload(available)))
    }

    /// Whether the first byte of a frame is allowed.
    fn allows(&self, first: u8) -> bool {
        let opcode = first & OPCODE;
        let is_control = opcode >= FIRST_CONTROL_OPCODE;
        if is_control && first & FIN == 0 {
            return false;
        }
        let known = if is_control { opcode <= PONG } else { opcode <= LAST_DATA_OPCODE };
        let rsv = match self.extensions {
            Extensions::Unknown => return true,
            Extensions::Deflate if !is_control && opcode != CONTINUATION => RSV1,
            _ => 0,
        };
        known && first & RSV & !rsv == 0
    }

    fn break_off(&mut self) -> Piece {
        self.broken = true;
        Piece::Broken
    }
}

fn control(bytes: &[u8], masked: bool, payload_length: usize) -> Option<Piece> {
    let start = if masked { 2 + MASK } else { 2 };
    let length = start + payload_length;
    let mut payload = [0; MAX_CONTROL_PAYLOAD];
    payload[..payload_length].copy_from_slice(bytes.get(start..length)?);
    if masked {
        mask(&mut payload[..payload_length], *bytes[2..].first_chunk()?);
    }
    let opcode = match bytes[0] & OPCODE {
        CLOSE => Opcode::Close,
        PING => Opcode::Ping,
        PONG => Opcode::Pong,
        _ => Opcode::Reserved,
    };
    Some(Piece::Control(Control { opcode, length, payload, payload_length }))
}

/// Masks or unmasks (RFC 6455 §5.3).
fn mask(payload: &mut [u8], key: [u8; MASK]) {
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

impl Control {
    /// Its payload, unmasked.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload[..self.payload_length]
    }

    /// The status code of a Close that has one (RFC 6455 §5.5.1).
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        if self.opcode == Opcode::Close { self.payload().first_chunk().copied().map(u16::from_be_bytes) } else { None }
    }
}

/// A control frame to send, masked with this key if it goes to a server.
///
/// # Panics
/// If the payload is longer than [`MAX_CONTROL_PAYLOAD`].
#[must_use]
pub fn control_frame(opcode: Opcode, payload: &[u8], key: Option<[u8; MASK]>) -> Vec<u8> {
    assert!(payload.len() <= MAX_CONTROL_PAYLOAD, "{} bytes in a control frame", payload.len());
    let opcode = match opcode {
        Opcode::Close => CLOSE,
        Opcode::Ping => PING,
        Opcode::Pong => PONG,
        Opcode::Reserved => unreachable!("we use no extension"),
    };
    let length = u8::try_from(payload.len()).expect("checked above");
    let mut frame = vec![FIN | opcode, length | if key.is_some() { 0x80 } else { 0 }];
    frame.extend(key.iter().flatten());
    let start = frame.len();
    frame.extend(payload);
    if let Some(key) = key {
        mask(&mut frame[start..], key);
    }
    frame
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
