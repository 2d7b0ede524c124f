//! What stands between hyper and a client's connection: time limits, departures, and answers that are better ours.
//!
//! hyper serves with `half_close(true)`, so that a client that closes its half after a request still gets its
//! answer. hyper then no longer looks whether the client is there, so this does, each time hyper flushes: a reset
//! ends the request at once; a client that closed its half may wait as long as bytes keep coming, and no longer than
//! a limit without any. hyper flushes at each poll, whether or not there is anything to write.
//!
//! Within a request, hyper reads only while somebody wants more of its body, and writes only what there is of the
//! answer. So it is the client that keeps us waiting whenever either is pending, and only then.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    interim::{Between, Interim},
    retarget::{HeadStart, NextTarget, Reading},
    settings::Settings,
};

/// What a client may send ahead while its request is being answered. One that sends more is no longer looked after
/// until then.
pub(super) const MAX_AHEAD: usize = 16 * 1024;

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const FINISHING: u8 = 2;

/// Where the connection is with its requests: between two, in one, or with the last bytes of an answer in hyper's
/// buffer; and what is to be written before the answer.
#[derive(Debug, Default)]
pub(super) struct Stage {
    now: AtomicU8,
    /// Whether the current request has a body, of which hyper may still read when the request is answered.
    has_body: AtomicBool,
    pub interim: Interim,
    /// How the target of the next request was sent.
    pub retarget: NextTarget,
}

impl Stage {
    /// A request has come, whole or with a body behind it. The guard lives until its answer has been handed to hyper
    /// in full.
    pub(super) fn begin(self: &Arc<Self>, is_whole: bool) -> Answering {
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
pub(super) struct Answering(Arc<Stage>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.now.store(FINISHING, Ordering::Relaxed);
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The rest of a head, or the first request.
    Head,
    /// The next request.
    Next,
    /// More of a request's body, or room for more of its answer.
    Progress,
}

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    head: Duration,
    next: Duration,
    progress: Duration,
    half_closed: Duration,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            head: settings.head_timeout,
            next: settings.keep_alive_timeout,
            progress: settings.stall_timeout,
            half_closed: settings.half_closed_timeout,
        }
    }
}

/// A client's connection as hyper sees it.
pub(super) struct ClientIo<S> {
    stream: S,
    stage: Arc<Stage>,
    limits: Limits,
    /// Read while looking whether the client is there.
    ahead: BytesMut,
    ended: bool,
    waiting: Option<Wait>,
    timer: Pin<Box<Sleep>>,
    /// The wait that took too long.
    pub(super) timed_out: Option<Wait>,
    /// Whether hyper's own answer to a head that it could not read was swallowed. It has no body and no reason.
    pub(super) muted: bool,
    /// Whether TLS has bytes that the client's socket did not take.
    unflushed: bool,
    between: Between,
    pub(super) head_start: HeadStart,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientIo<S> {
    /// The first request has to have come by `deadline`.
    pub(super) fn new(stream: S, stage: Arc<Stage>, limits: Limits, deadline: Instant) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(deadline));
        Self {
            stream,
            stage,
            limits,
            ahead: BytesMut::new(),
            ended: false,
            waiting: Some(Wait::Head),
            timer,
            timed_out: None,
            muted: false,
            unflushed: false,
            between: Between::default(),
            head_start: HeadStart::new(),
        }
    }

    /// The connection, and what was read ahead of it.
    pub(super) fn into_inner(self) -> (S, BytesMut) {
        (self.stream, self.ahead)
    }

    fn wait_for(&mut self, wait: Wait) {
        self.waiting = Some(wait);
        let limit = match wait {
            Wait::Head => self.limits.head,
            Wait::Next => self.limits.next,
            Wait::Progress => self.limits.progress,
        };
        self.timer.as_mut().reset(Instant::now() + limit);
    }

    /// Nothing can be read.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.stage.now() == BUSY {
            return self.poll_progress(cx);
        }
        if self.waiting.is_none() {
            self.wait_for(Wait::Next);
        }
        self.poll_timer(cx)
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

    fn received(&mut self) {
        self.progressed();
        if self.stage.now() != BUSY && self.waiting != Some(Wait::Head) {
            self.wait_for(Wait::Head);
        }
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
            if buffer.filled().is_empty() {
                self.ended = true;
                self.allow_half_closed();
            }
            self.ahead.extend_from_slice(buffer.filled());
        }
        if self.ended && self.timer.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn allow_half_closed(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.limits.half_closed);
    }

    fn wrote(&mut self) {
        self.progressed();
        if self.ended {
            self.allow_half_closed();
        }
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
            match Pin::new(&mut self.stream).poll_write(cx, &self.between.left) {
                Poll::Ready(written) => self.between.left.advance(written?),
                Poll::Pending => return self.poll_progress(cx).map(Err),
            }
            self.wrote();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) else {
            self.unflushed = true;
            return self.poll_progress(cx).map(Err);
        };
        if std::mem::take(&mut self.unflushed) {
            self.wrote();
        }
        Poll::Ready(flushed)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientIo<S> {
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
                    this.stage.retarget.set(retarget);
                    this.ahead = [&bytes[..], &this.ahead].concat().as_slice().into();
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientIo<S> {
    /// Receives what was read ahead, or more.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self;
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            this.received();
            return Poll::Ready(Ok(()));
        }
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => this.received(),
            Poll::Ready(Ok(())) => {
                this.ended = true;
                this.allow_half_closed();
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return this.poll_wait(cx).map(Err),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
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
        let Poll::Ready(written) = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) else {
            return this.poll_progress(cx).map(Err);
        };
        if let Ok(written) = written {
            this.between.mid_write = written < bufs.iter().map(|buf| buf.len()).sum();
            this.wrote();
        }
        Poll::Ready(written)
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
        ready!(this.poll_flushed(cx))?;
        match this.stage.now() {
            FINISHING => {
                this.stage.now.store(IDLE, Ordering::Relaxed);
                this.head_start.expect(!this.stage.has_body.load(Ordering::Relaxed));
                this.waiting = None;
            }
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
