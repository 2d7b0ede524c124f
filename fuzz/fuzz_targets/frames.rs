//! Compares the frame tracker with tungstenite's parser, for any split of the bytes.
#![no_main]

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/proxy/tunnel/frames.rs"]
mod frames;
#[rustfmt::skip]
#[path = "../../src/proxy/tunnel/frames/reference.rs"]
mod reference;

use arbitrary::Arbitrary;
use frames::{Extensions, Frames, MAX_CONTROL_PAYLOAD, MAX_INCOMPLETE, Opcode, Piece, Sender};
use libfuzzer_sys::fuzz_target;
use reference::{told, tracked};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    is_client: bool,
    extensions: u8,
    /// Lengths of the chunks, used cyclically.
    sizes: [u8; 8],
    bytes: &'a [u8],
}

fuzz_target!(|input: Input| {
    let Input { is_client, extensions, sizes, mut bytes } = input;
    let sender = if is_client { Sender::Client } else { Sender::Server };
    let extensions = [Extensions::None, Extensions::Deflate, Extensions::Unknown][usize::from(extensions % 3)];
    let expected = told(sender, extensions, bytes);
    assert_eq!(tracked(sender, extensions, [bytes].into_iter()), expected);
    assert_eq!(tracked(sender, extensions, bytes.chunks(1)), expected);
    let chunks = sizes.iter().cycle().map_while(|size| {
        let (chunk, rest) = bytes.split_at_checked(usize::from(*size) + 1).unwrap_or((bytes, &[]));
        bytes = rest;
        (!chunk.is_empty()).then_some(chunk)
    });
    assert_eq!(tracked(sender, extensions, chunks), expected);
});
