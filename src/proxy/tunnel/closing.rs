//! The end of a tunnel that ends because of us: a Close frame to both sides, at a frame boundary, with a reason.
//!
//! The frame that is on the wire becomes whole first. Nothing is passed on behind the Close; what the peers still say
//! is read until their own Close, so that it is not a reset that they see.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use super::{
    Ending, Outcome, Tunnel,
    end::{Cause, Closer},
    frames::{MAX_CONTROL_PAYLOAD, Opcode, Piece},
    side::{Failure, Passed, Side},
    turn::{Effort, Turn},
};
use crate::{metrics::Direction, proxy::transport::stream::with_buffers};

/// What both sides are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// A status code (RFC 6455 §7.4, and the registry of IANA).
    pub code: u16,
    reason: &'static str,
    /// The side that does not answer pings. It is told if its socket takes that at once, and is not waited for.
    gone: Option<Closer>,
}

/// What came of a farewell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The code, if any side could be told.
    pub code: Option<u16>,
    /// Whether the client did not take a whole frame or a Close in time.
    pub client_cut: bool,
    /// The same of the backend.
    pub backend_cut: bool,
}

impl Heard {
    /// Whether anybody was cut.
    pub(super) fn cut(self) -> bool {
        self.client_cut || self.backend_cut
    }
}

const GOING_AWAY: u16 = 1001;
const INTERNAL_ERROR: u16 = 1011;

impl Farewell {
    /// `None` if the peers ended it. `ending` is why [`Tunnels`](super::Tunnels) ended it, if it did.
    pub(super) fn of(outcome: Outcome, ending: Option<Ending>) -> Option<Self> {
        let (code, reason) = match (outcome.cause, outcome.closer) {
            (cause, _) if ending.is_some_and(|ending| ending.cause == cause) => {
                ending.map(|it| (it.code, it.reason))?
            }
            (Cause::Closed | Cause::Reset, _) => return None,
            (Cause::Shutdown, _) => (Ending::SHUTDOWN.code, Ending::SHUTDOWN.reason),
            (Cause::Idle, _) => (GOING_AWAY, "idle timeout"),
            (Cause::MaxDuration, _) => (GOING_AWAY, "maximum duration reached"),
            (Cause::HalfClosed, _) => (GOING_AWAY, "half closed and idle"),
            (Cause::PingTimeout, Closer::Backend) => (INTERNAL_ERROR, "backend not responding to pings"),
            (Cause::PingTimeout, _) => (GOING_AWAY, "client not responding to pings"),
            (Cause::Stalled, _) => (GOING_AWAY, "stalled"),
        };
        let gone = (outcome.cause == Cause::PingTimeout).then_some(outcome.closer);
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
    /// It was handed to the socket, which may not have taken it: ours, or earlier that of the other side.
    Sent,
    /// It has it all.
    Done,
    /// It cannot be told: it is gone, or no frame can follow what it got.
    Never,
}

impl Tunnel {
    /// Says farewell to both sides, and hears theirs.
    pub(super) async fn say(&mut self, farewell: Farewell) -> Heard {
        let told = |talker: &Side| if talker.close.is_some() { Told::Sent } else { Told::NotYet };
        let (mut client, mut backend) = (told(&self.backend), told(&self.client));
        let (mut passed_to_client, mut passed_to_backend) = (Passed::default(), Passed::default());
        let payload = farewell.payload();
        match farewell.gone {
            Some(Closer::Client) => client = tell_at_once(&self.backend, &mut self.client, &payload).await,
            Some(Closer::Backend) => backend = tell_at_once(&self.client, &mut self.backend, &payload).await,
            _ => {}
        }
        let telling = poll_fn(|cx| {
            let (talker, listener) = (&mut self.backend, &mut self.client);
            let to_client = poll_tell(cx, talker, listener, &mut client, &payload, &mut passed_to_client);
            let (talker, listener) = (&mut self.client, &mut self.backend);
            let to_backend = poll_tell(cx, talker, listener, &mut backend, &payload, &mut passed_to_backend);
            if to_client.is_ready() && to_backend.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        // What this leaves undone is in `client` and `backend`.
        let _ = tokio::time::timeout(self.clock.limits.close, telling).await;
        self.accounts.count(Direction::ToClient, passed_to_client);
        self.accounts.count(Direction::ToBackend, passed_to_backend);
        let hearing = poll_fn(|cx| {
            let answers = |told, side| told == Told::Done && farewell.gone != Some(side);
            let of_client = answers(client, Closer::Client).then(|| poll_hear(cx, &mut self.client));
            let of_backend = answers(backend, Closer::Backend).then(|| poll_hear(cx, &mut self.backend));
            let (of_client, of_backend) = (of_client.unwrap_or(Poll::Ready(())), of_backend.unwrap_or(Poll::Ready(())));
            if of_client.is_ready() && of_backend.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        // One that does not answer is closed all the same.
        let _ = tokio::time::timeout(self.clock.limits.close, hearing).await;
        let cut = |told| matches!(told, Told::NotYet | Told::Sent);
        let told = client == Told::Done || backend == Told::Done;
        Heard { code: told.then_some(farewell.code), client_cut: cut(client), backend_cut: cut(backend) }
    }
}

/// Tells a listener that does not answer pings, which may be alive all the same, unless its socket is full or has only a
/// part of a frame. Waits for nothing.
async fn tell_at_once(talker: &Side, listener: &mut Side, payload: &[u8]) -> Told {
    poll_fn(|cx| {
        if talker.close.is_some() || listener.stream.unsent() > 0 || !listener.takes_control_frames(talker) {
            return Poll::Ready(Told::Never);
        }
        listener.send_control(cx, Opcode::Close, payload);
        Poll::Ready(if listener.stream.unsent() == 0 { Told::Done } else { Told::Never })
    })
    .await
}

/// Lets the current frame of the talker become whole, and then tells the listener. Ready when there is nothing more to
/// tell.
fn poll_tell(
    cx: &mut Context<'_>,
    talker: &mut Side,
    listener: &mut Side,
    told: &mut Told,
    payload: &[u8],
    passed: &mut Passed,
) -> Poll<()> {
    let mut turn = Turn::new();
    loop {
        if turn.is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
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
        } else if talker.has_ended() || !listener.listens() || talker.frames.is_broken() || listener.frames.is_broken()
        {
            *told = Told::Never;
        } else {
            match ready!(poll_finish_frame(cx, talker, listener, passed)) {
                Ok(work) => turn.spend(work, &mut talker.reach),
                Err(_) if listener.listens() => {}
                Err(_) => *told = Told::Never,
            }
        }
    }
}

/// Passes on what belongs to the current frame, of which there is more to come, and nothing behind it.
fn poll_finish_frame(
    cx: &mut Context<'_>,
    talker: &mut Side,
    listener: &mut Side,
    passed: &mut Passed,
) -> Poll<Result<Effort, Failure>> {
    with_buffers(|buffers| {
        let range = ready!(talker.poll_receive(cx, buffers))?;
        let (mut whole, bytes) = (range.start, &buffers.plain[range.clone()]);
        if let Some(Piece::Payload(length)) = (!bytes.is_empty()).then(|| talker.frames.next(bytes)) {
            whole += length;
        }
        let mut work = talker.skim(&buffers.plain[whole..range.end]);
        work.bytes = range.len();
        passed.bytes += (whole - range.start) as u64;
        Poll::Ready(listener.send(cx, buffers, range.start..whole).map(|()| work))
    })
}

/// Ready when a side has said its Close, or nothing more can be understood of it.
fn poll_hear(cx: &mut Context<'_>, side: &mut Side) -> Poll<()> {
    let mut turn = Turn::new();
    while side.close.is_none() && !side.has_ended() && !side.frames.is_broken() {
        if turn.is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let heard =
            with_buffers(|buffers| side.poll_receive(cx, buffers).map_ok(|range| side.skim(&buffers.plain[range])));
        let Ok(work) = ready!(heard) else { break };
        turn.spend(work, &mut side.reach);
    }
    Poll::Ready(())
}
