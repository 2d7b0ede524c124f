//! Targets that hyper's type for them cannot hold, although clients send them.
//!
//! `http::Uri` refuses `"`, `<`, `>` and a backquote in some or all parts of a target. Browsers and curl send them as
//! they are, mostly in a query, and a proxy has no business changing a target. So hyper reads such a head with the
//! characters escaped, and the head that it writes to the backend gets them back.

use std::{
    borrow::Cow,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::MAX_TARGET;

/// A target in two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Retarget {
    /// As hyper has it.
    escaped: String,
    /// As the client sent it.
    sent: String,
}

/// Escapes the characters of a target that hyper does not take.
fn escape(target: &str) -> Cow<'_, str> {
    if !target.contains(is_refused) {
        return Cow::Borrowed(target);
    }
    let mut escaped = String::with_capacity(target.len() + 16);
    for char in target.chars() {
        match char {
            '"' => escaped.push_str("%22"),
            '<' => escaped.push_str("%3C"),
            '>' => escaped.push_str("%3E"),
            '`' => escaped.push_str("%60"),
            char => escaped.push(char),
        }
    }
    Cow::Owned(escaped)
}

/// A target as hyper writes it: without a fragment, and without scheme and authority, behind which there may be no path.
fn origin_form(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => match rest.find(['/', '?']).map(|start| &rest[start..]) {
            Some(path) if path.starts_with('/') => path.to_owned(),
            query => format!("/{}", query.unwrap_or_default()),
        },
        _ => target.to_owned(),
    }
}

/// What is behind the empty lines that may precede a request (RFC 9112 §2.2).
fn behind_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
        bytes = rest;
    }
    bytes
}

/// Whether there is a whole line, not counting empty ones.
fn has_line(bytes: &[u8]) -> bool {
    behind_empty_lines(bytes).contains(&b'\n')
}

fn is_refused(char: char) -> bool {
    matches!(char, '"' | '<' | '>' | '`')
}

impl Retarget {
    /// Makes hyper take what begins with a head whose target it refuses: gives the bytes to read instead, and what the
    /// target was. `None` if the target is not the trouble.
    pub(super) fn of(received: &[u8]) -> Option<(Vec<u8>, Self)> {
        let head = behind_empty_lines(received);
        let line = head.split(|byte| *byte == b'\n').next()?;
        let mut parts = str::from_utf8(line).ok()?.split(' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        if !version.starts_with("HTTP/1.") || parts.next().is_some() {
            return None;
        }
        let Cow::Owned(escaped) = escape(target) else { return None };
        let behind = &head[method.len() + 1 + target.len()..];
        let bytes = [method.as_bytes(), b" ", escaped.as_bytes(), behind].concat();
        Some((bytes, Self { escaped: origin_form(&escaped), sent: origin_form(target) }))
    }

    /// The head of a request with the target as it was sent; `None` if it is not the head of this one.
    fn restore(&self, head: &[u8]) -> Option<Vec<u8>> {
        let start = head.iter().position(|byte| *byte == b' ')? + 1;
        let behind = head[start..].strip_prefix(self.escaped.as_bytes()).filter(|rest| rest.starts_with(b" "))?;
        Some([&head[..start], self.sent.as_bytes(), behind].concat())
    }
}

/// Watches for such targets at the start of heads, before hyper sees them.
#[derive(Debug)]
pub(super) struct HeadStart {
    /// Whether what comes next begins a head. Never in doubt: bytes of a body must not be changed.
    is_next: bool,
    /// A first line whose end has not come.
    held: Vec<u8>,
    /// The last bytes that hyper has got.
    tail: [u8; 3],
}

/// What hyper is to read of what was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// What was received.
    AsReceived,
    /// Nothing until more has come.
    Nothing,
    /// These bytes instead. Of a rewritten target, how to restore it.
    Instead(Vec<u8>, Option<Retarget>),
}

impl HeadStart {
    /// At the start of a connection.
    pub(super) fn new() -> Self {
        Self { is_next: true, held: Vec::new(), tail: [0; 3] }
    }

    /// What comes next begins a head if the last one had no body, and if hyper has not got the start of the next head
    /// with the end of the last one.
    pub(super) fn expect(&mut self, had_no_body: bool) {
        self.is_next = had_no_body && (self.tail == *b"\n\r\n" || self.tail.ends_with(b"\n\n"));
    }

    /// Whether there is nothing of a head that hyper has not got.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes what was received, which is nothing at the end.
    pub(super) fn read(&mut self, received: &[u8]) -> Reading {
        let reading = self.judge(received);
        if reading == Reading::AsReceived {
            for byte in &received[received.len().saturating_sub(self.tail.len())..] {
                self.tail.rotate_left(1);
                self.tail[2] = *byte;
            }
        }
        reading
    }

    fn judge(&mut self, received: &[u8]) -> Reading {
        if !self.is_next {
            return Reading::AsReceived;
        }
        if self.held.is_empty() && behind_empty_lines(received).is_empty() {
            // Never held back: they may as well be the end of a head that hyper has the start of.
            return Reading::AsReceived;
        }
        if self.held.is_empty() && has_line(received) {
            self.is_next = false;
            let rewritten = Retarget::of(received);
            return rewritten.map_or(Reading::AsReceived, |(bytes, retarget)| Reading::Instead(bytes, Some(retarget)));
        }
        let is_full = self.held.len() > MAX_TARGET;
        self.held.extend_from_slice(received);
        if behind_empty_lines(&self.held).is_empty() {
            return Reading::Instead(std::mem::take(&mut self.held), None);
        }
        let is_whole = received.is_empty() || is_full || received.contains(&b'\n') && has_line(&self.held);
        if !is_whole {
            return Reading::Nothing;
        }
        self.is_next = false;
        let held = std::mem::take(&mut self.held);
        match Retarget::of(&held) {
            Some((bytes, retarget)) => Reading::Instead(bytes, Some(retarget)),
            None => Reading::Instead(held, None),
        }
    }
}

/// What the next request on a connection is to have for its target.
#[derive(Clone, Debug, Default)]
pub(super) struct NextTarget(Arc<Mutex<Option<Retarget>>>);

impl NextTarget {
    /// Restores the target of the next request.
    pub(super) fn set(&self, retarget: Option<Retarget>) {
        *self.0.lock().expect("no holder panics") = retarget;
    }

    /// How the target of the request that comes now is to be restored.
    pub(super) fn take(&self) -> Option<Retarget> {
        self.0.lock().expect("no holder panics").take()
    }
}

/// A connection with a backend on which targets are restored as they are written.
#[derive(Debug)]
pub(super) struct Restoring<S> {
    stream: S,
    next: NextTarget,
    head: Option<Head>,
}

/// A head on its way out in place of the one that hyper gave.
#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    written: usize,
    /// The bytes of hyper's that it stands for.
    stands_for: usize,
}

impl<S> Restoring<S> {
    pub(super) fn new(stream: S, next: NextTarget) -> Self {
        Self { stream, next, head: None }
    }

    /// The connection.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn begin(&mut self, bufs: &[IoSlice<'_>]) {
        let Some(retarget) = self.next.take() else { return };
        // hyper writes a head as one piece, before anything else of its request.
        let Some(first) = bufs.iter().find(|buf| !buf.is_empty()) else { return self.next.set(Some(retarget)) };
        self.head = retarget.restore(first).map(|bytes| Head { bytes, written: 0, stands_for: first.len() });
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

    #[test]
    fn only_targets_with_such_characters_are_rewritten() {
        let (bytes, retarget) = Retarget::of(b"GET /a?b=\"<>`|{} HTTP/1.1\r\nX: \"\r\n\r\n").unwrap();
        assert_eq!(bytes, b"GET /a?b=%22%3C%3E%60|{} HTTP/1.1\r\nX: \"\r\n\r\n");
        assert_eq!(retarget.sent, "/a?b=\"<>`|{}");
        let others =
            ["GET /a HTTP/1.1\r\nX: \"\r\n\r\n", "GET", "", "GET /\"", "X: \"a\" b\r\n", "GET /\" HTTP/1.1 x\r\n"];
        for head in others {
            assert_eq!(Retarget::of(head.as_bytes()), None, "{head}");
        }
        let (_, absolute) = Retarget::of(b"GET http://a/b?\"c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((&*absolute.escaped, &*absolute.sent), ("/b?%22c", "/b?\"c"));
    }

    #[test]
    fn the_target_that_is_restored_is_the_one_that_hyper_writes() {
        let cases = [
            ("/a?u=http://b/\"c", "/a?u=http://b/%22c", "/a?u=http://b/\"c"),
            ("http://a?\"b", "/?%22b", "/?\"b"),
            ("http://a/\"b#c", "/%22b", "/\"b"),
            ("/a\"?b#c\"", "/a%22?b", "/a\"?b"),
        ];
        for (target, escaped, sent) in cases {
            let (_, retarget) = Retarget::of(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            assert_eq!((&*retarget.escaped, &*retarget.sent), (escaped, sent), "{target}");
        }
    }

    #[test]
    fn empty_lines_before_a_head_do_not_hide_its_target() {
        for before in ["\r\n", "\n", "\r\n\r\n"] {
            let head = format!("{before}GET /\" HTTP/1.1\r\n\r\n");
            for cut in 1..head.len() {
                let mut start = HeadStart::new();
                let mut seen = Vec::new();
                for piece in [&head[..cut], &head[cut..]] {
                    match start.read(piece.as_bytes()) {
                        Reading::Instead(bytes, _) => seen.extend(bytes),
                        Reading::AsReceived => seen.extend(piece.as_bytes()),
                        Reading::Nothing => {}
                    }
                }
                assert_eq!(
                    String::from_utf8(seen).unwrap().trim_start(),
                    "GET /%22 HTTP/1.1\r\n\r\n",
                    "{before:?}, {cut}"
                );
            }
        }
    }

    #[test]
    fn a_head_is_rewritten_wherever_it_is_cut() {
        let head = b"GET /a?\" HTTP/1.1\r\nHost: a\r\n\r\n";
        let (whole, retarget) = Retarget::of(head).unwrap();
        for cut in 1..head.len() {
            let mut start = HeadStart::new();
            let (first, second) = (start.read(&head[..cut]), start.read(&head[cut..]));
            match (first, second) {
                (Reading::Nothing, Reading::Instead(bytes, Some(restored))) => {
                    assert_eq!((bytes, restored), (whole.clone(), retarget.clone()));
                }
                (Reading::Instead(bytes, Some(restored)), Reading::AsReceived) => {
                    assert_eq!(([&bytes, &head[cut..]].concat(), restored), (whole.clone(), retarget.clone()));
                }
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_a_head_of_which_hyper_has_the_start_is_not_held_back() {
        for end in ["\r\n\r\n", "\r\n", "\n"] {
            assert_eq!(HeadStart::new().read(end.as_bytes()), Reading::AsReceived);
        }
        let mut start = HeadStart::new();
        assert_eq!(start.read(b"\r"), Reading::Nothing);
        assert_eq!(start.read(b"\n"), Reading::Instead(b"\r\n".to_vec(), None));
        assert_eq!(start.read(b"\r\n"), Reading::AsReceived);
    }

    #[test]
    fn only_the_start_of_a_head_is_looked_at() {
        let head = b"GET / HTTP/1.1\r\n\r\n";
        let mut start = HeadStart::new();
        assert_eq!(start.read(head), Reading::AsReceived);
        start.expect(false);
        assert_eq!(start.read(b"GET /a?\" HTTP/1.1\r\n"), Reading::AsReceived, "which may be a body");
        let mut start = HeadStart::new();
        assert_eq!(start.read(&[&head[..], b"GET / HTTP/1.1\r\nX: "].concat()), Reading::AsReceived);
        start.expect(true);
        assert_eq!(start.read(b"GET /a?\" HTTP/1.1\r\n"), Reading::AsReceived, "which is the value of a field");
        let mut start = HeadStart::new();
        assert_eq!(start.read(b"GET /a"), Reading::Nothing);
        assert_eq!(start.read(b""), Reading::Instead(b"GET /a".to_vec(), None), "the end of the connection");
        let mut start = HeadStart::new();
        assert_eq!(start.read(&vec![b'a'; MAX_TARGET + 1]), Reading::Nothing);
        assert!(matches!(start.read(b"a"), Reading::Instead(..)), "no more than that is held");
    }

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
