use std::io::Cursor;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader, coding::OpCode};

use super::{
    reference::{Event, told, tracked},
    *,
};

const SENDERS: [Sender; 2] = [Sender::Client, Sender::Server];
const EXTENSIONS: [Extensions; 3] = [Extensions::None, Extensions::Deflate, Extensions::Unknown];
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as tungstenite writes it.
fn frame(sender: Sender, first: u8, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        is_final: first & FIN != 0,
        rsv1: first & 0x40 != 0,
        rsv2: first & 0x20 != 0,
        rsv3: first & 0x10 != 0,
        opcode: OpCode::from(first & OPCODE),
        mask: (sender == Sender::Client).then_some(KEY),
    };
    let mut frame = Vec::new();
    Frame::from_payload(header, Bytes::copy_from_slice(payload)).format(&mut frame).unwrap();
    frame
}

fn first_piece(sender: Sender, extensions: Extensions, bytes: &[u8]) -> Piece {
    Frames::new(sender, extensions).next(bytes)
}

fn is_broken(extensions: Extensions, bytes: &[u8]) -> bool {
    first_piece(Sender::Server, extensions, bytes) == Piece::Broken
}

#[test]
fn data_frames_end_where_their_length_says() {
    for sender in SENDERS {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            for opcode in 0..=2 {
                let bytes = frame(sender, FIN | opcode, &vec![0xab; length]);
                let mut frames = Frames::new(sender, Extensions::None);
                assert_eq!(frames.next(&bytes), Piece::Data(bytes.len()), "{sender:?} {opcode} {length}");
                assert!(frames.at_boundary());
            }
        }
    }
}

#[test]
fn payload_is_counted_over_as_many_reads_as_it_takes() {
    let mut frames = Frames::new(Sender::Server, Extensions::None);
    assert_eq!(frames.next(&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2]), Piece::Data(12));
    assert!(!frames.at_boundary());
    let chunk = vec![0; 1 << 20];
    for _ in 1..1 << 12 {
        assert_eq!(frames.next(&chunk), Piece::Payload(1 << 20));
    }
    assert_eq!(frames.next(&chunk), Piece::Payload((1 << 20) - 2));
    assert!(frames.at_boundary());
    assert_eq!(frames.next(&[0x82, 0, 0x82]), Piece::Data(2));
}

#[test]
fn the_longest_frame_has_a_length_of_63_bits() {
    let header = |high: u8| [&[0x82, 127, high][..], &[0xff; 7]].concat();
    assert_eq!(first_piece(Sender::Server, Extensions::None, &header(0x7f)), Piece::Data(10));
    assert!(is_broken(Extensions::Unknown, &header(0x80)));
    assert!(is_broken(Extensions::None, &header(0xff)));
}

#[test]
fn only_clients_mask_and_always() {
    for extensions in EXTENSIONS {
        for opcode in [0, 1, 2, 8, 9, 10] {
            for (sender, other) in [(Sender::Client, Sender::Server), (Sender::Server, Sender::Client)] {
                let bytes = frame(sender, FIN | opcode, b"payload");
                assert_ne!(first_piece(sender, extensions, &bytes), Piece::Broken);
                assert_eq!(first_piece(other, extensions, &bytes), Piece::Broken, "{other:?} {opcode}");
            }
        }
    }
}

#[test]
fn reserved_bits_need_an_extension() {
    let allowed = |extensions, first| !is_broken(extensions, &[first, 0]);
    for opcode in [0, 1, 2, 8, 9, 10] {
        for rsv in [0x40, 0x20, 0x10, 0x70] {
            let first = FIN | rsv | opcode;
            assert!(!allowed(Extensions::None, first), "{first:x}");
            let compressed = rsv == 0x40 && (opcode == 1 || opcode == 2);
            assert_eq!(allowed(Extensions::Deflate, first), compressed, "{first:x}");
            assert!(allowed(Extensions::Unknown, first), "{first:x}");
        }
    }
}

#[test]
fn reserved_opcodes_need_an_unknown_extension() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert!(is_broken(Extensions::None, &[FIN | opcode]));
        assert!(is_broken(Extensions::Deflate, &[FIN | opcode]));
        let piece = first_piece(Sender::Server, Extensions::Unknown, &[FIN | opcode, 1, 2]);
        match piece {
            Piece::Data(length) => assert!(opcode < 8 && length == 3),
            Piece::Control(control) => {
                assert!(opcode > 8);
                assert_eq!((control.opcode, control.payload()), (Opcode::Reserved, &[2][..]));
            }
            _ => panic!("{opcode}: {piece:?}"),
        }
    }
}

#[test]
fn control_frames_are_final_and_short() {
    for extensions in EXTENSIONS {
        for opcode in 8..=10 {
            assert!(is_broken(extensions, &[opcode]), "not the last of its message");
            assert!(is_broken(extensions, &[FIN | opcode, 126]), "before the length is there");
            assert!(is_broken(extensions, &[FIN | opcode, 127]));
            assert_eq!(first_piece(Sender::Server, extensions, &[FIN | opcode, 125]), Piece::Incomplete);
        }
    }
}

#[test]
fn control_frames_are_given_whole_and_unmasked() {
    let payload: Vec<u8> = (0..125).collect();
    for sender in SENDERS {
        for (code, opcode) in [(8, Opcode::Close), (9, Opcode::Ping), (10, Opcode::Pong)] {
            for length in [0, 1, 2, 3, 4, 5, 124, 125] {
                let bytes = frame(sender, FIN | code, &payload[..length]);
                for cut in 0..bytes.len() {
                    assert_eq!(first_piece(sender, Extensions::None, &bytes[..cut]), Piece::Incomplete);
                }
                let more = [&bytes[..], &[0xff; 8]].concat();
                let Piece::Control(control) = first_piece(sender, Extensions::None, &more) else { panic!() };
                assert_eq!((control.opcode, control.length), (opcode, bytes.len()));
                assert_eq!(control.payload(), &payload[..length]);
            }
        }
    }
}

#[test]
fn the_longest_incomplete_piece_is_one_byte_short_of_a_control_frame() {
    let bytes = frame(Sender::Client, FIN | PING, &[1; 125]);
    assert_eq!(bytes.len(), MAX_INCOMPLETE);
    let last = &bytes[..MAX_INCOMPLETE - 1];
    assert_eq!(first_piece(Sender::Client, Extensions::None, last), Piece::Incomplete);
}

#[test]
fn a_close_has_a_code_if_there_is_room_for_one() {
    let code = |opcode, payload: &[u8]| {
        let piece = first_piece(Sender::Client, Extensions::None, &frame(Sender::Client, FIN | opcode, payload));
        let Piece::Control(control) = piece else { panic!("{piece:?}") };
        control.close_code()
    };
    assert_eq!(code(CLOSE, b""), None);
    assert_eq!(code(CLOSE, &[3]), None);
    assert_eq!(code(CLOSE, &[0x03, 0xe8]), Some(1000));
    assert_eq!(code(CLOSE, b"\x0f\xa0reason"), Some(4000));
    assert_eq!(code(PING, &[0x03, 0xe8]), None);
}

#[test]
fn control_frames_may_stand_between_the_frames_of_a_message() {
    let frames = [(0x01, "begin"), (0x89, "ping"), (0x00, ""), (0x8a, "pong"), (0x80, "end")];
    let bytes = frames.map(|(first, payload)| frame(Sender::Client, first, payload.as_bytes())).concat();
    let events = tracked(Sender::Client, Extensions::None, [&bytes[..]].into_iter());
    let is_control = |event: &Event| matches!(event, Event::Control { .. });
    assert_eq!(events.iter().map(is_control).collect::<Vec<_>>(), [false, true, false, true, false]);
    assert_eq!(events.last(), Some(&Event::Data { begin: bytes.len() - 9, end: Some(bytes.len()) }));
}

#[test]
fn a_broken_direction_stays_broken() {
    let mut frames = Frames::new(Sender::Server, Extensions::None);
    assert_eq!(frames.next(&[0x83, 0]), Piece::Broken);
    assert_eq!(frames.next(&[0x82, 0]), Piece::Broken);
    assert!(frames.is_broken() && !frames.at_boundary());
}

#[test]
#[should_panic(expected = "126 bytes in a control frame")]
fn no_control_frame_is_made_longer_than_it_may_be() {
    let _ = control_frame(Opcode::Ping, &[0; 126], None);
}

fn sender() -> impl Strategy<Value = Sender> {
    select(&SENDERS)
}

fn extensions() -> impl Strategy<Value = Extensions> {
    select(&EXTENSIONS)
}

fn payload_length() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0..140_usize, 1 => Just(65_535), 1 => Just(65_536), 1 => Just(70_000)]
}

/// Frames that any peer may send: the first byte, and the length of the payload.
fn valid_frames() -> impl Strategy<Value = Vec<(u8, usize)>> {
    let data = (select(&[0x00, 0x80, 0x01, 0x81, 0x02, 0x82][..]), payload_length());
    let control = (select(&[0x88, 0x89, 0x8a][..]), 0..=MAX_CONTROL_PAYLOAD);
    vec(prop_oneof![data, control], 0..8)
}

fn stream(sender: Sender, frames: &[(u8, usize)]) -> Vec<u8> {
    let frames = frames.iter().map(|(first, length)| frame(sender, *first, &vec![*first; *length]));
    frames.collect::<Vec<_>>().concat()
}

/// These bytes in chunks of these sizes, repeated as needed.
fn chunks<'a>(mut bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    sizes.iter().cycle().map_while(move |size| {
        let (chunk, rest) = bytes.split_at_checked(*size).unwrap_or((bytes, &[]));
        bytes = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..4_usize, 1..40_usize, 1..20_000_usize], 1..12)
}

/// Bytes that often look like frames, so that parsing gets beyond the first.
fn frame_like() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![6 => select(&[0x00, 0x81, 0x82, 0xc1, 0x88, 0x89, 0x8a][..]), 1 => any::<u8>()];
    let second = prop_oneof![0..130_u8, 0x80..=0xff_u8];
    let head = (first, second, vec(prop_oneof![Just(0), 0..4_u8, any::<u8>()], 0..160));
    let part = head.prop_map(|(first, second, rest)| [&[first, second][..], &rest].concat());
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn valid_frames_are_found_however_they_are_split(
        sender in sender(), extensions in extensions(), frames in valid_frames(), sizes in sizes(),
    ) {
        let bytes = stream(sender, &frames);
        let at_once = tracked(sender, extensions, [&bytes[..]].into_iter());
        prop_assert_eq!(at_once.len(), frames.len());
        prop_assert_eq!(&at_once, &told(sender, extensions, &bytes));
        prop_assert_eq!(at_once, tracked(sender, extensions, chunks(&bytes, &sizes)));
    }

    #[test]
    fn a_flipped_bit_is_judged_alike_however_it_is_split(
        sender in sender(), extensions in extensions(), frames in valid_frames(), sizes in sizes(),
        at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let mut bytes = stream(sender, &frames);
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len().min(400));
        bytes[at] ^= 1_u8 << bit;
        let expected = told(sender, extensions, &bytes);
        prop_assert_eq!(&expected, &tracked(sender, extensions, [&bytes[..]].into_iter()));
        prop_assert_eq!(expected, tracked(sender, extensions, chunks(&bytes, &sizes)));
    }

    #[test]
    fn any_bytes_are_judged_alike_however_they_are_split(
        sender in sender(), extensions in extensions(), bytes in prop_oneof![frame_like(), vec(any::<u8>(), 0..300)],
        sizes in sizes(),
    ) {
        let expected = told(sender, extensions, &bytes);
        prop_assert_eq!(&expected, &tracked(sender, extensions, [&bytes[..]].into_iter()));
        prop_assert_eq!(&expected, &tracked(sender, extensions, chunks(&bytes, &[1])));
        prop_assert_eq!(expected, tracked(sender, extensions, chunks(&bytes, &sizes)));
    }

    #[test]
    fn control_frames_of_ours_are_what_another_implementation_makes(
        opcode in select(&[(Opcode::Close, CLOSE), (Opcode::Ping, PING), (Opcode::Pong, PONG)][..]),
        payload in vec(any::<u8>(), 0..=MAX_CONTROL_PAYLOAD), key in any::<Option<[u8; 4]>>(),
    ) {
        let bytes = control_frame(opcode.0, &payload, key);
        let mut cursor = Cursor::new(&bytes);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        let expected = FrameHeader { opcode: OpCode::from(opcode.1), mask: key, ..FrameHeader::default() };
        prop_assert_eq!((&header, length), (&expected, payload.len() as u64));
        let mut made = Vec::new();
        Frame::from_payload(header, Bytes::from(payload)).format(&mut made).unwrap();
        prop_assert_eq!(bytes, made);
    }
}
