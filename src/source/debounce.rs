//! When to build. Pure: instants are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// The longest time that a change waits because of the cost of the previous build.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Spaces builds by their cost: building uses at most half of one processor.
///
/// A single change does not wait; during a storm of changes, those that arrive while one waits share its build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debounce {
    /// When the next build may start.
    free: Option<Instant>,
}

impl Debounce {
    /// Records that a build ended `now` and took `cost`.
    pub fn built(&mut self, now: Instant, cost: Duration) {
        self.free = Some(now + cost.min(LONGEST_WAIT));
    }

    /// How long the next build must wait.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        self.free.map_or(Duration::ZERO, |free| free.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lone_change_does_not_wait() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        assert_eq!(debounce.wait(start), Duration::ZERO);
        debounce.built(start, 20 * MS);
        assert_eq!(debounce.wait(start + 20 * MS), Duration::ZERO);
    }

    #[test]
    fn builds_in_a_storm_are_spaced_by_what_the_last_one_cost() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        debounce.built(start, 20 * MS);
        assert_eq!(debounce.wait(start + 5 * MS), 15 * MS);
    }

    #[test]
    fn a_costly_build_does_not_hold_the_next_one_for_ever() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        debounce.built(start, 5000 * MS);
        assert_eq!(debounce.wait(start), LONGEST_WAIT);
    }
}
