//! Counts that are kept without a lock.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// How many keys a chunk has room for.
const CHUNK: usize = 8;

/// A count for each of a few keys. Keys are never removed, and counting takes no lock: the keys are enums and labels, so
/// all of them soon have a slot. Nothing is allocated before the first count.
#[derive(Debug)]
pub struct Counts<K>(OnceLock<Box<Chunk<K>>>);

#[derive(Debug)]
struct Chunk<K> {
    slots: [Slot<K>; CHUNK],
    more: Counts<K>,
}

#[derive(Debug)]
struct Slot<K> {
    key: OnceLock<K>,
    count: AtomicU64,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K> Default for Chunk<K> {
    fn default() -> Self {
        let slots = std::array::from_fn(|_| Slot { key: OnceLock::new(), count: AtomicU64::new(0) });
        Self { slots, more: Counts::default() }
    }
}

impl<K: Copy + PartialEq> Counts<K> {
    /// Counts one more of a key.
    pub fn add(&self, key: K) {
        let mut counts = self;
        loop {
            let chunk = counts.0.get_or_init(Box::default);
            // Takes the first free slot, unless the key has one before that.
            match chunk.slots.iter().find(|slot| *slot.key.get_or_init(|| key) == key) {
                Some(slot) => {
                    slot.count.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                None => counts = &chunk.more,
            }
        }
    }

    /// The keys with their counts, in the order in which they were first counted.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        let chunks = std::iter::successors(self.0.get(), |chunk| chunk.more.0.get());
        let slots = chunks.flat_map(|chunk| &chunk.slots);
        slots.filter_map(|slot| Some((*slot.key.get()?, slot.count.load(Ordering::Relaxed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_arrives_however_many_threads_there_are() {
        let counts = Counts::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|number| counts.add(number % 20)));
            }
        });
        let mut counted: Vec<_> = counts.iter().collect();
        counted.sort_unstable();
        assert_eq!(counted, (0..20).map(|key| (key, 2_000)).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_counted_at_first() {
        assert_eq!(Counts::<u16>::default().iter().count(), 0);
    }
}
