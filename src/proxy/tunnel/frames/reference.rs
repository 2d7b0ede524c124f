//! Parses a stream of frames in two ways: with the tracker, and with tungstenite's parser plus the rules of RFC 6455.
//! Only for tests and fuzzing, which access it through the modules around it.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{self, Data, OpCode},
};

use super::{Extensions, Frames, MAX_CONTROL_PAYLOAD, MAX_INCOMPLETE, Opcode, Piece, Sender};

/// A part of the stream, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A data frame, and its end if that has arrived.
    Data { begin: usize, end: Option<usize> },
    /// A complete control frame, with its payload.
    Control { begin: usize, end: usize, opcode: Opcode, payload: Vec<u8> },
    /// The beginning of an incomplete frame.
    Incomplete { begin: usize },
    /// The beginning of a protocol violation.
    Broken { begin: usize },
}

/// The events that the tracker reports for a stream in these chunks.
///
/// # Panics
/// If the tracker breaks a promise.
pub(super) fn tracked<'a>(
    sender: Sender,
    extensions: Extensions,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Vec<Event> {
    let mut frames = Frames::new(sender, extensions);
    let (mut events, mut held, mut begin) = (Vec::new(), Vec::new(), 0);
    for chunk in chunks.filter(|chunk| !chunk.is_empty()) {
        held.extend(chunk);
        while !held.is_empty() {
            let was_at_boundary = frames.at_boundary();
            let piece = frames.next(&held);
            let length = match piece {
                Piece::Payload(length) | Piece::Data(length) => {
                    assert!(length > 0, "nothing was taken");
                    let end = frames.at_boundary().then_some(begin + length);
                    match events.last_mut() {
                        Some(Event::Data { end: unknown, .. }) if !was_at_boundary => *unknown = end,
                        _ => events.push(Event::Data { begin, end }),
                    }
                    assert_eq!(was_at_boundary, matches!(piece, Piece::Data(_)));
                    length
                }
                Piece::Control(control) => {
                    let (end, payload) = (begin + control.length, control.payload().to_vec());
                    events.push(Event::Control { begin, end, opcode: control.opcode, payload });
                    assert!(was_at_boundary && frames.at_boundary());
                    control.length
                }
                Piece::Incomplete => {
                    assert!(held.len() <= MAX_INCOMPLETE, "{} bytes are incomplete", held.len());
                    assert!(was_at_boundary && frames.at_boundary(), "what is incomplete is not taken");
                    break;
                }
                Piece::Broken => {
                    assert!(frames.is_broken() && !frames.at_boundary());
                    assert_eq!(frames.next(&[0x82, 0]), Piece::Broken, "for good");
                    events.push(Event::Broken { begin });
                    return events;
                }
            };
            held.drain(..length);
            begin += length;
        }
    }
    if !held.is_empty() {
        events.push(Event::Incomplete { begin });
    }
    events
}

/// The events according to tungstenite and the rules.
pub(super) fn told(sender: Sender, extensions: Extensions, bytes: &[u8]) -> Vec<Event> {
    let (mut events, mut begin) = (Vec::new(), 0);
    while begin < bytes.len() {
        let (event, next) = first(sender, extensions, begin, &bytes[begin..]);
        events.push(event);
        match next {
            Some(next) => begin = next,
            None => break,
        }
    }
    events
}

/// The first event and where the next one begins, if there may be one.
fn first(sender: Sender, extensions: Extensions, begin: usize, bytes: &[u8]) -> (Event, Option<usize>) {
    // tungstenite parses complete headers only, so the missing part of this one is filled in as favourably as possible.
    let mut whole = bytes[..bytes.len().min(MAX_INCOMPLETE)].to_vec();
    if whole.len() == 1 {
        whole.push(if sender == Sender::Client { 0x80 } else { 0 });
    }
    whole.extend([0; 14]);
    // It does not know extensions either, so an opcode that only an extension defines is parsed as another of its kind.
    let reserved = matches!(whole[0] & 0x0f, 3..=7 | 11..=15);
    if reserved && extensions == Extensions::Unknown {
        whole[0] = whole[0] & 0xf8 | 2;
    }
    let mut cursor = Cursor::new(&whole);
    let Ok(parsed) = FrameHeader::parse(&mut cursor) else { return (Event::Broken { begin }, None) };
    let (header, length) = parsed.expect("made long enough");
    let header_length = usize::try_from(cursor.position()).unwrap();
    let has_header = bytes.len() >= header_length;
    let length_end = header_length - if header.mask.is_some() { 4 } else { 0 };
    let is_control = matches!(header.opcode, OpCode::Control(_));
    let rules = [
        header.mask.is_some() == (sender == Sender::Client),
        !is_control || header.is_final,
        !is_control || length <= MAX_CONTROL_PAYLOAD as u64 && length_end == 2,
        rsv_allowed(&header, extensions),
        length >> 63 == 0 || bytes.len() < length_end,
    ];
    if rules.contains(&false) {
        return (Event::Broken { begin }, None);
    }
    if !has_header {
        return (Event::Incomplete { begin }, None);
    }
    let frame_length = usize::try_from(length).ok().and_then(|length| length.checked_add(header_length));
    let end = frame_length.filter(|length| *length <= bytes.len()).map(|length| begin + length);
    let OpCode::Control(control) = header.opcode else { return (Event::Data { begin, end }, end) };
    let Some(end) = end else { return (Event::Incomplete { begin }, None) };
    let key = header.mask.unwrap_or_default();
    let masked = &bytes[header_length..end - begin];
    let payload = masked.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]).collect();
    let opcode = match control {
        _ if reserved => Opcode::Reserved,
        coding::Control::Close => Opcode::Close,
        coding::Control::Ping => Opcode::Ping,
        coding::Control::Pong => Opcode::Pong,
        coding::Control::Reserved(_) => unreachable!("refused by the parser"),
    };
    (Event::Control { begin, end, opcode, payload }, Some(end))
}

/// RSV1 marks a message as compressed, on its first frame (RFC 7692 §6).
fn rsv_allowed(header: &FrameHeader, extensions: Extensions) -> bool {
    let begins_message = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
    match extensions {
        Extensions::Unknown => true,
        Extensions::Deflate if begins_message => !header.rsv2 && !header.rsv3,
        _ => !header.rsv1 && !header.rsv2 && !header.rsv3,
    }
}
