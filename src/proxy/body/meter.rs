//! Back-pressure between the two connections of a plain request, separately for each direction: while any part of a
//! body waits for its receiver, nothing more is read from its sender. A slow reader thus costs one read, and the rest
//! waits in the kernel's buffers. A few bodies on each thread are read in large parts. Bodies whose receivers stall
//! keep that right, so it is soon exhausted when many stall, and all other bodies are then read in small parts.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::proxy::bounds::budget::{Charge, LargeReads};

/// How many bytes of a body are read at once with the right to large reads.
pub(crate) const LARGE_READ: usize = 256 * 1024;
/// The same without it. hyper reserves as much again; with one byte more, it would double its buffer.
const SMALL_READ: usize = 8 * 1024 - 1;

/// The number of bytes held for one direction of a client's requests, between two connections.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    held: AtomicUsize,
    /// The task that reads for this direction, while it must not read.
    reader: AtomicWaker,
}

impl Meter {
    /// How many bytes may be read; acquires the right to large reads if available. Pending until the receiver has taken
    /// what was read before.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, large: &mut Option<LargeReads>) -> Poll<usize> {
        if self.held.load(Ordering::Acquire) > 0 {
            self.reader.register(cx.waker());
            if self.held.load(Ordering::Acquire) > 0 {
                return Poll::Pending;
            }
        }
        if large.is_none() {
            *large = LargeReads::acquire();
        }
        Poll::Ready(if large.is_some() { LARGE_READ } else { SMALL_READ })
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::AcqRel);
    }

    fn remove(&self, bytes: usize) {
        if self.held.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.reader.wake();
        }
    }
}

/// Bytes that a connection holds without hyper's knowledge, in a direction with a meter. The budget already includes
/// them.
#[derive(Debug)]
pub(crate) struct Unsent {
    meter: Arc<Meter>,
    bytes: usize,
}

impl Unsent {
    /// Starts at zero.
    pub(crate) fn new(meter: Arc<Meter>) -> Self {
        Self { meter, bytes: 0 }
    }

    /// Sets the number of bytes.
    pub(crate) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if before != bytes {
            self.meter.add(bytes);
            self.meter.remove(before);
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A part of a body, counted until its last byte has been written.
struct Portion {
    bytes: Bytes,
    meter: Arc<Meter>,
    _charge: Charge,
}

impl Portion {
    fn of(bytes: Bytes, meter: &Arc<Meter>) -> Bytes {
        meter.add(bytes.len());
        Bytes::from_owner(Self { _charge: Charge::new(bytes.len()), bytes, meter: meter.clone() })
    }
}

impl AsRef<[u8]> for Portion {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.meter.remove(self.bytes.len());
    }
}

pin_project_lite::pin_project! {
    /// A body whose parts are counted while they are held.
    pub(crate) struct Metered<B> {
        #[pin]
        body: B,
        meter: Arc<Meter>,
    }
}

impl<B> Metered<B> {
    pub(crate) fn new(body: B, meter: Arc<Meter>) -> Self {
        Self { body, meter }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| Portion::of(bytes, this.meter)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Selects the meter that limits reads from a backend's connection. It changes with each request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tap(Arc<Mutex<TapSetting>>);

#[derive(Debug, Default)]
struct TapSetting {
    meter: Option<Arc<Meter>>,
    large: Option<LargeReads>,
}

impl Tap {
    /// From now on, limits reads by this meter, or not at all.
    pub(crate) fn set(&self, meter: Option<Arc<Meter>>) {
        let before = std::mem::replace(&mut *self.lock(), TapSetting { meter, large: None });
        if let Some(before) = before.meter {
            before.reader.wake();
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let TapSetting { meter, large } = &mut *self.lock();
        meter.as_ref().map_or(Poll::Ready(SMALL_READ), |meter| meter.poll_read(cx, large))
    }

    /// Releases the right to large reads while the backend sends nothing, so that others can use it.
    fn pause(&self) {
        self.lock().large = None;
    }

    fn lock(&self) -> MutexGuard<'_, TapSetting> {
        self.0.lock().expect("no holder panics")
    }
}

/// A connection with a backend that is read no faster than the client takes the response.
pub(crate) struct Tapped<S> {
    stream: S,
    tap: Tap,
}

impl<S> Tapped<S> {
    pub(crate) fn new(stream: S, tap: Tap) -> Self {
        Self { stream, tap }
    }

    /// The connection.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = ready!(this.tap.poll_read(cx));
        let read = poll_read_some(&mut this.stream, cx, buf, room);
        if read.is_pending() {
            this.tap.pause();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Reads at most `most` bytes, even if there is more room.
pub(crate) fn poll_read_some(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<()>> {
    Pin::new(&mut stream.take(most as u64)).poll_read(cx, buf)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn nothing_is_read_before_the_receiver_has_all_that_was_read_before() {
        let meter = Arc::<Meter>::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(meter.poll_read(&mut cx, &mut None), Poll::Ready(LARGE_READ));
        let mut body = Metered::new(Full::from(vec![7; 100]), meter.clone());
        let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(part, vec![7; 100]);
        let (first, rest) = (part.slice(..60), part.slice(60..));
        drop((part, first));
        assert_eq!(meter.poll_read(&mut cx, &mut None), Poll::Pending, "what is left pins all of it");
        let mut unsent = Unsent::new(meter.clone());
        unsent.set(122);
        drop(rest);
        assert_eq!(meter.poll_read(&mut cx, &mut None), Poll::Pending, "it waits behind TLS");
        unsent.set(1);
        assert_eq!(meter.poll_read(&mut cx, &mut None), Poll::Pending);
        unsent.set(0);
        assert_eq!(meter.poll_read(&mut cx, &mut None), Poll::Ready(LARGE_READ));
    }

    #[test]
    fn bodies_are_read_in_small_parts_once_enough_others_stall() {
        let meter = Meter::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut held = Vec::new();
        loop {
            let mut large = None;
            let Poll::Ready(room) = meter.poll_read(&mut cx, &mut large) else { unreachable!("nothing is held") };
            if large.is_none() {
                assert_eq!(room, SMALL_READ);
                break;
            }
            assert_eq!(room, LARGE_READ);
            held.push(large);
        }
        assert!(held.len() * LARGE_READ <= 2 << 20, "{} of them", held.len());
        held.pop();
        assert_eq!(meter.poll_read(&mut cx, &mut None), Poll::Ready(LARGE_READ));
    }

    #[tokio::test]
    async fn the_reader_continues_when_everything_is_taken_or_another_request_begins() {
        for is_taken in [true, false] {
            let (meter, tap) = (Arc::<Meter>::default(), Tap::default());
            tap.set(Some(meter.clone()));
            let mut stream = Tapped::new(&b"more"[..], tap.clone());
            let part = Portion::of(Bytes::from_static(b"part"), &meter);
            let reading = tokio::spawn(async move {
                let mut bytes = [0; 8];
                stream.read(&mut bytes).await.unwrap()
            });
            tokio::task::yield_now().await;
            assert!(!reading.is_finished());
            if is_taken {
                drop(part);
            } else {
                tap.set(None);
            }
            assert_eq!(reading.await.unwrap(), 4);
        }
    }
}
