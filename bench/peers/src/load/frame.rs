//! The part of RFC 6455 §5.2 that an echo needs: single binary frames.

/// A binary frame that ends its message.
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;

/// The head of a frame.
pub(crate) struct Head {
    /// Its own length, including the mask.
    pub length: usize,
    pub payload: usize,
    pub mask: Option<[u8; 4]>,
}

impl Head {
    /// Parses a head; `None` if it is incomplete.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let second = *bytes.get(1)?;
        let (at, payload) = match second & !MASKED {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
            short => (2, usize::from(short)),
        };
        if second & MASKED == 0 {
            return Some(Self { length: at, payload, mask: None });
        }
        let mask = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(Self { length: at + 4, payload, mask: Some(mask) })
    }
}

/// The head of an unmasked frame.
pub(crate) fn head(payload: usize) -> Vec<u8> {
    let mut head = vec![BINARY];
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(length @ ..126), _) => head.push(length),
        (_, Ok(length)) => {
            head.push(126);
            head.extend(length.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((payload as u64).to_be_bytes());
        }
    }
    head
}

/// A masked frame, as sent by a client.
pub(crate) fn masked(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = head(payload.len());
    frame[1] |= MASKED;
    frame.extend(mask);
    let start = frame.len();
    frame.extend(payload);
    apply(mask, &mut frame[start..]);
    frame
}

/// At most this many bytes of a message that does not end: empty fragments, masked.
pub(crate) fn fragments(bytes: usize) -> Vec<u8> {
    [0, MASKED, 0x5a, 0xc3, 0x17, 0x88].repeat(bytes / 6)
}

/// The first fragment of that message, without its end.
pub(crate) fn first_fragment() -> Vec<u8> {
    vec![BINARY & !0x80, MASKED, 0x5a, 0xc3, 0x17, 0x88]
}

/// Masks or unmasks.
pub(crate) fn apply(mask: [u8; 4], payload: &mut [u8]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}
