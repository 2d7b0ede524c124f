//! The counterpart of [`retarget`](crate::proxy::request::retarget): restores the targets in heads to the backend.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::request::retarget::NextTarget;

/// A connection with a backend that restores targets as heads are written.
#[derive(Debug)]
pub(crate) struct Restoring<S> {
    stream: S,
    next: NextTarget,
    head: Option<RestoredHead>,
}

/// A head to be written in place of hyper's.
#[derive(Debug)]
struct RestoredHead {
    bytes: Vec<u8>,
    written: usize,
    /// The number of hyper's bytes that it replaces.
    stands_for: usize,
}

impl<S> Restoring<S> {
    pub(crate) fn new(stream: S, next: NextTarget) -> Self {
        Self { stream, next, head: None }
    }

    /// The connection.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    fn begin(&mut self, bufs: &[IoSlice<'_>]) {
        let Some(retarget) = self.next.take() else { return };
        // hyper writes a head in one piece, before anything else of its request.
        let Some(first) = bufs.iter().find(|buf| !buf.is_empty()) else { return self.next.set(Some(retarget)) };
        self.head = retarget.restore(first).map(|bytes| RestoredHead { bytes, written: 0, stands_for: first.len() });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Restoring<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Restoring<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.begin(bufs);
        let Some(head) = &mut this.head else { return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) };
        while head.written < head.bytes.len() {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, &head.bytes[head.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => head.written += written,
            }
        }
        let stands_for = head.stands_for;
        this.head = None;
        Poll::Ready(Ok(stands_for))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::proxy::request::retarget::Retarget;

    #[tokio::test]
    async fn the_head_is_restored_however_little_the_socket_takes() {
        let (_, retarget) = Retarget::of(b"GET /a?\" HTTP/1.1\r\n\r\n").unwrap();
        let (near, mut far) = tokio::io::duplex(3);
        let next = NextTarget::default();
        let mut restoring = Restoring::new(near, next.clone());
        let writing = tokio::spawn(async move {
            restoring.write_all(b"GET /other HTTP/1.1\r\n\r\n").await.unwrap();
            next.set(Some(retarget));
            restoring.write_all(b"GET /a?%22 HTTP/1.1\r\n\r\n").await.unwrap();
            restoring.write_all(b"GET /a?%22 HTTP/1.1\r\n\r\n").await.unwrap();
        });
        let mut written = String::new();
        far.read_to_string(&mut written).await.unwrap();
        writing.await.unwrap();
        assert_eq!(written, "GET /other HTTP/1.1\r\n\r\nGET /a?\" HTTP/1.1\r\n\r\nGET /a?%22 HTTP/1.1\r\n\r\n");
    }
}
