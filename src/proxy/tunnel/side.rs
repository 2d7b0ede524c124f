//! One side of a tunnel, and forwarding from it to the other.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use super::{
    frames::{Control, Extensions, Frames, MAX_INCOMPLETE, Opcode, Piece, Sender, control_frame},
    pinger::Pinger,
    turn::{Effort, Reach, Turn},
};
use crate::proxy::transport::stream::{Buffers, HEADROOM, Stream, with_buffers};

// What is held back from one read fits before the next one.
const _: () = assert!(MAX_INCOMPLETE <= HEADROOM);

/// Which side of a direction has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The one that sends.
    Talker,
    /// The one that receives.
    Listener,
}

/// The state of writing to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// Nothing more will be sent, and the side has been told.
    ShutDown,
    /// It cannot be written to. What is sent to it is discarded, so that the talker is not held up.
    Failed,
}

/// A Close frame as seen on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenClose {
    /// The status code, if there was one.
    pub code: Option<u16>,
}

/// A client or a backend.
pub(super) struct Side {
    pub stream: Stream,
    /// The frames that it sends.
    pub frames: Frames,
    /// The end of what it has sent that could not be parsed yet, and was therefore not forwarded.
    held: Box<[u8]>,
    /// How much is read from it at once.
    pub reach: Reach,
    /// Whether it will send nothing more.
    ended: bool,
    writing: Writing,
    /// The Close that it has sent.
    pub close: Option<SeenClose>,
    /// Whether there has been a sign of life since the last check.
    pub alive: bool,
    pub pinger: Option<Box<Pinger>>,
}

/// What was forwarded from one side to the other, without what is only between a side and the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub bytes: u64,
    pub frames: u64,
}

impl Side {
    pub(super) fn new(stream: Stream, sender: Sender, extensions: Extensions, pinger: Option<Box<Pinger>>) -> Self {
        let frames = Frames::new(sender, extensions);
        Self {
            stream,
            frames,
            held: Box::default(),
            reach: Reach::default(),
            ended: false,
            writing: Writing::Open,
            close: None,
            alive: false,
            pinger,
        }
    }

    /// Whether it will send nothing more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether both directions of its connection have been shut down in an orderly way.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.writing == Writing::ShutDown
    }

    /// Whether it can still be written to.
    pub(super) fn listens(&self) -> bool {
        self.writing == Writing::Open
    }

    /// Whether a control frame of the proxy may follow what `talker` has sent to it, if that was not a Close.
    pub(super) fn takes_control_frames(&self, talker: &Self) -> bool {
        !self.frames.is_broken() && talker.frames.at_boundary() && self.listens()
    }

    /// Sends a control frame of the proxy. The caller must know that one is allowed now.
    pub(super) fn send_control(&mut self, cx: &mut Context<'_>, opcode: Opcode, payload: &[u8]) {
        let key = match self.frames.sender() {
            Sender::Client => None,
            Sender::Server => Some(masking_key()),
        };
        // If the connection cannot be written to, reading from it will report that.
        let _ = self.send_bytes(cx, &control_frame(opcode, payload, key));
    }

    fn send_bytes(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        with_buffers(|buffers| {
            buffers.plain[..bytes.len()].copy_from_slice(bytes);
            self.stream.send(cx, buffers, 0..bytes.len())
        })
    }

    /// Sends payload from the thread's buffer.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        payload: Range<usize>,
    ) -> Result<(), Failure> {
        let sent = self.stream.send(cx, buffers, payload);
        sent.map_err(|_| self.fail(Failure::Listener))
    }

    /// Records that it cannot be read any more (as the talker) or written to (as the listener).
    fn fail(&mut self, failure: Failure) -> Failure {
        match failure {
            Failure::Talker => self.ended = true,
            Failure::Listener => self.writing = Writing::Failed,
        }
        failure
    }

    /// Ready when its socket has accepted everything; any progress is a sign of life.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let unsent = self.stream.unsent();
        if unsent == 0 || self.writing == Writing::Failed {
            return Poll::Ready(Ok(()));
        }
        let sent = self.stream.poll_sent(cx);
        self.alive |= self.stream.unsent() < unsent;
        sent.map_err(|_| self.fail(Failure::Listener))
    }

    /// Receives after what was held back, and returns the range of all available bytes: empty at the end.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<Result<Range<usize>, Failure>> {
        let received = self.stream.poll_receive(cx, buffers, self.reach.bytes());
        let received = ready!(received).map_err(|_| self.fail(Failure::Talker))?;
        self.alive |= received > 0;
        self.ended |= received == 0;
        let held = std::mem::take(&mut self.held);
        let start = HEADROOM - held.len();
        buffers.plain[start..HEADROOM].copy_from_slice(&held);
        Poll::Ready(Ok(start..HEADROOM + received))
    }

    /// Parses bytes without forwarding them: all that matters is whether they contain a Close. Returns the effort.
    pub(super) fn skim(&mut self, mut bytes: &[u8]) -> Effort {
        let mut work = Effort { bytes: bytes.len(), ..Effort::default() };
        while !bytes.is_empty() {
            work.frames += 1;
            let length = match self.frames.next(bytes) {
                Piece::Payload(length) | Piece::Data(length) => length,
                Piece::Control(control) => {
                    self.note_close(&control);
                    control.length
                }
                Piece::Incomplete => {
                    self.held = bytes.into();
                    break;
                }
                Piece::Broken => break,
            };
            bytes = &bytes[length..];
        }
        work
    }

    fn note_close(&mut self, control: &Control) {
        if control.opcode == Opcode::Close {
            self.close.get_or_insert(SeenClose { code: control.close_code() });
        }
    }

    /// Whether a control frame from it answers one of the proxy's own pings, and so must not be forwarded.
    fn answers_us(&mut self, control: &Control) -> bool {
        let pinger = self.pinger.as_mut();
        control.opcode == Opcode::Pong && pinger.is_some_and(|pinger| pinger.takes_pong(control.payload()))
    }
}

/// Forwards what a talker sends to a listener. Ready when its end has been forwarded too.
///
/// A failure is returned once, and is no reason to stop: after one of the talker, what came before it must still be
/// forwarded; after one of the listener, what the talker sends is read and discarded.
pub(super) fn poll_pass(
    cx: &mut Context<'_>,
    talker: &mut Side,
    listener: &mut Side,
    passed: &mut Passed,
) -> Poll<Result<(), Failure>> {
    let mut turn = Turn::new();
    loop {
        // Nothing is received before the listener has accepted what was received earlier: this is the back-pressure.
        ready!(listener.poll_sent(cx))?;
        if talker.ended {
            return poll_end(cx, talker, listener);
        }
        // tokio's own budget counts operations, and 128 reads of 64 KiB are 8 MiB.
        if turn.is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let work = ready!(with_buffers(|buffers| poll_some(cx, talker, listener, buffers, passed)))?;
        turn.spend(work, &mut talker.reach);
    }
}

/// Receives once and forwards the result.
fn poll_some(
    cx: &mut Context<'_>,
    talker: &mut Side,
    listener: &mut Side,
    buffers: &mut Buffers,
    passed: &mut Passed,
) -> Poll<Result<Effort, Failure>> {
    let range = ready!(talker.poll_receive(cx, buffers))?;
    let mut work = Effort { bytes: range.len(), frames: 0, records: buffers.records };
    let mut begin = range.start;
    let mut at = range.start;
    while at < range.end {
        work.frames += 1;
        match talker.frames.next(&buffers.plain[at..range.end]) {
            Piece::Payload(length) => at += length,
            Piece::Data(length) => {
                at += length;
                passed.frames += 1;
            }
            Piece::Control(control) if talker.answers_us(&control) => {
                // What is sent must be contiguous; there is rarely anything before it.
                buffers.plain.copy_within(begin..at, begin + control.length);
                begin += control.length;
                at += control.length;
            }
            Piece::Control(control) => {
                at += control.length;
                passed.frames += 1;
                talker.note_close(&control);
                if let (Opcode::Ping, Some(pinger)) = (control.opcode, &mut listener.pinger) {
                    pinger.owe(control.payload());
                }
            }
            // At the end, it is forwarded as it is.
            Piece::Incomplete if talker.ended => at = range.end,
            Piece::Incomplete => {
                talker.held = buffers.plain[at..range.end].into();
                break;
            }
            Piece::Broken => at = range.end,
        }
    }
    if at > begin && listener.writing != Writing::Failed {
        passed.bytes += (at - begin) as u64;
        listener.send(cx, buffers, begin..at)?;
    }
    Poll::Ready(Ok(work))
}

/// Unpredictable, so that nobody can choose the bytes on the wire (RFC 6455 §5.3).
fn masking_key() -> [u8; 4] {
    let mut key = [0; 4];
    aws_lc_rs::rand::fill(&mut key).expect("the system has randomness");
    key
}

fn poll_end(cx: &mut Context<'_>, talker: &mut Side, listener: &mut Side) -> Poll<Result<(), Failure>> {
    if !listener.listens() {
        return Poll::Ready(Ok(()));
    }
    // Left by a talker that failed: it was sent, whatever it was.
    let held = std::mem::take(&mut talker.held);
    if !held.is_empty() {
        listener.send_bytes(cx, &held).map_err(|_| listener.fail(Failure::Listener))?;
    }
    let shut_down = ready!(Pin::new(&mut listener.stream).poll_shutdown(cx));
    shut_down.map_err(|_| listener.fail(Failure::Listener))?;
    listener.writing = Writing::ShutDown;
    Poll::Ready(Ok(()))
}
