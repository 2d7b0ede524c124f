//! A layer between hyper and a client's connection: time limits, departed clients, and suppression of hyper's own
//! responses.
//!
//! hyper serves with `half_close(true)`, so that a client that closes its half after a request still gets its response.
//! hyper then no longer checks whether the client is there, so this layer does, each time hyper flushes: a reset ends
//! the request at once; a client that has closed its half may wait as long as bytes keep coming, but only for a limited
//! time without any. hyper flushes at each poll, whether or not there is anything to write.
//!
//! During a request, hyper reads only if more of its body is wanted, and writes only if more of the response is
//! available. So the client keeps the proxy waiting whenever either is pending, and only then. It may do so for
//! `stall_timeout` without a byte, and must move `min_rate` bytes per second on average.
//!
//! Reads are limited by `budget`, and those of a body by how much of it the backend has taken (`meter`).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    head_start::{HeadStart, Reading},
    interim::{Between, Interim},
};
use crate::proxy::{
    body::meter::{Meter, Unsent, poll_read_some},
    bounds::{
        budget::{Charge, LargeReads, poll_room},
        pace::{MinRate, Pace},
    },
    request::retarget::NextTarget,
    settings::Settings,
    transport::stream::{Departure, Stream},
};

/// How many bytes are read from a client that sends ahead while its request is being served. The rest stays in the
/// kernel, and the connection is watched without reading.
pub(crate) const MAX_AHEAD: usize = 4 * 1024;
/// How often it is then checked. The runtime reports data and the end of the stream alike, and there is data.
const LOOK: Duration = Duration::from_secs(1);
/// How many bytes of a head are read at once. With one more, hyper would double its buffer.
const HEAD_READ: usize = 8 * 1024 - 1;

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const FINISHING: u8 = 2;

/// The state of a connection: between two requests, in one, or with the last bytes of a response in hyper's buffer; and
/// what must be written before the response.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    now: AtomicU8,
    /// Whether the current request has a body, which hyper may still be reading when the response is complete.
    has_body: AtomicBool,
    pub interim: Interim,
    /// The target of the next request as it was sent, if it was rewritten.
    pub retarget: NextTarget,
    /// Bytes held of responses.
    pub to_client: Arc<Meter>,
    /// Bytes held of request bodies.
    pub to_backend: Arc<Meter>,
}

impl Stage {
    /// Begins a request, complete or with a body to follow. The guard lives until its entire response has been handed
    /// to hyper.
    pub(crate) fn begin(self: &Arc<Self>, is_whole: bool) -> Answering {
        self.has_body.store(!is_whole, Ordering::Relaxed);
        self.now.store(BUSY, Ordering::Relaxed);
        Answering(self.clone())
    }

    fn now(&self) -> u8 {
        self.now.load(Ordering::Relaxed)
    }
}

/// A guard for a response that is not complete.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Stage>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.now.store(FINISHING, Ordering::Relaxed);
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The rest of a head, or the first request.
    Head,
    /// The next request.
    Next,
    /// More of a request's body, or room for more of its response.
    Progress,
    /// The next check of a client that has sent much ahead, or closed its half.
    Look,
}

/// The time limits and the minimum rate of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    head: Duration,
    next: Duration,
    progress: Duration,
    half_closed: Duration,
    least: MinRate,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            head: settings.head_timeout,
            next: settings.keep_alive_timeout,
            progress: settings.stall_timeout,
            half_closed: settings.half_closed_timeout,
            least: MinRate { bytes: settings.min_rate, over: settings.stall_timeout },
        }
    }
}

/// A client's connection as hyper sees it.
pub(crate) struct ClientIo {
    stream: Stream,
    stage: Arc<Stage>,
    limits: Limits,
    /// Bytes read while checking whether the client is there.
    ahead: BytesMut,
    ended: bool,
    /// How long a client that has closed its half may stay without a byte.
    leaves: Option<Instant>,
    /// The bytes of heads that hyper holds, and `ahead`.
    charge: Charge,
    /// The right to read a body in large parts.
    large: Option<LargeReads>,
    /// Bytes that TLS has encrypted and the client's socket has not accepted.
    unsent: Unsent,
    /// How fast the client sends bodies.
    sending: Pace,
    /// How fast it takes responses.
    taking: Pace,
    waiting: Option<Wait>,
    timer: Pin<Box<Sleep>>,
    /// The wait that timed out.
    pub(crate) timed_out: Option<Wait>,
    /// Whether hyper's own response to an unreadable head was suppressed. It has no body and states no reason.
    pub(crate) muted: bool,
    between: Between,
    /// The task that reads the next request, while the response to the last one is being written.
    reader: Option<Waker>,
    pub(crate) head_start: HeadStart,
}

impl ClientIo {
    /// The first request must arrive by `deadline`. `None` for a connection between two requests.
    pub(crate) fn new(stream: Stream, stage: Arc<Stage>, limits: Limits, deadline: Option<Instant>) -> Self {
        let (waiting, deadline) = match deadline {
            Some(deadline) => (Wait::Head, deadline),
            None => (Wait::Next, Instant::now() + limits.next),
        };
        Self {
            stream,
            limits,
            ahead: BytesMut::new(),
            ended: false,
            leaves: None,
            charge: Charge::default(),
            large: None,
            unsent: Unsent::new(stage.to_client.clone()),
            sending: Pace::default(),
            taking: Pace::default(),
            waiting: Some(waiting),
            timer: Box::pin(tokio::time::sleep_until(deadline)),
            timed_out: None,
            muted: false,
            between: Between::default(),
            reader: None,
            head_start: HeadStart::new(),
            stage,
        }
    }

    /// The connection, and the bytes that were read ahead.
    pub(crate) fn into_inner(self) -> (Stream, BytesMut) {
        (self.stream, self.ahead)
    }

    fn wait_for(&mut self, wait: Wait) {
        self.waiting = Some(wait);
        let limit = match wait {
            Wait::Head => self.limits.head,
            Wait::Next => self.limits.next,
            Wait::Progress => self.limits.progress,
            Wait::Look => self.limits.half_closed.min(LOOK),
        };
        self.timer.as_mut().reset(Instant::now() + limit);
    }

    /// Called when nothing can be read.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.stage.now() == BUSY {
            self.large = None;
            self.sending.wait(Instant::now());
            return self.poll_progress(cx);
        }
        if matches!(self.waiting, None | Some(Wait::Look)) {
            self.wait_for(Wait::Next);
        }
        self.poll_timer(cx)
    }

    /// Called when nothing can be written.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.taking.wait(Instant::now());
        self.poll_progress(cx)
    }

    /// Called when the client neither sends what is wanted nor takes what is available.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.waiting != Some(Wait::Progress) {
            self.wait_for(Wait::Progress);
        }
        self.poll_timer(cx)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.timer.as_mut().poll(cx));
        self.timed_out = self.waiting.take();
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn progressed(&mut self) {
        if self.waiting == Some(Wait::Progress) {
            self.waiting = None;
        }
    }

    /// How much may be read. Pending while others are the cause: the backend during a body, all clients together during
    /// a head.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.stage.now() == BUSY {
            return self.stage.to_backend.poll_read(cx, &mut self.large);
        }
        poll_room(cx, HEAD_READ, self.charge.bytes())
    }

    /// Reads more of what hyper wants.
    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, room: usize) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Poll::Ready(read) = poll_read_some(&mut self.stream, cx, buf, room) else {
            return self.poll_wait(cx).map(Err);
        };
        read?;
        Poll::Ready(match buf.filled().len() - before {
            0 => {
                self.ended = true;
                self.allow_half_closed();
                Ok(())
            }
            length => self.received(length),
        })
    }

    fn received(&mut self, length: usize) -> io::Result<()> {
        self.progressed();
        if self.stage.now() == BUSY {
            return if self.sending.is_too_slow(length, self.limits.least, Instant::now) {
                Err(self.too_slow("sends"))
            } else {
                Ok(())
            };
        }
        self.charge.set(self.charge.bytes() + length);
        if self.waiting != Some(Wait::Head) {
            self.wait_for(Wait::Head);
        }
        Ok(())
    }

    fn too_slow(&mut self, what: &str) -> io::Error {
        let MinRate { bytes, over } = self.limits.least;
        tracing::debug!(min_rate = bytes, over_seconds = over.as_secs(), "client {what} too slowly");
        self.timed_out = Some(Wait::Progress);
        io::ErrorKind::TimedOut.into()
    }

    /// Checks whether the client is still there while its request is being served.
    fn poll_presence(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Until there is nothing more to read, which registers the task for what comes next.
        while !self.ended && self.ahead.len() < MAX_AHEAD {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
            let read = buffer.filled().len();
            if read == 0 {
                self.ended = true;
                self.allow_half_closed();
            }
            self.ahead.extend_from_slice(buffer.filled());
            self.charge.set(self.charge.bytes() + read);
        }
        self.poll_look(cx)
    }

    /// The same if nothing can be read from the client now.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            match self.stream.has_left() {
                Some(Departure::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(Departure::HalfClosed) if self.leaves.is_none() => self.allow_half_closed(),
                _ => {}
            }
            if self.leaves.is_some_and(|leaves| leaves <= Instant::now()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.waiting != Some(Wait::Look) {
                self.wait_for(Wait::Look);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.waiting = None;
        }
    }

    fn allow_half_closed(&mut self) {
        self.leaves = Some(Instant::now() + self.limits.half_closed);
    }

    /// Records how much the client has taken, given what was unsent before and what hyper has written since.
    fn took(&mut self, unsent: usize, written: usize) -> io::Result<()> {
        self.unsent.set(self.stream.unsent());
        let taken = (unsent + written).saturating_sub(self.stream.unsent());
        if taken == 0 {
            return Ok(());
        }
        self.progressed();
        if self.leaves.is_some() {
            self.allow_half_closed();
        }
        if self.taking.is_too_slow(taken, self.limits.least, Instant::now) {
            Err(self.too_slow("reads"))
        } else {
            Ok(())
        }
    }

    /// Receives what was read ahead, or more, but not the next request until the client has taken the response to the
    /// last one.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stage.now() == FINISHING {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Poll::Ready(room) = self.poll_room(cx) else {
            // The time limit for a head still applies.
            return if self.stage.now() == BUSY { Poll::Pending } else { self.poll_wait(cx).map(Err) };
        };
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buf.remaining()).min(room);
            buf.put_slice(&self.ahead[..length]);
            self.ahead.advance(length);
            self.charge.set(self.charge.bytes().saturating_sub(length));
            return Poll::Ready(self.received(length));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        self.poll_more(cx, buf, room)
    }

    /// Puts bytes back, to be received before all others.
    fn put_back(&mut self, bytes: &[u8]) {
        self.ahead = [bytes, &self.ahead].concat().as_slice().into();
        self.charge.set(self.charge.bytes() + bytes.len());
    }

    /// Ready when all interim responses have been written. hyper's own bytes wait until then.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stage.interim.register(cx.waker());
        if self.between.mid_write {
            self.stage.interim.drop_late();
            return Poll::Ready(Ok(()));
        }
        self.between.left.extend_from_slice(&self.stage.interim.take());
        while !self.between.left.is_empty() {
            let unsent = self.stream.unsent();
            let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, &self.between.left) else {
                return self.poll_taken(cx).map(Err);
            };
            let written = written?;
            self.between.left.advance(written);
            self.took(unsent, written)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Called when the response has been sent.
    fn finish(&mut self) {
        self.stage.now.store(IDLE, Ordering::Relaxed);
        self.head_start.expect(!self.stage.has_body.load(Ordering::Relaxed));
        (self.waiting, self.large) = (None, None);
        self.charge.set(self.ahead.len());
        (self.sending, self.taking) = Default::default();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let before = buf.filled().len();
            ready!(this.poll_receive(cx, buf))?;
            if this.stage.now() != IDLE {
                return Poll::Ready(Ok(()));
            }
            match this.head_start.read(&buf.filled()[before..]) {
                Reading::AsReceived => return Poll::Ready(Ok(())),
                Reading::Nothing => buf.set_filled(before),
                Reading::Instead(bytes, retarget) => {
                    buf.set_filled(before);
                    this.put_back(&bytes);
                    this.stage.retarget.set(retarget);
                }
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Without a request, the proxy has nothing to send.
        if this.stage.now() == IDLE {
            this.muted = true;
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        ready!(this.poll_interim(cx))?;
        let unsent = this.stream.unsent();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = written {
            this.between.mid_write = written < bufs.iter().map(|buf| buf.len()).sum();
        }
        this.took(unsent, if let Poll::Ready(Ok(written)) = written { written } else { 0 })?;
        match written {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => this.poll_taken(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper has written everything that it has.
        this.between.mid_write = false;
        if this.stage.now() == BUSY {
            ready!(this.poll_interim(cx))?;
        }
        let unsent = this.stream.unsent();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.took(unsent, 0)?;
        let Poll::Ready(flushed) = flushed else { return this.poll_taken(cx).map(Err) };
        flushed?;
        match this.stage.now() {
            FINISHING => this.finish(),
            BUSY => this.poll_presence(cx)?,
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes only: the owner of the connection decides how it ends.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
}
