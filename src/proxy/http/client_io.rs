//! What stands between hyper and a client's connection: time limits, departures, and answers that are better ours.
//!
//! hyper serves with `half_close(true)`, so that a client that closes its half after a request still gets its
//! answer. hyper then no longer looks whether the client is there, so this does, each time hyper flushes: a reset
//! ends the request at once; a client that closed its half may wait as long as bytes keep coming, and no longer than
//! a limit without any. hyper flushes at each poll, whether or not there is anything to write.
//!
//! Within a request, hyper reads only while somebody wants more of its body, and writes only what there is of the
//! answer. So it is the client that keeps us waiting whenever either is pending, and only then. It may do so for
//! `stall_timeout` without a byte, and has to move `min_rate` bytes a second on average.
//!
//! What is read is limited by `budget`, and while a body is read by how much of it the backend has taken (`meter`).

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

/// What is read of a client that sends ahead while its request is being answered, in bytes. The rest stays in the
/// kernel, and the connection is watched without reading.
pub(crate) const MAX_AHEAD: usize = 4 * 1024;
/// How often it is watched. The runtime tells of bytes and of the end alike, and bytes there are.
const LOOK: Duration = Duration::from_secs(1);
/// What is read of a head at once, in bytes. One more, and hyper would double its buffer.
const HEAD_READ: usize = 8 * 1024 - 1;

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const FINISHING: u8 = 2;

/// Where the connection is with its requests: between two, in one, or with the last bytes of an answer in hyper's
/// buffer; and what is to be written before the answer.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    now: AtomicU8,
    /// Whether the current request has a body, of which hyper may still read when the request is answered.
    has_body: AtomicBool,
    pub interim: Interim,
    /// How the target of the next request was sent.
    pub retarget: NextTarget,
    /// What is held of responses.
    pub to_client: Arc<Meter>,
    /// What is held of requests' bodies.
    pub to_backend: Arc<Meter>,
}

impl Stage {
    /// A request has come, whole or with a body behind it. The guard lives until its answer has been handed to hyper
    /// in full.
    pub(crate) fn begin(self: &Arc<Self>, is_whole: bool) -> Answering {
        self.has_body.store(!is_whole, Ordering::Relaxed);
        self.now.store(BUSY, Ordering::Relaxed);
        Answering(self.clone())
    }

    fn now(&self) -> u8 {
        self.now.load(Ordering::Relaxed)
    }
}

/// An answer that is not complete.
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
    /// More of a request's body, or room for more of its answer.
    Progress,
    /// The next look at a client that has sent much ahead, or closed its half.
    Look,
}

/// The limits of a connection.
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
    /// Read while looking whether the client is there.
    ahead: BytesMut,
    ended: bool,
    /// How long a client that has closed its half may go on without a byte.
    leaves: Option<Instant>,
    /// What hyper holds of heads, and `ahead`.
    charge: Charge,
    /// The right to read a body in large parts.
    large: Option<LargeReads>,
    /// What TLS has protected and the client's socket has not taken.
    unsent: Unsent,
    /// How fast the client sends bodies.
    sending: Pace,
    /// How fast it takes responses.
    taking: Pace,
    waiting: Option<Wait>,
    timer: Pin<Box<Sleep>>,
    /// The wait that took too long.
    pub(crate) timed_out: Option<Wait>,
    /// Whether hyper's own answer to a head that it could not read was swallowed. It has no body and no reason.
    pub(crate) muted: bool,
    between: Between,
    /// Whoever reads the next request, while the response to the last one is on its way.
    reader: Option<Waker>,
    pub(crate) head_start: HeadStart,
}

impl ClientIo {
    /// The first request has to have come by `deadline`. Without one, this is a connection between two requests.
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

    /// The connection, and what was read ahead of it.
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

    /// Nothing can be read.
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

    /// Nothing can be written.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.taking.wait(Instant::now());
        self.poll_progress(cx)
    }

    /// The client neither sends what is wanted nor takes what there is.
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

    /// How much may be read. Pending while that is somebody else's doing: the backend's in a body, that of all clients
    /// together in a head.
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

    /// Looks whether the client is still there while its request is being answered.
    fn poll_presence(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Until there is nothing more to read: that is what registers for what comes next.
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

    /// The same for a client of which nothing can be read now.
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

    /// Notes how much the client has taken since so much was unsent, of what hyper has written meanwhile.
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

    /// Receives what was read ahead, or more; nothing of the next request while the client has not taken the response to
    /// the last one.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stage.now() == FINISHING {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Poll::Ready(room) = self.poll_room(cx) else {
            // A head has its time all the same.
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

    /// Lets these bytes be received before all others.
    fn put_back(&mut self, bytes: &[u8]) {
        self.ahead = [bytes, &self.ahead].concat().as_slice().into();
        self.charge.set(self.charge.bytes() + bytes.len());
    }

    /// Ready when there is no interim response left to write. hyper's own bytes wait until then.
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

    /// The response has left.
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
        // Without a request, there is nothing that we have to say.
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
        // hyper has written all it has.
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

    /// Flushes only: whoever takes the connection back decides how it ends.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
}
