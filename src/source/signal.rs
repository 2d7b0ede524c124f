//! The signal from the watchers to the rebuild loop.

use std::sync::{Arc, Mutex};

use tokio::{sync::Notify, time::Instant};

/// Signals that objects have changed. Clones share one signal.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<SharedSignal>);

#[derive(Debug, Default)]
struct SharedSignal {
    pending: Mutex<Option<Pending>>,
    notify: Notify,
}

/// Changes that no build has seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The time of the first one.
    pub first: Instant,
    /// Their number.
    pub count: usize,
}

impl Changes {
    /// Records that an object has changed.
    pub fn touch(&self) {
        let mut pending = self.0.pending.lock().expect("no holder panics");
        match pending.as_mut() {
            Some(pending) => pending.count += 1,
            None => *pending = Some(Pending { first: Instant::now(), count: 1 }),
        }
        drop(pending);
        self.0.notify.notify_one();
    }

    /// Waits for a change that has not been taken yet.
    pub async fn wait(&self) -> Pending {
        loop {
            let notified = self.0.notify.notified();
            if let Some(pending) = *self.0.pending.lock().expect("no holder panics") {
                return pending;
            }
            notified.await;
        }
    }

    /// Takes the pending changes: the next build sees them.
    pub fn take(&self) -> Option<Pending> {
        self.0.pending.lock().expect("no holder panics").take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_are_counted_from_the_first_until_they_are_taken() {
        let changes = Changes::default();
        changes.touch();
        let first = Instant::now();
        tokio::time::advance(std::time::Duration::from_millis(5)).await;
        changes.touch();
        assert_eq!(changes.wait().await, Pending { first, count: 2 });
        assert_eq!(changes.take(), Some(Pending { first, count: 2 }));
        assert_eq!(changes.take(), None);
    }
}
