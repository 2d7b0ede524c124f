//! Passing opaque bytes both ways, with nothing held while nothing is in flight.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const BUFFER: usize = 64 * 1024;
/// What one direction passes on before other tunnels of the thread get their turn. tokio's own budget counts
/// operations, and 128 reads of 64 KiB are 8 MiB.
const BUDGET: usize = 4 * BUFFER;

thread_local! {
    /// Read into and written from within one poll, so one is enough for all tunnels of a thread.
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Which of the two sides a failure belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The one that is read.
    Reader,
    /// The one that is written.
    Writer,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
pub(super) struct Flow {
    leftover: Option<Leftover>,
    stage: Stage,
    /// Whether the writer may hold bytes of ours that it has not sent.
    unflushed: bool,
}

/// Bytes that were read and that the writer did not take yet, at their exact size.
#[derive(Debug)]
struct Leftover {
    bytes: Box<[u8]>,
    written: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The reader has ended; the writer has not been told.
    Ended,
    /// The writer has been told.
    Closed,
    /// The writer is gone. What the reader still sends is thrown away, so that it is not held up by that.
    Void,
    /// The same, and the reader has ended.
    Over,
}

impl Flow {
    /// A direction in which these bytes come first.
    pub(super) fn starting_with(bytes: &[u8]) -> Self {
        let leftover = (!bytes.is_empty()).then(|| Leftover { bytes: bytes.into(), written: 0 });
        Self { leftover, ..Self::default() }
    }

    /// Whether the reader has ended.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.stage, Stage::Open | Stage::Void)
    }

    /// Whether the writer has been told of the end.
    pub(super) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Passes on what is there. Ready when the end has been passed on as well; `count` is told of bytes written.
    ///
    /// A failure is told once, and is no reason to stop: behind one of the reader, what came before it is still to be
    /// passed on; behind one of the writer, the reader is read into the void.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: Pin<&mut (impl AsyncRead + ?Sized)>,
        writer: Pin<&mut (impl AsyncWrite + ?Sized)>,
        count: &mut impl FnMut(usize),
    ) -> Poll<Result<(), Failure>> {
        if self.stage == Stage::Void {
            return self.poll_discard(cx, reader).map(Ok);
        }
        let polled = self.poll_passing(cx, reader, writer, count);
        if let Poll::Ready(Err(failure)) = polled {
            self.fail(failure);
        }
        polled
    }

    fn fail(&mut self, failure: Failure) {
        self.stage = match (failure, self.stage) {
            (Failure::Reader, _) => Stage::Ended,
            (Failure::Writer, Stage::Open) => Stage::Void,
            (Failure::Writer, _) => Stage::Over,
        };
        if failure == Failure::Writer {
            self.leftover = None;
        }
    }

    /// Ready when the reader has ended, in whichever way.
    fn poll_discard(&mut self, cx: &mut Context<'_>, mut reader: Pin<&mut (impl AsyncRead + ?Sized)>) -> Poll<()> {
        let mut budget = BUDGET;
        while budget > 0 {
            let read = SHARED.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                reader.as_mut().poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
            });
            let Ok(count @ 1..) = ready!(read) else {
                self.stage = Stage::Over;
                return Poll::Ready(());
            };
            budget = budget.saturating_sub(count);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_passing(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut (impl AsyncRead + ?Sized)>,
        mut writer: Pin<&mut (impl AsyncWrite + ?Sized)>,
        count: &mut impl FnMut(usize),
    ) -> Poll<Result<(), Failure>> {
        let mut budget = BUDGET;
        while self.stage == Stage::Open {
            // Nothing is read before the leftover is gone: that is what holds the sender back.
            ready!(self.poll_leftover(cx, writer.as_mut(), count)).map_err(|_| Failure::Writer)?;
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(read) = self.poll_pass(cx, reader.as_mut(), writer.as_mut(), count) else {
                ready!(self.poll_flush(cx, writer)).map_err(|_| Failure::Writer)?;
                return Poll::Pending;
            };
            budget = budget.saturating_sub(read?);
        }
        self.poll_end(cx, writer, count).map_err(|_| Failure::Writer)
    }

    /// Reads once, and writes as much of it as the writer takes.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        reader: Pin<&mut (impl AsyncRead + ?Sized)>,
        writer: Pin<&mut (impl AsyncWrite + ?Sized)>,
        count: &mut impl FnMut(usize),
    ) -> Poll<Result<usize, Failure>> {
        SHARED.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(reader.poll_read(cx, &mut buffer)).map_err(|_| Failure::Reader)?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.stage = Stage::Ended;
                return Poll::Ready(Ok(0));
            }
            let written = match writer.poll_write(cx, bytes) {
                Poll::Ready(written) => written.map_err(|_| Failure::Writer)?,
                Poll::Pending => 0,
            };
            count(written);
            self.unflushed = true;
            if written < bytes.len() {
                self.leftover = Some(Leftover { bytes: bytes[written..].into(), written: 0 });
            }
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_leftover(
        &mut self,
        cx: &mut Context<'_>,
        mut writer: Pin<&mut (impl AsyncWrite + ?Sized)>,
        count: &mut impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        while let Some(leftover) = &mut self.leftover {
            let written = ready!(writer.as_mut().poll_write(cx, &leftover.bytes[leftover.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            count(written);
            self.unflushed = true;
            leftover.written += written;
            if leftover.written == leftover.bytes.len() {
                self.leftover = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// TLS keeps what the socket did not take.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        writer: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(writer.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        mut writer: Pin<&mut (impl AsyncWrite + ?Sized)>,
        count: &mut impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        if self.stage == Stage::Ended {
            ready!(self.poll_leftover(cx, writer.as_mut(), count))?;
            ready!(writer.as_mut().poll_shutdown(cx))?;
            self.stage = Stage::Closed;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_in_order_through_a_writer_that_takes_few_at_a_time() {
        let (mut source, reader) = duplex(1024);
        let (writer, mut sink) = duplex(7);
        let message: Vec<u8> = (0..50_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
        let expected = [b"early ".as_slice(), &message].concat();
        let relay = async {
            let (mut flow, mut counted) = (Flow::starting_with(b"early "), 0);
            let (mut reader, mut writer) = (pin!(reader), pin!(writer));
            let mut count = |bytes| counted += bytes;
            poll_fn(|cx| flow.poll(cx, reader.as_mut(), writer.as_mut(), &mut count)).await.unwrap();
            counted
        };
        let send = async {
            source.write_all(&message).await.unwrap();
            source.shutdown().await.unwrap();
        };
        let receive = async {
            let mut received = Vec::new();
            sink.read_to_end(&mut received).await.unwrap();
            received
        };
        let (counted, (), received) = tokio::join!(relay, send, receive);
        assert!(received == expected, "bytes were lost, doubled or reordered");
        assert_eq!(counted, expected.len());
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_is_told_once_and_does_not_hold_the_reader_up() {
        let (mut source, reader) = duplex(16);
        let (writer, sink) = duplex(16);
        drop(sink);
        let (mut flow, mut reader, mut writer) = (Flow::default(), pin!(reader), pin!(writer));
        let send = tokio::spawn(async move { source.write_all(&[1; 1000]).await });
        let failure = poll_fn(|cx| flow.poll(cx, reader.as_mut(), writer.as_mut(), &mut |_| ())).await;
        assert_eq!(failure, Err(Failure::Writer));
        assert!(!flow.has_ended());
        poll_fn(|cx| flow.poll(cx, reader.as_mut(), writer.as_mut(), &mut |_| ())).await.unwrap();
        assert!(flow.has_ended() && !flow.is_closed());
        send.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nothing_is_read_while_the_writer_takes_nothing() {
        let (mut source, reader) = duplex(1 << 20);
        let (writer, _sink) = duplex(1);
        source.write_all(&vec![1; 1 << 20]).await.unwrap();
        let (mut flow, mut reader, mut writer) = (Flow::default(), pin!(reader), pin!(writer));
        poll_fn(|cx| {
            assert!(flow.poll(cx, reader.as_mut(), writer.as_mut(), &mut |_| ()).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(flow.leftover.is_some_and(|leftover| leftover.bytes.len() <= BUFFER));
        let freed = std::future::poll_fn(|cx| Pin::new(&mut source).poll_write(cx, &vec![1; 1 << 20])).await.unwrap();
        assert!(freed <= BUFFER, "{freed} bytes were read");
    }
}
