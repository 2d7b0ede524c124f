//! The end of a tunnel that the proxy ends: a Close frame to both sides, at a frame boundary, with a reason.
//!
//! The frame on the wire is completed first. Nothing is forwarded after the Close; what the peers still send is read
//! until their own Close, so that they do not see a reset.

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

/// The Close for both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// A status code (RFC 6455 §7.4, and the IANA registry).
    pub code: u16,
    reason: &'static str,
    /// The side that does not answer pings. It gets a Close only if its socket accepts it at once, and is not waited
    /// for.
    gone: Option<Closer>,
}

/// The result of a farewell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The code, if any side got the Close.
    pub code: Option<u16>,
    /// Whether the client did not accept the rest of a frame or a Close in time.
    pub client_cut: bool,
    /// The same for the backend.
    pub backend_cut: bool,
}

impl Heard {
    /// Whether any side was cut off.
    pub(super) fn cut(self) -> bool {
        self.client_cut || self.backend_cut
    }
}

const GOING_AWAY: u16 = 1001;
const INTERNAL_ERROR: u16 = 1011;

impl Farewell {
    /// `None` if the peers ended the tunnel. `ending` is why [`Tunnels`](super::Tunnels) ended it, if it did.
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

/// How far sending the Close to a listener has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    NotYet,
    /// It was handed to the socket, which may not have accepted it: ours, or earlier that of the other side.
    Sent,
    /// The socket has accepted all of it.
    Done,
    /// It cannot be sent: the listener is gone, or no frame can follow what it has received.
    Never,
}

impl Tunnel {
    /// Sends a Close to both sides, and waits for theirs.
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
        // What has not been completed is in `client` and `backend`.
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
        // A side that does not answer is closed all the same.
        let _ = tokio::time::timeout(self.clock.limits.close, hearing).await;
        let cut = |told| matches!(told, Told::NotYet | Told::Sent);
        let told = client == Told::Done || backend == Told::Done;
        Heard { code: told.then_some(farewell.code), client_cut: cut(client), backend_cut: cut(backend) }
    }
}

/// Sends a Close to a listener that does not answer pings, which may still be alive, unless its socket is full or has
/// received only part of a frame. Does not wait.
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

/// Completes the talker's current frame, then sends the Close to the listener. Ready when there is nothing more to
/// send.
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

/// Forwards the rest of the current frame, which is incomplete, and nothing after it.
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

/// Ready when a side has sent its Close, or when nothing more can be parsed from it.
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
