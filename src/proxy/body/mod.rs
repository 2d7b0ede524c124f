//! Bodies: guards that live as long as they do, errors at their beginning, and `Expect: 100-continue`.

pub(crate) mod meter;

use std::{
    future::poll_fn,
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
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

/// Why a body failed.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body, in either direction.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Whether a response with this status never has a body (RFC 9112 §6.3).
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn text(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

pin_project_lite::pin_project! {
    /// A body with a guard, which is dropped when the body has ended or is abandoned.
    pub(crate) struct Guarded<B, G> {
        #[pin]
        body: B,
        guard: Option<G>,
    }
}

impl<B, G> Guarded<B, G> {
    pub(crate) fn new(body: B, guard: G) -> Self {
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

pin_project_lite::pin_project! {
    /// A body whose first frame may have been taken already.
    struct Begun<B> {
        first: Option<Frame<Bytes>>,
        #[pin]
        body: B,
    }
}

/// Polls a body without waiting for more of it: if it is malformed from the start, the proxy can still send its own
/// response.
///
/// # Errors
/// If the body fails before its first frame.
pub(crate) async fn begun<B>(body: B) -> Result<Body, BodyError>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
{
    /// The first poll requests a frame, then the task that reads from the backend runs, and the second poll takes it.
    const POLLS: usize = 2;
    let mut body = Box::pin(body);
    let mut first = None;
    for _ in 0..POLLS {
        if body.is_end_stream() {
            break;
        }
        if let Poll::Ready(frame) = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await {
            first = frame.transpose()?;
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(Body::new(Begun { first, body }))
}

impl<B: HttpBody<Data = Bytes, Error = BodyError>> HttpBody for Begun<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => this.body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(rest.lower() + first);
        hint
    }
}

const WAITING: u8 = 0;
const OPEN: u8 = 1;
const REFUSED: u8 = 2;
const OVER: u8 = 3;

/// Whether a body after `Expect: 100-continue` may be read. Reading it makes hyper send a 100 to the client, so it must
/// wait for the backend's.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Hold {
    /// Lets the body be read, because the backend wants it.
    pub(crate) fn open(&self) {
        self.change(WAITING, OPEN);
    }

    /// Stops the body from being read, because the backend has responded without it. `None` if the body was already
    /// being read; otherwise a guard for the response: hyper abandons a response whose request fails, so the body must
    /// not end before it.
    pub(crate) fn refuse(self: Arc<Self>) -> Option<UnwantedBody> {
        self.change(WAITING, REFUSED).then(|| UnwantedBody(self))
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.waker.wake();
        changed
    }
}

/// A guard for the response to a request whose body is not wanted.
#[derive(Debug)]
pub(crate) struct UnwantedBody(Arc<Hold>);

impl Drop for UnwantedBody {
    fn drop(&mut self) {
        self.0.change(REFUSED, OVER);
    }
}

/// A body that is not read until its hold opens or `patience` has passed without an interim response from the backend
/// (RFC 9110 §10.1.1: nobody should wait indefinitely).
pub(crate) struct Held {
    body: Incoming,
    hold: Arc<Hold>,
    patience: Pin<Box<Sleep>>,
}

impl Held {
    pub(crate) fn new(body: Incoming, hold: Arc<Hold>, patience: Duration) -> Self {
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
            REFUSED => Poll::Pending,
            _ => Poll::Ready(Err("the backend responded without the body".into())),
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
