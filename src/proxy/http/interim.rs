//! Interim responses from a backend to a client (RFC 9110 §15.2). hyper's server sends none of its own except 100, so
//! `client_io` writes them, before the response that they announce.

use std::sync::{Mutex, MutexGuard};

use bytes::BytesMut;
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode, header::CONTENT_LENGTH};

use crate::proxy::{fields::Fields, request::hop_by_hop};

/// The maximum number of bytes that wait for a slow client; more is dropped, which interim responses allow.
const MAX_WAITING: usize = 16 * 1024;

/// Interim responses to be written before the response to the current request.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    waiting: Mutex<PendingInterim>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct PendingInterim {
    /// The number of requests so far; a late backend must not write into the response to another request.
    request: u64,
    /// Whether the response to the current request is still to come.
    is_open: bool,
    bytes: Vec<u8>,
}

impl Interim {
    /// Begins a request; returns its number, which [`Interim::push`] needs.
    pub(crate) fn begin(&self) -> u64 {
        let mut waiting = self.lock();
        waiting.request += 1;
        waiting.is_open = true;
        waiting.request
    }

    /// Stops interim responses, because the response to the current request is about to be written.
    pub(crate) fn end(&self) {
        self.lock().is_open = false;
    }

    /// Adds an interim response, and wakes the writer.
    pub(crate) fn push(&self, request: u64, head: &[u8]) {
        let mut waiting = self.lock();
        if waiting.is_open && waiting.request == request && waiting.bytes.len() + head.len() <= MAX_WAITING {
            waiting.bytes.extend_from_slice(head);
            drop(waiting);
            self.waker.wake();
        }
    }

    /// Takes the waiting bytes.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().bytes)
    }

    /// Drops what can no longer be written before the response.
    pub(crate) fn drop_late(&self) {
        let mut waiting = self.lock();
        if !waiting.is_open {
            waiting.bytes = Vec::new();
        }
    }

    /// Wakes this task when there is something to write.
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    fn lock(&self) -> MutexGuard<'_, PendingInterim> {
        self.waiting.lock().expect("no holder panics")
    }
}

/// The progress of writing interim responses between hyper's writes.
#[derive(Debug, Default)]
pub(crate) struct Between {
    /// The bytes left to write.
    pub left: BytesMut,
    /// Whether hyper is in the middle of a write, where nothing may be inserted.
    pub mid_write: bool,
}

/// An interim response as sent to the client: like any other, without hop-by-hop fields.
pub(crate) fn head(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut fields = fields.clone();
    hop_by_hop::strip(&mut fields, |_| false);
    Fields::remove(&mut fields, &CONTENT_LENGTH);
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in &fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_current_request_gets_interim_responses_and_only_before_its_own() {
        let interim = Interim::default();
        let first = interim.begin();
        interim.push(first, b"a");
        assert_eq!(interim.take(), b"a");
        interim.end();
        interim.push(first, b"late");
        let second = interim.begin();
        interim.push(first, b"later");
        assert!(interim.take().is_empty());
        interim.push(second, b"b");
        interim.drop_late();
        interim.push(second, &[0; MAX_WAITING]);
        assert_eq!(interim.take(), b"b");
    }
}
