//! Whether a client moves enough bytes while the proxy waits for it. Pure: instants are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// The minimum rate of a client while the proxy waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MinRate {
    /// Bytes per second; 0 for no minimum.
    pub bytes: u32,
    /// The waiting time over which the rate is averaged.
    pub over: Duration,
}

/// How many bytes a client has moved in one direction, and how long the proxy has waited for them.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    since: Option<Instant>,
    waited: Duration,
    moved: u64,
}

impl Pace {
    /// Starts waiting for the client, unless that has begun already.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Records moved bytes and stops waiting. Returns whether they are too few for the time that the proxy has waited.
    pub(crate) fn is_too_slow(&mut self, bytes: usize, least: MinRate, now: impl FnOnce() -> Instant) -> bool {
        self.moved += bytes as u64;
        let Some(since) = self.since.take() else { return false };
        self.waited += now() - since;
        if self.waited < least.over {
            return false;
        }
        let Self { waited, moved, .. } = std::mem::take(self);
        u128::from(moved) * 1000 < u128::from(least.bytes) * waited.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LEAST: MinRate = MinRate { bytes: 64, over: Duration::from_secs(60) };

    /// After how many moves of `bytes` bytes, each preceded by `waited`, a client is too slow.
    fn too_slow_after(bytes: usize, waited: Duration, least: MinRate) -> Option<usize> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        (1..=1000).find(|_| {
            pace.wait(now);
            now += waited;
            pace.is_too_slow(bytes, least, || now)
        })
    }

    #[test]
    fn a_client_that_drips_is_too_slow_after_a_minute_of_waiting() {
        assert_eq!(too_slow_after(1, 5 * SECOND, LEAST), Some(12));
        assert_eq!(too_slow_after(63, SECOND, LEAST), Some(60));
        assert_eq!(too_slow_after(1000, 59 * SECOND, LEAST), Some(2));
    }

    #[test]
    fn a_slow_but_steady_client_is_fast_enough() {
        assert_eq!(too_slow_after(64, SECOND, LEAST), None);
        assert_eq!(too_slow_after(4000, 59 * SECOND, LEAST), None);
        assert_eq!(too_slow_after(1, 5 * SECOND, MinRate { bytes: 0, ..LEAST }), None);
    }

    #[test]
    fn only_time_in_which_the_client_was_waited_for_counts() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..1000 {
            // The backend takes its time before it wants the next byte, which the client delivers at once.
            now += 10 * SECOND;
            assert!(!pace.is_too_slow(1, LEAST, || now));
            pace.wait(now);
            assert!(!pace.is_too_slow(1, LEAST, || now));
        }
    }

    #[test]
    fn continued_waiting_is_counted_from_its_beginning() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.wait(now);
        pace.wait(now + 59 * SECOND);
        assert!(pace.is_too_slow(1, LEAST, || now + 60 * SECOND));
    }

    #[test]
    fn a_burst_before_the_waiting_counts_in_favour_of_the_client() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(!pace.is_too_slow(64 * 60, LEAST, || now));
        pace.wait(now);
        assert!(!pace.is_too_slow(1, LEAST, || now + 60 * SECOND));
        pace.wait(now + 60 * SECOND);
        assert!(pace.is_too_slow(1, LEAST, || now + 120 * SECOND), "it counts once");
    }
}
