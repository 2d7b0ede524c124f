//! The start of each head on a client's connection, before hyper sees it: rewrites the target if necessary.

use crate::proxy::request::{
    check::MAX_TARGET,
    retarget::{Retarget, after_empty_lines},
};

/// Whether there is a complete line, not counting empty ones.
fn has_line(bytes: &[u8]) -> bool {
    after_empty_lines(bytes).contains(&b'\n')
}

/// Finds the targets to rewrite at the start of heads.
#[derive(Debug)]
pub(crate) struct HeadStart {
    /// Whether a head begins next. Set only if certain: bytes of a body must not be changed.
    is_next: bool,
    /// A first line that is not complete.
    held: Vec<u8>,
    /// The last bytes that hyper has received.
    tail: [u8; 3],
}

/// What hyper reads in place of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The bytes as received.
    AsReceived,
    /// Nothing until more arrives.
    Nothing,
    /// These bytes instead; if they contain a rewritten target, with how to restore it.
    Instead(Vec<u8>, Option<Retarget>),
}

impl HeadStart {
    /// At the start of a connection.
    pub(crate) fn new() -> Self {
        Self { is_next: true, held: Vec::new(), tail: [0; 3] }
    }

    /// A head begins next if the last one had no body, and if hyper has not received the start of the next head with
    /// the end of the last one.
    pub(crate) fn expect(&mut self, had_no_body: bool) {
        self.is_next = had_no_body && (self.tail == *b"\n\r\n" || self.tail.ends_with(b"\n\n"));
    }

    /// Whether no bytes of a head are held back.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Processes received bytes, of which there are none at the end of the stream.
    pub(crate) fn read(&mut self, received: &[u8]) -> Reading {
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
        if self.held.is_empty() && after_empty_lines(received).is_empty() {
            // Never held back: they could be the end of a head whose start hyper already has.
            return Reading::AsReceived;
        }
        if self.held.is_empty() && has_line(received) {
            self.is_next = false;
            let rewritten = Retarget::of(received);
            return rewritten.map_or(Reading::AsReceived, |(bytes, retarget)| Reading::Instead(bytes, Some(retarget)));
        }
        let is_full = self.held.len() > MAX_TARGET;
        self.held.extend_from_slice(received);
        if after_empty_lines(&self.held).is_empty() {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
