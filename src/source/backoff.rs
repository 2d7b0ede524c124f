//! How long to wait after failures. Pure: instants are passed in.

use std::time::Duration;

use tokio::time::Instant;

/// The bounds of the delays after failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delays {
    first: Duration,
    longest: Duration,
}

/// The failures in a row of something that is retried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Delays {
    /// The first delay, and twice as much after each further failure, up to the longest.
    pub(crate) const fn doubling(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// Always the same delay.
    pub(crate) const fn constant(delay: Duration) -> Self {
        Self::doubling(delay, delay)
    }

    fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.min(16)).min(self.longest)
    }
}

impl Backoff {
    /// Records a failure; returns when to try again. A failure before that time is one of an attempt that was already
    /// under way, and does not count again.
    ///
    /// A delay is up to a quarter shorter or longer than the bounds say, so that replicas that failed together do not
    /// retry in step.
    pub(crate) fn failed(&mut self, delays: Delays, now: Instant) -> Instant {
        if let Some(until) = self.until.filter(|until| *until > now) {
            return until;
        }
        let until = now + delays.after(self.failures).mul_f64(0.75 + fastrand::f64() / 2.0);
        self.failures += 1;
        self.until = Some(until);
        until
    }

    /// Records a success: the next failure is the first one again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The number of failures since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The end of the last delay, which may have passed.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// When something that is due at `at` may be done.
    pub(crate) fn delayed(&self, at: Instant) -> Instant {
        self.until.map_or(at, |until| until.max(at))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Whether `actual` is `delay` after `start`, but for the random part.
    pub(crate) fn is_about(actual: Instant, start: Instant, delay: Duration) -> bool {
        (start + delay.mul_f64(0.75)..=start + delay.mul_f64(1.25)).contains(&actual)
    }

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_a_success() {
        let (mut backoff, delays, mut now) = (Backoff::default(), Delays::doubling(SECOND, 5 * SECOND), Instant::now());
        for seconds in [1, 2, 4].into_iter().chain([5; 100]) {
            let until = backoff.failed(delays, now);
            assert!(is_about(until, now, seconds * SECOND), "{seconds}: {:?}", until - now);
            now = until;
        }
        backoff.succeeded();
        assert!(is_about(backoff.failed(delays, now), now, SECOND));
    }

    #[test]
    fn attempts_that_were_under_way_together_fail_once() {
        let (mut backoff, delays, now) = (Backoff::default(), Delays::doubling(SECOND, 60 * SECOND), Instant::now());
        let until = backoff.failed(delays, now);
        assert!((0..8).all(|_| backoff.failed(delays, now + SECOND / 2) == until));
        assert!(is_about(backoff.failed(delays, until), until, 2 * SECOND));
    }

    #[test]
    fn two_replicas_do_not_retry_in_step() {
        let now = Instant::now();
        let fail = || Backoff::default().failed(Delays::constant(SECOND), now);
        let first = fail();
        assert!((0..100).any(|_| fail() != first));
    }

    #[test]
    fn what_is_due_waits_for_the_end_of_the_delay() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.delayed(now), now);
        let until = backoff.failed(Delays::constant(SECOND), now);
        assert_eq!((backoff.delayed(now), backoff.delayed(now + 9 * SECOND)), (until, now + 9 * SECOND));
    }
}
