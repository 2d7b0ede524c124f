//! Throttled log lines, for events that any request can cause: the first is written, then one per interval, with a
//! count.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

/// The minimum interval between lines of one kind.
const EVERY: Duration = Duration::from_secs(10);
/// The maximum number of kinds that are distinguished. Further ones share one.
const KINDS: usize = 1024;

/// Limits lines of each kind to one in ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<HashMap<Box<str>, LineState>>);

#[derive(Clone, Copy, Debug)]
struct LineState {
    written: Instant,
    unwritten: u64,
}

impl Throttle {
    /// Whether to write a line of this kind now: the number of lines suppressed since the last one, or `None`.
    pub(crate) fn pass(&self, kind: &[&str]) -> Option<u64> {
        self.pass_at(&kind.join("\n"), Instant::now())
    }

    fn pass_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().expect("no holder panics");
        let is_known = kinds.contains_key(kind);
        if !is_known && kinds.len() >= KINDS {
            kinds.retain(|_, kind| now.duration_since(kind.written) < EVERY);
        }
        let kind = if is_known || kinds.len() < KINDS { kind } else { "" };
        match kinds.get_mut(kind) {
            Some(known) if now.duration_since(known.written) < EVERY => {
                known.unwritten += 1;
                None
            }
            known => {
                let unwritten = known.map_or(0, |known| known.unwritten);
                kinds.insert(kind.into(), LineState { written: now, unwritten: 0 });
                Some(unwritten)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_passes_and_then_one_in_a_while_with_a_count() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.pass_at("a", start), Some(0));
        assert_eq!(throttle.pass_at("b", start), Some(0));
        for _ in 0..3 {
            assert_eq!(throttle.pass_at("a", start + EVERY / 2), None);
        }
        assert_eq!(throttle.pass_at("a", start + EVERY), Some(3));
        assert_eq!(throttle.pass_at("a", start + EVERY * 2), Some(0));
    }

    #[test]
    fn the_number_of_kinds_is_bounded() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let passed = (0..KINDS * 2).filter(|kind| throttle.pass_at(&kind.to_string(), start).is_some()).count();
        assert!(passed <= KINDS + 1, "{passed}");
        assert!(throttle.0.lock().unwrap().len() <= KINDS + 1);
        assert_eq!(throttle.pass_at("new", start + EVERY), Some(0), "old kinds make room");
        assert_eq!(throttle.0.lock().unwrap().len(), 1);
    }
}
