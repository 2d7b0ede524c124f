//! Protects records after a TLS handshake by rustls, with the negotiated keys (RFC 8446 §5, RFC 5246 §6.2). Pure: bytes
//! in, bytes out, and the caller owns all buffers, so a silent connection holds none.
//!
//! The decision record on TLS explains why this is not left to rustls.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{
    ConnectionTrafficSecrets,
    crypto::cipher::{AeadKey, Iv},
};

use super::{
    fault::Fault,
    role::{Completed, KEY_UPDATE, Request, Role},
};

/// The maximum length of a record on the wire: TLS 1.2 allows more expansion than TLS 1.3.
pub(crate) const MAX_RECORD: usize = HEADER + MAX_FRAGMENT + 2048;
const HEADER: usize = 5;
/// The maximum payload of a record.
const MAX_FRAGMENT: usize = 1 << 14;
const TAG: usize = 16;
const EXPLICIT_NONCE: usize = 8;
/// The maximum overhead of a record.
const OVERHEAD: usize = HEADER + EXPLICIT_NONCE + 1 + TAG;
/// The maximum number of bytes protected by one key: AES-GCM allows 2^24.5 full-size records (RFC 8446 §5.5), of which
/// less than half is used.
const KEY_LIMIT: u64 = 1 << 37;
/// The maximum number of consecutive records without payload, as in `BoringSSL`. New keys in particular cost far more
/// than the few bytes that request them.
const MAX_WITHOUT_PAYLOAD: u8 = 32;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// The version in the headers of records of both versions.
const LEGACY_VERSION: [u8; 2] = [3, 3];

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The number of bytes that [`Records::seal`] needs for `plain` bytes of payload.
pub(crate) const fn sealed_length(plain: usize) -> usize {
    let records = plain / MAX_FRAGMENT + 1;
    // A `KeyUpdate` may precede them.
    plain + records * OVERHEAD + KEY_UPDATE.len() + OVERHEAD
}

/// The result of opening received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The number of bytes of complete records, which have been processed.
    pub consumed: usize,
    /// The length of the payload, which starts at the beginning of the output.
    pub payload: usize,
    /// The number of records in those bytes.
    pub records: usize,
    /// Why nothing follows that payload: the peer has closed, or an error.
    pub end: Option<Result<(), Fault>>,
}

/// The content of a record.
enum Content {
    Payload(usize),
    /// Nothing for the receiver.
    Nothing,
    /// The end of what the peer sends.
    Close,
}

/// Both directions of a connection after its handshake.
pub(crate) struct Records {
    opening: Key,
    sealing: Key,
    is_tls13: bool,
    /// The number of bytes protected with the current key.
    sealed: u64,
    /// Whether the peer has requested new keys that have not been sent.
    owes_key_update: bool,
    /// The number of records since the last one with payload.
    without_payload: u8,
    role: Role,
}

impl Records {
    /// Takes over after a handshake that is complete and has nothing left to send.
    pub(crate) fn take_over(connection: impl Completed) -> Result<Self, rustls::Error> {
        let ([receiving, sending], role) = connection.take_over()?;
        let is_tls13 = role.is_tls13();
        let key = |(sequence, secrets): (u64, ConnectionTrafficSecrets)| Key::new(sequence, &secrets, is_tls13);
        let (opening, sealing) = (key(receiving)?, key(sending)?);
        Ok(Self { opening, sealing, is_tls13, sealed: 0, owes_key_update: false, without_payload: 0, role })
    }

    /// The version's label.
    pub(crate) fn version(&self) -> &'static str {
        if self.is_tls13 { "TLSv1.3" } else { "TLSv1.2" }
    }

    /// Opens the complete records at the start of `wire`. `room` must be at least as long.
    pub(crate) fn open(&mut self, wire: &[u8], room: &mut [u8]) -> Opened {
        let mut opened = Opened::default();
        while opened.end.is_none() {
            let record = match first_record(&wire[opened.consumed..]) {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(fault) => {
                    opened.end = Some(Err(fault));
                    break;
                }
            };
            opened.consumed += record.len();
            opened.records += 1;
            match self.open_record(record, &mut room[opened.payload..]) {
                Ok(Content::Payload(length)) => opened.payload += length,
                Ok(Content::Nothing) => {}
                Ok(Content::Close) => opened.end = Some(Ok(())),
                Err(fault) => opened.end = Some(Err(fault)),
            }
        }
        opened
    }

    fn open_record(&mut self, record: &[u8], room: &mut [u8]) -> Result<Content, Fault> {
        let (content, length) = self.opening.open(record, room, self.is_tls13)?;
        let content_bytes = &room[..length];
        let content = match content {
            APPLICATION_DATA => Content::Payload(length),
            ALERT => self.judge_alert(content_bytes)?,
            HANDSHAKE => self.follow_handshake(content_bytes).map(|()| Content::Nothing)?,
            _ => return Err(Fault::Unexpected),
        };
        self.count_payload(&content)?;
        Ok(content)
    }

    fn count_payload(&mut self, content: &Content) -> Result<(), Fault> {
        self.without_payload =
            if matches!(content, Content::Payload(1..)) { 0 } else { self.without_payload.saturating_add(1) };
        if self.without_payload > MAX_WITHOUT_PAYLOAD { Err(Fault::Unexpected) } else { Ok(()) }
    }

    fn judge_alert(&self, alert: &[u8]) -> Result<Content, Fault> {
        match *alert {
            [_, CLOSE_NOTIFY] => Ok(Content::Close),
            [_, USER_CANCELED] => Ok(Content::Nothing),
            [WARNING, _] if !self.is_tls13 => Ok(Content::Nothing),
            [_, description] => Err(Fault::Alert(description)),
            _ => Err(Fault::Unexpected),
        }
    }

    fn follow_handshake(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let Request::NewKeys { in_return } = self.role.follow(bytes)? else { return Ok(()) };
        let (sequence, secrets) = self.role.next_receiving().map_err(|_| Fault::Unexpected)?;
        self.opening = Key::new(sequence, &secrets, true).map_err(|_| Fault::Unexpected)?;
        self.owes_key_update |= in_return;
        Ok(())
    }

    /// Protects payload. Returns how much of `room` was used, which must have [`sealed_length`] bytes.
    pub(crate) fn seal(&mut self, payload: &[u8], room: &mut [u8]) -> Result<usize, Fault> {
        let mut length = self.update_key(room)?;
        for fragment in payload.chunks(MAX_FRAGMENT) {
            length += self.seal_record(APPLICATION_DATA, fragment, &mut room[length..])?;
        }
        Ok(length)
    }

    /// The proxy's last record.
    pub(crate) fn seal_close_notify(&mut self) -> Result<Vec<u8>, Fault> {
        self.seal_alert(WARNING, CLOSE_NOTIFY)
    }

    /// The alert that tells the peer about a fault, if there is one.
    pub(crate) fn seal_fault(&mut self, fault: Fault) -> Option<Vec<u8>> {
        self.seal_alert(FATAL, fault.alert()?).ok()
    }

    fn seal_alert(&mut self, level: u8, description: u8) -> Result<Vec<u8>, Fault> {
        let mut room = vec![0; sealed_length(2)];
        let length = self.seal_record(ALERT, &[level, description], &mut room)?;
        room.truncate(length);
        Ok(room)
    }

    /// Changes the key if the peer has requested it, or if the current one has reached its limit.
    fn update_key(&mut self, room: &mut [u8]) -> Result<usize, Fault> {
        if self.sealed < KEY_LIMIT && !self.owes_key_update {
            return Ok(0);
        }
        if !self.is_tls13 {
            return Err(Fault::Exhausted);
        }
        let length = self.seal_record(HANDSHAKE, &KEY_UPDATE, room)?;
        let (sequence, secrets) = self.role.next_sending().map_err(|_| Fault::Exhausted)?;
        self.sealing = Key::new(sequence, &secrets, true).map_err(|_| Fault::Exhausted)?;
        (self.sealed, self.owes_key_update) = (0, false);
        Ok(length)
    }

    fn seal_record(&mut self, content: u8, payload: &[u8], room: &mut [u8]) -> Result<usize, Fault> {
        let length = self.sealing.seal(content, payload, room, self.is_tls13)?;
        self.sealed += length as u64;
        Ok(length)
    }
}

/// The first record, if it is complete.
fn first_record(wire: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some(&[_, _, _, high, low]) = wire.first_chunk() else { return Ok(None) };
    let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_RECORD { Err(Fault::Overflow) } else { Ok(wire.get(..length)) }
}

/// The key of one direction.
struct Key {
    aead: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    /// Whether part of the nonce is sent in the record (RFC 5288 §3).
    explicit_nonce: bool,
}

impl Key {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets, is_tls13: bool) -> Result<Self, rustls::Error> {
        let (algorithm, key, iv, is_gcm): (_, &AeadKey, &Iv, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, false),
            _ => return Err(rustls::Error::General("a cipher that is not known".into())),
        };
        let wrong = || rustls::Error::General("a key or a nonce of the wrong length".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| wrong())?;
        let iv = iv.as_ref().try_into().map_err(|_| wrong())?;
        Ok(Self { aead: LessSafeKey::new(key), iv, sequence, explicit_nonce: is_gcm && !is_tls13 })
    }

    /// The nonce of the current record (RFC 8446 §5.3); rustls computes those of TLS 1.2 in the same way.
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, sequence)| *byte ^= sequence);
        nonce
    }

    /// Advances the sequence number, which must not repeat.
    fn count(&mut self) -> Result<(), Fault> {
        self.sequence = self.sequence.checked_add(1).ok_or(Fault::Exhausted)?;
        Ok(())
    }

    /// The additional data of TLS 1.2, with the type and the version from the record's header (RFC 5246 §6.2.3.3).
    fn additional(&self, header: &[u8], length: usize) -> Result<[u8; 13], Fault> {
        let mut additional = [0; 13];
        additional[..8].copy_from_slice(&self.sequence.to_be_bytes());
        additional[8..11].copy_from_slice(&header[..3]);
        additional[11..].copy_from_slice(&u16::try_from(length).map_err(|_| Fault::Overflow)?.to_be_bytes());
        Ok(additional)
    }

    /// Opens a complete record; returns its content type and the length of its payload.
    fn open(&mut self, record: &[u8], room: &mut [u8], is_tls13: bool) -> Result<(u8, usize), Fault> {
        let (header, mut body) = record.split_at(HEADER);
        let content = header[0];
        if is_tls13 && content != APPLICATION_DATA || content == CHANGE_CIPHER_SPEC {
            return Err(Fault::Unexpected);
        }
        let mut nonce = self.nonce();
        if self.explicit_nonce {
            let (explicit, rest) = body.split_first_chunk::<EXPLICIT_NONCE>().ok_or(Fault::BadMac)?;
            nonce[4..].copy_from_slice(explicit);
            body = rest;
        }
        let (sealed, tag) = body.split_last_chunk::<TAG>().ok_or(Fault::BadMac)?;
        let length = sealed.len();
        let allowed = if is_tls13 { MAX_FRAGMENT + 1 } else { MAX_FRAGMENT };
        if length > allowed {
            return Err(Fault::Overflow);
        }
        let room = &mut room[..length];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = if is_tls13 {
            self.aead.open_separate_gather(nonce, Aad::from(header), sealed, tag, room)
        } else {
            let additional = self.additional(header, length)?;
            self.aead.open_separate_gather(nonce, Aad::from(additional), sealed, tag, room)
        };
        opened.map_err(|_| Fault::BadMac)?;
        self.count()?;
        if is_tls13 { inner_content(room) } else { Ok((content, length)) }
    }

    /// Seals one fragment; returns the length of the record.
    fn seal(&mut self, content: u8, payload: &[u8], room: &mut [u8], is_tls13: bool) -> Result<usize, Fault> {
        let nonce = self.nonce();
        let (explicit, trailer) = match (is_tls13, self.explicit_nonce) {
            (true, _) => (0, 1 + TAG),
            (false, true) => (EXPLICIT_NONCE, TAG),
            (false, false) => (0, TAG),
        };
        let record = HEADER + explicit + payload.len() + trailer;
        let (header, body) = room[..record].split_at_mut(HEADER);
        let length = u16::try_from(record - HEADER).map_err(|_| Fault::Overflow)?;
        header[0] = if is_tls13 { APPLICATION_DATA } else { content };
        header[1..3].copy_from_slice(&LEGACY_VERSION);
        header[3..].copy_from_slice(&length.to_be_bytes());
        let (sent_nonce, body) = body.split_at_mut(explicit);
        sent_nonce.copy_from_slice(&nonce[12 - explicit..]);
        let (out, trailer) = body.split_at_mut(payload.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = if is_tls13 {
            self.aead.seal_out_of_place_scatter(nonce, Aad::from(&*header), payload, out, &[content], trailer)
        } else {
            let additional = self.additional(header, payload.len())?;
            self.aead.seal_out_of_place_scatter(nonce, Aad::from(additional), payload, out, &[], trailer)
        };
        sealed.map_err(|_| Fault::Exhausted)?;
        self.count()?;
        Ok(record)
    }
}

/// Removes what TLS 1.3 appends to the payload: its type, then zeros (RFC 8446 §5.4).
fn inner_content(inner: &[u8]) -> Result<(u8, usize), Fault> {
    let end = inner.iter().rposition(|byte| *byte != 0).ok_or(Fault::Unexpected)?;
    Ok((inner[end], end))
}

#[cfg(test)]
pub(crate) mod peer;
#[cfg(test)]
mod tests;
