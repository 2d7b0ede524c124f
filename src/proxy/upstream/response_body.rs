//! The body of a response that is read without hyper.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{StatusCode, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use httparse::Status;

use crate::proxy::{
    body::{BodyError, is_bodiless},
    bounds::budget::Charge,
    fields::Fields,
    transport::stream::Stream,
};

/// How many bytes are read at once.
const PART: usize = 16 * 1024;
/// The maximum length of a line between chunks, and of trailers, in bytes.
const MAX_LINES: usize = 8 * 1024;

/// Where a body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncomingFraming {
    /// After this many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked(Chunk),
    /// With the connection.
    Close,
}

/// The next part of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// The size of a chunk.
    Size,
    /// This many bytes of data.
    Data(u64),
    /// The line end after the data.
    End,
    /// A line of the trailers, or the empty line after them. Trailers are dropped, which is allowed (RFC 9110 §6.5.1).
    Trailers,
    /// Nothing: the body is over.
    Nothing,
}

impl IncomingFraming {
    /// The framing of a response to a GET, whose lengths have been merged.
    pub(crate) fn of(status: StatusCode, is_chunked: bool, fields: &impl Fields) -> Self {
        if is_bodiless(status) {
            return Self::Length(0);
        }
        if is_chunked {
            return Self::Chunked(Chunk::Size);
        }
        let length = fields.only(&CONTENT_LENGTH).and_then(|length| str::from_utf8(length).ok()?.parse().ok());
        length.map_or(Self::Close, Self::Length)
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Nothing))
    }
}

/// A body, read from the connection no faster than its parts are taken. It owns the connection, and a guard.
pub(crate) struct ResponseBody<G> {
    backend: Stream,
    framing: IncomingFraming,
    /// Bytes received but not yet passed on.
    received: BytesMut,
    charge: Charge,
    _guard: G,
}

impl<G> ResponseBody<G> {
    pub(crate) fn new(backend: Stream, framing: IncomingFraming, guard: G) -> Self {
        Self { backend, framing, received: BytesMut::new(), charge: Charge::default(), _guard: guard }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let received = ready!(self.backend.poll_append(cx, &mut self.received, PART))?;
        self.charge.set(self.received.len());
        Poll::Ready(Ok(received))
    }
}

/// Takes the next part of a body from the received bytes; `None` if more must be received.
fn next_part(framing: &mut IncomingFraming, received: &mut BytesMut) -> Result<Option<Bytes>, BodyError> {
    loop {
        match framing {
            _ if received.is_empty() => return Ok(None),
            IncomingFraming::Chunked(Chunk::Nothing) => return Ok(None),
            IncomingFraming::Length(left) | IncomingFraming::Chunked(Chunk::Data(left)) => {
                let length = received.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *framing == IncomingFraming::Chunked(Chunk::Data(0)) {
                    *framing = IncomingFraming::Chunked(Chunk::End);
                }
                return Ok(Some(received.split_to(length).freeze()));
            }
            IncomingFraming::Close => return Ok(Some(received.split().freeze())),
            IncomingFraming::Chunked(chunk) => match next_line(*chunk, received)? {
                Some(next) => *chunk = next,
                None => return Ok(None),
            },
        }
    }
}

/// Takes a line other than data, and returns what follows it; `None` if the line is incomplete.
fn next_line(chunk: Chunk, received: &mut BytesMut) -> Result<Option<Chunk>, BodyError> {
    let (length, next) = match chunk {
        Chunk::Size => match httparse::parse_chunk_size(received).map_err(|_| "malformed chunk size")? {
            Status::Complete((length, 0)) => (length, Some(Chunk::Trailers)),
            Status::Complete((length, size)) => (length, Some(Chunk::Data(size))),
            Status::Partial => (0, None),
        },
        Chunk::End if received.starts_with(b"\r\n") => (2, Some(Chunk::Size)),
        Chunk::End if received.len() == 1 && received[0] == b'\r' => (0, None),
        Chunk::End => return Err("a chunk is longer than its size".into()),
        Chunk::Trailers => match received.iter().position(|byte| *byte == b'\n') {
            Some(end) if received[..end].trim_ascii().is_empty() => (end + 1, Some(Chunk::Nothing)),
            Some(end) => (end + 1, Some(Chunk::Trailers)),
            None => (0, None),
        },
        Chunk::Data(_) | Chunk::Nothing => unreachable!("these are not lines"),
    };
    if next.is_none() && received.len() > MAX_LINES {
        return Err("the lines between chunks are too long".into());
    }
    received.advance(length);
    Ok(next)
}

impl<G: Unpin> Body for ResponseBody<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while !this.framing.is_over() {
            if let Some(part) = next_part(&mut this.framing, &mut this.received)? {
                this.charge.set(this.received.len());
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if !this.framing.is_over() && ready!(this.poll_receive(cx))? == 0 {
                let is_whole =
                    std::mem::replace(&mut this.framing, IncomingFraming::Length(0)) == IncomingFraming::Close;
                return Poll::Ready((!is_whole).then(|| Err("the body is incomplete".into())));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.framing.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            IncomingFraming::Length(left) => SizeHint::with_exact(left),
            IncomingFraming::Chunked(_) | IncomingFraming::Close => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a body that arrives in pieces of this size, and whether it is complete.
    fn decoded(mut framing: IncomingFraming, bytes: &[u8], size: usize) -> Result<(Vec<u8>, bool), String> {
        let (mut received, mut data) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(size) {
            received.extend_from_slice(piece);
            while let Some(part) = next_part(&mut framing, &mut received).map_err(|error| error.to_string())? {
                data.extend_from_slice(&part);
                if framing.is_over() {
                    break;
                }
            }
        }
        Ok((data, framing.is_over()))
    }

    const CHUNKED: IncomingFraming = IncomingFraming::Chunked(Chunk::Size);

    #[test]
    fn a_body_ends_where_its_framing_says() {
        for size in [1, 2, 3, 100] {
            assert_eq!(decoded(IncomingFraming::Length(3), b"abc", size), Ok((b"abc".to_vec(), true)));
            assert_eq!(decoded(IncomingFraming::Length(4), b"abc", size), Ok((b"abc".to_vec(), false)));
            assert_eq!(decoded(IncomingFraming::Close, b"abc", size), Ok((b"abc".to_vec(), false)));
            let chunked = b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
            assert_eq!(decoded(CHUNKED, chunked, size), Ok((b"abc0123456789".to_vec(), true)), "{size}");
        }
    }

    #[test]
    fn chunks_that_are_malformed_are_an_error() {
        for bytes in [&b"x\r\n"[..], b"3\r\nabcd\r\n", b"3\r\nabc\rx", b"11111111111111111\r\n", b"-1\r\n"] {
            assert!(decoded(CHUNKED, bytes, 1).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let endless = [&b"0\r\n"[..], &vec![b'a'; MAX_LINES + 1]].concat();
        assert!(decoded(CHUNKED, &endless, 1024).is_err());
    }

    proptest! {
        #[test]
        fn chunks_come_out_as_they_went_in(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), size in 1_usize..50) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decoded(CHUNKED, &bytes, size), Ok((chunks.concat(), true)));
        }
    }
}
