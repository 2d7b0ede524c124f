//! A connection with a client or a backend, in plaintext or over TLS, which holds no buffer while nothing is in flight.
//!
//! Bytes are received into buffers that belong to the thread, which are released before the poll returns. What a socket
//! does not accept at once is kept here, at its exact size, and so is the beginning of an incomplete TLS record.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    ops::Range,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BufMut;
use futures::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready},
    net::TcpStream,
};

use super::{
    fault::Fault,
    records::{MAX_RECORD, Records, sealed_length},
};
use crate::proxy::bounds::{
    budget::{at_once, recount},
    clients::Seat,
};

/// When the kernel probes a silent peer, and when it considers the peer gone: after two minutes. Nothing else detects a
/// peer that lost power or its network while there is nothing to send to it. Frequent enough to also keep the entries
/// in NATs and firewalls in between.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Sets the options of every connection, with clients and with backends. Accepted ones inherit them from their
/// listener.
pub(crate) fn tune(socket: &impl AsFd) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

/// The maximum number of bytes read from a socket at once.
pub(crate) const READ: usize = 64 * 1024;
/// Space before received bytes, for bytes that a tunnel has kept from the last read.
pub(crate) const HEADROOM: usize = 131;
const PLAIN: usize = HEADROOM + MAX_RECORD + READ;

/// The buffers of a thread.
pub(crate) struct Buffers {
    /// Payload, received or to be sent.
    pub plain: Box<[u8]>,
    /// TLS records, received or to be sent.
    wire: Box<[u8]>,
    /// The number of TLS records in what was received last.
    pub records: usize,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        plain: vec![0; PLAIN].into(),
        wire: vec![0; sealed_length(PLAIN)].into(),
        records: 0,
    });
}

/// Lends the buffers of the thread, which must not be kept beyond a poll.
pub(crate) fn with_buffers<R>(work: impl FnOnce(&mut Buffers) -> R) -> R {
    BUFFERS.with_borrow_mut(work)
}

/// Waiting bytes, at their exact size.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Box<[u8]>,
    taken: usize,
}

impl Waiting {
    fn new(bytes: Box<[u8]>) -> Self {
        recount(0, bytes.len());
        Self { bytes, taken: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            *self = Self::new([self.rest(), bytes].concat().into());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        recount(self.bytes.len(), 0);
    }
}

/// How a peer has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It has closed its half, and may still read.
    HalfClosed,
    /// The connection is broken.
    Reset,
}

/// What the runtime knows about a socket without reading from it. `PRIORITY` reports the end of what the peer sends
/// but, unlike `READABLE`, not data.
const DEPARTED: Interest = Interest::PRIORITY.add(Interest::ERROR);

impl Departure {
    fn of(ready: Ready) -> Self {
        if ready.is_error() { Self::Reset } else { Self::HalfClosed }
    }
}

/// A connection.
pub(crate) struct Stream {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
    /// Bytes that the socket has not accepted.
    unsent: Waiting,
    /// Payload that was received but not taken.
    ahead: Waiting,
    /// Its place in the count of its client's connections, released with the socket.
    _seat: Option<Seat>,
}

/// The state of TLS on a connection.
struct Tls {
    records: Records,
    /// Records that have not been opened: an incomplete one, or those that arrived with the handshake.
    received: Waiting,
    /// Whether there may be complete ones among them.
    unopened: bool,
    /// Why nothing more will be received.
    end: Option<Result<(), Fault>>,
    /// Whether our last record has been sealed.
    closed: bool,
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self { socket, tls: None, unsent: Waiting::default(), ahead: Waiting::default(), _seat: None }
    }
}

impl Stream {
    /// A client's connection, counted for as long as it is open.
    pub(crate) fn seated(self, seat: Option<Seat>) -> Self {
        Self { _seat: seat, ..self }
    }

    /// A connection after its TLS handshake, with the bytes received after it and those still to be sent.
    pub(crate) fn secured(socket: TcpStream, records: Records, received: &[u8], unsent: &[u8]) -> Self {
        let tls = Tls { records, received: Waiting::new(received.into()), unopened: true, end: None, closed: false };
        let mut stream = Self { tls: Some(Box::new(tls)), ..Self::from(socket) };
        stream.unsent.push(unsent);
        stream
    }

    /// The TLS version as a label.
    pub(crate) fn tls_version(&self) -> &'static str {
        self.tls.as_ref().map_or("none", |tls| tls.records.version())
    }

    /// Puts payload back, to be received before everything else.
    pub(crate) fn unread(&mut self, payload: &[u8]) {
        let behind = std::mem::take(&mut self.ahead);
        self.ahead.push(payload);
        self.ahead.push(behind.rest());
    }

    /// The number of bytes that the socket has not accepted yet.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.rest().len()
    }

    /// Ready when the peer has closed its half or reset the connection, whether or not everything that it sent before
    /// has been read. Waits without reading.
    pub(crate) async fn left(&self) -> Departure {
        match self.socket.ready(DEPARTED).await {
            Ok(ready) => Departure::of(ready),
            Err(_) => Departure::Reset,
        }
    }

    /// The same, if already known.
    pub(crate) fn has_left(&self) -> Option<Departure> {
        self.left().now_or_never()
    }

    /// Ready when the connection to a peer that has closed its half is broken.
    pub(crate) async fn broken(&self) {
        let _ = self.socket.ready(Interest::ERROR).await;
    }

    /// Receives payload after the headroom of the thread's buffer, and returns its length: 0 at the end. Reads at most
    /// `most` bytes at once.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        buffers.records = 0;
        let most = most.min(READ);
        let ahead = self.ahead.rest();
        if !ahead.is_empty() {
            let length = ahead.len().min(most);
            buffers.plain[HEADROOM..HEADROOM + length].copy_from_slice(&ahead[..length]);
            self.ahead.take(length);
            return Poll::Ready(Ok(length));
        }
        let Some(tls) = &mut self.tls else {
            return poll_read(&mut self.socket, cx, &mut buffers.plain[HEADROOM..HEADROOM + at_once(most)]);
        };
        loop {
            match tls.end {
                None => {}
                Some(Ok(())) => return Poll::Ready(Ok(0)),
                Some(Err(fault)) => {
                    if !std::mem::replace(&mut tls.closed, true)
                        && let Some(alert) = tls.records.seal_fault(fault)
                    {
                        self.unsent.push(&alert);
                        // Nothing more is written to a broken connection, so what is not sent now never is.
                        let _ = self.poll_sent(cx);
                    }
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
            }
            let length = ready!(tls.poll_open(cx, &mut self.socket, buffers, most))?;
            if length > 0 {
                return Poll::Ready(Ok(length));
            }
        }
    }

    /// Receives payload as [`Stream::poll_receive`] does, and appends it to `received`.
    pub(crate) fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        received: &mut impl BufMut,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        with_buffers(|buffers| {
            let length = ready!(self.poll_receive(cx, buffers, most))?;
            received.put_slice(&buffers.plain[HEADROOM..HEADROOM + length]);
            Poll::Ready(Ok(length))
        })
    }

    /// Sends payload from the thread's buffer. What the socket does not accept waits for [`Stream::poll_sent`].
    pub(crate) fn send(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        payload: Range<usize>,
    ) -> io::Result<()> {
        let Buffers { plain, wire, .. } = buffers;
        let bytes = match &mut self.tls {
            None => &plain[payload],
            Some(tls) => {
                let length = tls.records.seal(&plain[payload], wire).map_err(io::Error::other)?;
                &wire[..length]
            }
        };
        if self.unsent() > 0 {
            self.unsent.push(bytes);
            return match self.poll_sent(cx) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            };
        }
        let taken = match Pin::new(&mut self.socket).poll_write(cx, bytes) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        self.unsent.push(&bytes[taken..]);
        Ok(())
    }

    /// Ready when the socket has accepted everything.
    pub(crate) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent() > 0 {
            let taken = ready!(Pin::new(&mut self.socket).poll_write(cx, self.unsent.rest()))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.take(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl Tls {
    /// Receives and opens records, possibly without any payload or the end.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        buffers: &mut Buffers,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let Buffers { plain, wire, records } = buffers;
        let mut filled = self.received.rest().len();
        if !std::mem::take(&mut self.unopened) {
            let read = ready!(poll_read(socket, cx, &mut wire[filled..filled + at_once(most)]))?;
            if read == 0 {
                // Many clients close without close_notify; frames and lengths show what is complete, so nothing is
                // lost.
                self.end = Some(Ok(()));
                return Poll::Ready(Ok(0));
            }
            filled += read;
        }
        let kept = self.received.rest();
        wire[..kept.len()].copy_from_slice(kept);
        let opened = self.records.open(&wire[..filled], &mut plain[HEADROOM..]);
        *records += opened.records;
        self.received = Waiting::new(wire[opened.consumed..filled].into());
        self.end = opened.end;
        Poll::Ready(Ok(opened.payload))
    }
}

fn poll_read(socket: &mut TcpStream, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(room);
    ready!(Pin::new(socket).poll_read(cx, &mut room))?;
    Poll::Ready(Ok(room.filled().len()))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ahead = this.ahead.rest();
        if !ahead.is_empty() {
            let length = ahead.len().min(buf.remaining());
            buf.put_slice(&ahead[..length]);
            this.ahead.take(length);
            return Poll::Ready(Ok(()));
        }
        if this.tls.is_none() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        with_buffers(|buffers| {
            let length = ready!(this.poll_receive(cx, buffers, buf.remaining()))?;
            let payload = &buffers.plain[HEADROOM..HEADROOM + length];
            let (now, later) = payload.split_at(length.min(buf.remaining()));
            buf.put_slice(now);
            this.unread(later);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.tls.is_none() {
            return Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        }
        // Nothing more is sealed before the socket has accepted earlier records: it would wait here.
        ready!(this.poll_sent(cx))?;
        with_buffers(|buffers| {
            let mut length = 0;
            for buf in bufs {
                let taken = buf.len().min(READ - length);
                buffers.plain[length..length + taken].copy_from_slice(&buf[..taken]);
                length += taken;
            }
            Poll::Ready(this.send(cx, buffers, 0..length).map(|()| length))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(tls) = &mut this.tls
            && !std::mem::replace(&mut tls.closed, true)
        {
            let close_notify = tls.records.seal_close_notify().map_err(io::Error::other)?;
            this.unsent.push(&close_notify);
        }
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// Reads what the peer still sends until it closes, for a limited time.
pub(crate) async fn await_end(stream: &mut Stream, patience: Duration) {
    let _ = tokio::time::timeout(patience, drain(stream)).await;
}

async fn drain(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; 4096];
    while let Ok(1..) = stream.read(&mut buffer).await {}
}

/// Closes a connection so that everything written arrives: first our half; then what the peer still sends is read, for
/// a limited time. Closing a socket with unread bytes resets the connection, and a reset destroys what the peer has not
/// read yet (RFC 9112 §9.6).
pub(crate) async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin, patience: Duration) {
    // On the heap, so that a future that may have to close does not carry the buffer until then.
    let drain = Box::pin(async move {
        if stream.shutdown().await.is_ok() {
            drain(&mut stream).await;
        }
    });
    let _ = tokio::time::timeout(patience, drain).await;
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::Ipv4Addr};

    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::bounds::budget::{BUDGET, LITTLE};

    async fn connected() -> (TcpStream, Stream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        (connect.await.unwrap(), listener.accept().await.unwrap().0.into())
    }

    #[tokio::test]
    async fn less_is_read_at_once_while_the_budget_of_the_thread_is_spent() {
        let (mut peer, mut stream) = connected().await;
        peer.write_all(&vec![7; 4 * READ]).await.unwrap();
        let mut slow = Stream::from(peer);
        let much = vec![0; BUDGET];
        slow.unread(&much);
        for (taken, most) in [(0, LITTLE), (BUDGET, READ)] {
            slow.ahead.take(taken);
            let receive = poll_fn(|cx| with_buffers(|buffers| stream.poll_receive(cx, buffers, READ)));
            let received = receive.await.unwrap();
            assert!(received > 0 && received <= most, "{received} of {most}");
            assert!(most == LITTLE || received > LITTLE, "{received}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_leaves_is_noticed_although_nothing_of_what_it_sent_is_read() {
        for (is_reset, expected) in [(true, Departure::Reset), (false, Departure::HalfClosed)] {
            let (mut peer, stream) = connected().await;
            peer.write_all(&vec![7; READ]).await.unwrap();
            stream.socket.readable().await.unwrap();
            assert_eq!(stream.has_left(), None);
            if is_reset {
                peer.set_zero_linger().unwrap();
                drop(peer);
            } else {
                peer.shutdown().await.unwrap();
            }
            assert_eq!(stream.left().await, expected);
            assert_eq!(stream.has_left(), Some(expected));
        }
    }

    #[tokio::test]
    async fn a_reset_behind_a_half_close_is_noticed() {
        let (mut peer, stream) = connected().await;
        peer.write_all(b"unread").await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(stream.left().await, Departure::HalfClosed);
        peer.set_zero_linger().unwrap();
        drop(peer);
        stream.broken().await;
    }
}
