//! What peers make a thread hold: bytes that were received and that their receiver has not taken yet.
//!
//! All of it counts against one budget of the thread: heads, bodies, early bytes, parts of TLS records, unread
//! responses, and what waits in tunnels. A [`Charge`] counts some bytes for as long as they are held. Whoever is about
//! to read asks [`poll_room`] or [`at_once`] first.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use crate::metrics::HELD_BYTES;

/// What the peers of a thread may make it hold, in bytes, unless [`limit_thread`] has set less. A thousand slow readers
/// fit.
pub(crate) const BUDGET: usize = 64 << 20;
/// How many bodies a thread reads in large parts at the same time.
const LARGE_READERS: usize = 8;
/// What one connection may hold when the budget is spent, in bytes: enough to get on, so that nobody starves.
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

/// Bytes that count against the budget of the thread until this is dropped, on the same thread.
#[derive(Debug, Default)]
pub(crate) struct Charge(usize);

impl Charge {
    /// Counts so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut charge = Self(0);
        charge.set(bytes);
        charge
    }

    /// How many it counts.
    pub(crate) fn bytes(&self) -> usize {
        self.0
    }

    /// Counts so many from now on.
    pub(crate) fn set(&mut self, bytes: usize) {
        recount(std::mem::replace(&mut self.0, bytes), bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts so many bytes in place of those that were counted before, for those who know both without a [`Charge`].
pub(crate) fn recount(before: usize, now: usize) {
    if before == now {
        return;
    }
    HELD_BYTES.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    // Saturating for a connection that a test moved to another thread.
    let held = (HELD.get() + now).saturating_sub(before);
    HELD.set(held);
    if now < before && held < LIMIT.get() {
        wake_paused();
    }
}

fn wake_paused() {
    // When its thread ends, nobody waits any more.
    let paused = PAUSED.try_with(|paused| std::mem::take(&mut *paused.borrow_mut()));
    paused.into_iter().flatten().for_each(Waker::wake);
}

/// The right to read a body in large parts, until this is dropped, on the same thread. There are few of them, since
/// whoever has one can hold as much, and a body whose receiver keeps up needs it for moments only.
#[derive(Debug)]
pub(crate) struct LargeReads(());

impl LargeReads {
    /// One of those that are left.
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

/// How much to read at once, of so much that is wanted, where nothing more is read before that has been passed on.
pub(crate) fn at_once(wanted: usize) -> usize {
    if is_spent() { wanted.min(LITTLE) } else { wanted }
}

/// How much of so much that is wanted may be read by a connection that makes the thread hold something already. Pending
/// while the budget is spent, but for those that hold little.
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
    fn when_the_budget_is_spent_only_those_that_hold_little_read_on_until_something_is_taken() {
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
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "there still is no room");
        much.set(0);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(at_once(5 * LITTLE), 5 * LITTLE);
    }
}
