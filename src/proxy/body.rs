//! Bodies: what is passed on, what is held back, and what is told when one ends.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

/// What went wrong with a body.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body, either way.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn text(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

pin_project_lite::pin_project! {
    /// A body with something that lives exactly as long as it: dropped when the body has ended or is given up.
    pub(super) struct Guarded<B, G> {
        #[pin]
        body: B,
        guard: Option<G>,
    }
}

impl<B, G> Guarded<B, G> {
    pub(super) fn new(body: B, guard: G) -> Self {
        Self { body, guard: Some(guard) }
    }
}

impl<B: HttpBody<Data = Bytes>, G> HttpBody for Guarded<B, G>
where
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *this.guard = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

const WAITING: u8 = 0;
const OPEN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Whether a body behind `Expect: 100-continue` may be read. Reading it is what makes hyper send the client its 100,
/// so it must wait for the backend's.
#[derive(Debug, Default)]
pub(super) struct Hold {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Hold {
    /// The backend wants the body.
    pub(super) fn open(&self) {
        self.change(OPEN);
    }

    /// The backend has answered without it. Returns whether it was still waiting.
    pub(super) fn give_up(&self) -> bool {
        self.change(GIVEN_UP)
    }

    fn change(&self, to: u8) -> bool {
        let waited = self.state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.waker.wake();
        waited
    }
}

/// A body that is not read before its hold opens, or a time has passed without a word from the backend
/// (RFC 9110 §10.1.1: nobody waits for ever).
pub(super) struct Held {
    body: Incoming,
    hold: Arc<Hold>,
    patience: Pin<Box<Sleep>>,
}

impl Held {
    pub(super) fn new(body: Incoming, hold: Arc<Hold>, patience: Duration) -> Self {
        Self { body, hold, patience: Box::pin(tokio::time::sleep_until(Instant::now() + patience)) }
    }

    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.hold.waker.register(cx.waker());
        if self.hold.state.load(Ordering::Acquire) == WAITING {
            ready!(self.patience.as_mut().poll(cx));
            self.hold.open();
        }
        match self.hold.state.load(Ordering::Acquire) {
            OPEN => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err("the backend answered without the body".into())),
        }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = ready!(self.poll_hold(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
