//! The end of a tunnel that ends because of us: a Close frame to both sides, at a frame boundary, with a reason.
//!
//! The frame that is on the wire becomes whole first. Nothing is passed on behind the Close; what the peers still say
//! is read until their own Close, so that it is not a reset that they see.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use super::{
    Ending, Tunnel,
    end::{Cause, Closer},
    frames::{MAX_CONTROL_PAYLOAD, Opcode, Piece},
    side::{Failure, Side},
};
use crate::proxy::stream::with_buffers;

/// What both sides are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// A status code (RFC 6455 §7.4, and the registry of IANA).
    pub code: u16,
    reason: &'static str,
    /// The side that is not waited for, since it does not answer.
    gone: Option<Closer>,
}

/// The sides that did not take a whole frame or a Close in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub client: bool,
    pub backend: bool,
}

impl Cut {
    pub(super) fn any(self) -> bool {
        self.client || self.backend
    }
}

const GOING_AWAY: u16 = 1001;
const INTERNAL_ERROR: u16 = 1011;
const SERVICE_RESTART: u16 = 1012;

impl Farewell {
    /// Nothing where it was the peers who ended it.
    pub(super) fn of(ending: Ending) -> Option<Self> {
        let (code, reason) = match (ending.cause, ending.closer) {
            (Cause::Closed | Cause::Reset, _) => return None,
            (Cause::Shutdown, _) => (SERVICE_RESTART, "the proxy stops, connect again"),
            (Cause::Idle, _) => (GOING_AWAY, "no bytes for as long as timeouts.idle allows"),
            (Cause::MaxDuration, _) => (GOING_AWAY, "open for as long as timeouts.maxDuration allows"),
            (Cause::HalfClosed, _) => (GOING_AWAY, "half closed, and silent since"),
            (Cause::PingTimeout, Closer::Backend) => (INTERNAL_ERROR, "the backend does not answer pings"),
            (Cause::PingTimeout, _) => (GOING_AWAY, "the client does not answer pings"),
            (Cause::Stalled, _) => (GOING_AWAY, "stalled"),
        };
        let gone = (ending.cause == Cause::PingTimeout).then_some(ending.closer);
        Some(Self { code, reason, gone })
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = self.code.to_be_bytes().to_vec();
        payload.extend(self.reason.as_bytes());
        payload.truncate(MAX_CONTROL_PAYLOAD);
        payload
    }
}

/// How far a listener is with its Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    NotYet,
    /// It was handed to the socket, which may not have taken it.
    Sent,
    /// It has it all.
    Done,
    /// It cannot be told: it is gone, has been told by the other side, or no frame can follow what it got.
    Never,
}

impl Tunnel {
    /// Says farewell to both sides, and hears theirs. Returns who had to be cut.
    pub(super) async fn say(&mut self, farewell: Farewell) -> Cut {
        let is_gone = |side| if farewell.gone == Some(side) { Told::Never } else { Told::NotYet };
        let (mut client, mut backend) = (is_gone(Closer::Client), is_gone(Closer::Backend));
        let payload = farewell.payload();
        let telling = poll_fn(|cx| {
            let to_client = poll_tell(cx, &mut self.backend, &mut self.client, &mut client, &payload);
            let to_backend = poll_tell(cx, &mut self.client, &mut self.backend, &mut backend, &payload);
            if to_client.is_ready() && to_backend.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        // What this leaves undone is in `client` and `backend`.
        let _ = tokio::time::timeout(self.clock.limits.close, telling).await;
        let hearing = poll_fn(|cx| {
            let of_client = if client == Told::Done { poll_hear(cx, &mut self.client) } else { Poll::Ready(()) };
            let of_backend = if backend == Told::Done { poll_hear(cx, &mut self.backend) } else { Poll::Ready(()) };
            if of_client.is_ready() && of_backend.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        // One that does not answer is closed all the same.
        let _ = tokio::time::timeout(self.clock.limits.close, hearing).await;
        let cut = |told| matches!(told, Told::NotYet | Told::Sent);
        Cut { client: cut(client), backend: cut(backend) }
    }
}

/// Lets the current frame of the talker become whole, and then tells the listener. Ready when there is nothing more to
/// tell.
fn poll_tell(
    cx: &mut Context<'_>,
    talker: &mut Side,
    listener: &mut Side,
    told: &mut Told,
    payload: &[u8],
) -> Poll<()> {
    loop {
        if *told == Told::Done || *told == Told::Never {
            return Poll::Ready(());
        }
        if ready!(listener.poll_sent(cx)).is_err() {
            *told = Told::Never;
        } else if *told == Told::Sent {
            *told = Told::Done;
        } else if listener.takes_control_frames(talker) {
            listener.send_control(cx, Opcode::Close, payload);
            *told = Told::Sent;
        } else if talker.has_ended() || !listener.listens() || talker.close.is_some() || talker.frames.is_broken() {
            *told = Told::Never;
        } else if ready!(poll_finish_frame(cx, talker, listener)).is_err() {
            *told = if listener.listens() { *told } else { Told::Never };
        }
    }
}

/// Passes on what belongs to the current frame, and nothing behind it.
fn poll_finish_frame(cx: &mut Context<'_>, talker: &mut Side, listener: &mut Side) -> Poll<Result<(), Failure>> {
    with_buffers(|buffers| {
        let range = ready!(talker.poll_receive(cx, buffers))?;
        let (mut whole, bytes) = (range.start, &buffers.plain[range.clone()]);
        if let Some(Piece::Payload(length)) = (!bytes.is_empty()).then(|| talker.frames.next(bytes)) {
            whole += length;
        }
        talker.skim(&buffers.plain[whole..range.end]);
        Poll::Ready(listener.send(cx, buffers, range.start..whole))
    })
}

/// Ready when a side has said its Close, or says nothing more.
fn poll_hear(cx: &mut Context<'_>, side: &mut Side) -> Poll<()> {
    while side.close.is_none() && !side.has_ended() {
        let heard =
            with_buffers(|buffers| side.poll_receive(cx, buffers).map_ok(|range| side.skim(&buffers.plain[range])));
        if ready!(heard).is_err() {
            break;
        }
    }
    Poll::Ready(())
}
