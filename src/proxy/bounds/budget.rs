//! The bytes that peers make a thread hold: received, but not yet taken by their receiver.
//!
//! All of them count against one budget of the thread: heads, bodies, early bytes, partial TLS records, unread
//! responses, and data waiting in tunnels. A [`Charge`] counts bytes for as long as they are held. Callers ask
//! [`poll_room`] or [`at_once`] before they read.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use crate::metrics::HELD_BYTES;

/// The default budget of a thread in bytes, which [`limit_thread`] may reduce. Enough for a thousand slow readers.
pub(crate) const BUDGET: usize = 64 << 20;
/// How many bodies a thread may read in large parts at the same time.
const LARGE_READERS: usize = 8;
/// How many bytes one connection may hold when the budget is exhausted: enough to make progress, so that none starves.
pub(crate) const LITTLE: usize = 8 * 1024;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static LIMIT: Cell<usize> = const { Cell::new(BUDGET) };
    static LARGE: Cell<usize> = const { Cell::new(0) };
    static PAUSED: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Sets the budget of this thread, in bytes.
pub(crate) fn limit_thread(bytes: usize) {
    LIMIT.set(bytes);
}

/// Bytes that count against the budget of this thread until this is dropped, which must happen on the same thread.
#[derive(Debug, Default)]
pub(crate) struct Charge(usize);

impl Charge {
    /// Counts `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut charge = Self(0);
        charge.set(bytes);
        charge
    }

    /// The number of bytes counted.
    pub(crate) fn bytes(&self) -> usize {
        self.0
    }

    /// Changes the number of bytes.
    pub(crate) fn set(&mut self, bytes: usize) {
        recount(std::mem::replace(&mut self.0, bytes), bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts `now` bytes in place of `before`, for callers that keep track of both without a [`Charge`].
pub(crate) fn recount(before: usize, now: usize) {
    if before == now {
        return;
    }
    HELD_BYTES.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    // Saturates because tests may move a connection to another thread.
    let held = (HELD.get() + now).saturating_sub(before);
    HELD.set(held);
    if now < before && held < LIMIT.get() {
        wake_paused();
    }
}

fn wake_paused() {
    // Once the thread has ended, nobody waits any more.
    let paused = PAUSED.try_with(|paused| std::mem::take(&mut *paused.borrow_mut()));
    paused.into_iter().flatten().for_each(Waker::wake);
}

/// The right to read a body in large parts, until this is dropped, on the same thread. There are few, since each allows
/// that many bytes to be held, and a body whose receiver keeps up needs one only briefly.
#[derive(Debug)]
pub(crate) struct LargeReads(());

impl LargeReads {
    /// Acquires one, if any are left.
    pub(crate) fn acquire() -> Option<Self> {
        let count = LARGE.get();
        (count < LARGE_READERS && !is_spent()).then(|| {
            LARGE.set(count + 1);
            Self(())
        })
    }
}

impl Drop for LargeReads {
    fn drop(&mut self) {
        LARGE.set(LARGE.get().saturating_sub(1));
    }
}

fn is_spent() -> bool {
    HELD.get() >= LIMIT.get()
}

/// How many of `wanted` bytes to read at once, for callers that forward them before they read more.
pub(crate) fn at_once(wanted: usize) -> usize {
    if is_spent() { wanted.min(LITTLE) } else { wanted }
}

/// How many of `wanted` bytes may be read by a connection that already holds `held` bytes. Pending while the budget is
/// exhausted, except for connections that hold little.
pub(crate) fn poll_room(cx: &mut Context<'_>, wanted: usize, held: usize) -> Poll<usize> {
    if !is_spent() {
        return Poll::Ready(wanted);
    }
    if held < LITTLE {
        return Poll::Ready(wanted.min(LITTLE - held));
    }
    PAUSED.with_borrow_mut(|paused| paused.push(cx.waker().clone()));
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
    };

    use super::*;

    #[test]
    fn a_smaller_budget_is_spent_sooner() {
        limit_thread(1000);
        let _held = Charge::new(1000);
        assert_eq!(at_once(2 * LITTLE), LITTLE);
        limit_thread(BUDGET);
        assert_eq!(at_once(2 * LITTLE), 2 * LITTLE);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn with_an_exhausted_budget_only_connections_that_hold_little_read() {
        let woken = Arc::<Woken>::default();
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        let mut much = Charge::new(BUDGET - 1);
        assert_eq!(poll_room(&mut cx, 5 * LITTLE, LITTLE), Poll::Ready(5 * LITTLE));
        let more = Charge::new(1);
        assert_eq!(at_once(5 * LITTLE), LITTLE);
        assert_eq!(poll_room(&mut cx, 5 * LITTLE, 0), Poll::Ready(LITTLE));
        assert_eq!(poll_room(&mut cx, 5 * LITTLE, LITTLE - 1), Poll::Ready(1));
        assert_eq!(poll_room(&mut cx, 5 * LITTLE, LITTLE), Poll::Pending);
        much.set(BUDGET);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        drop(more);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "the budget is still exhausted");
        much.set(0);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(at_once(5 * LITTLE), 5 * LITTLE);
    }
}
