//! The time limits of a tunnel.

use std::time::Duration;

use tokio::time::Instant;

use super::end::{Cause, Closer};
use crate::table::Timeouts;

/// The time limits of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct TunnelLimits {
    idle: Option<Duration>,
    max_duration: Option<Duration>,
    half_closed: Duration,
    /// How long a frame may take to be complete, and how long a peer may take to answer a Close, when the proxy ends
    /// it.
    pub close: Duration,
    /// How long its connections may take to close.
    pub linger: Duration,
}

impl TunnelLimits {
    /// The limits of one tunnel. Its maximum duration is shortened by up to a tenth, so that clients that connected
    /// together do not reconnect together.
    pub(in crate::proxy) fn new(timeouts: &Timeouts, settings: &crate::proxy::Settings) -> Self {
        let jitter = |duration: Duration| duration.mul_f64(1.0 - fastrand::f64() / 10.0);
        Self {
            idle: timeouts.idle,
            max_duration: timeouts.max_duration.map(jitter),
            half_closed: settings.half_closed_timeout,
            close: settings.close_timeout,
            linger: settings.linger_timeout,
        }
    }
}

/// The times of a tunnel. Pure: instants are arguments.
#[derive(Debug)]
pub(super) struct Clock {
    pub limits: TunnelLimits,
    pub opened: Instant,
    last_byte: Instant,
    pub first_end: Option<Closer>,
}

impl Clock {
    pub(super) fn new(limits: TunnelLimits, now: Instant) -> Self {
        Self { limits, opened: now, last_byte: now, first_end: None }
    }

    /// Records that one side has closed. Silence counts from the first close.
    pub(super) fn note_end(&mut self, side: Closer, now: Instant) {
        if self.first_end.is_none() {
            self.first_end = Some(side);
            self.last_byte = now;
        }
    }

    /// Records that bytes have passed.
    pub(super) fn note_bytes(&mut self, now: Instant) {
        self.last_byte = now;
    }

    /// When a limit is reached if no bytes pass, and the cause; `None` without a limit.
    pub(super) fn next(&self) -> Option<(Instant, Cause)> {
        let half_closed = self.first_end.map(|_| (self.last_byte + self.limits.half_closed, Cause::HalfClosed));
        let idle = self.limits.idle.map(|idle| (self.last_byte + idle, Cause::Idle));
        let max = self.limits.max_duration.map(|max| (self.opened + max, Cause::MaxDuration));
        [half_closed, idle, max].into_iter().flatten().min_by_key(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Settings;

    fn clock(idle: Option<u64>, max: Option<u64>) -> Clock {
        let timeouts = Timeouts {
            idle: idle.map(Duration::from_secs),
            max_duration: max.map(Duration::from_secs),
            ..Timeouts::default()
        };
        Clock::new(TunnelLimits::new(&timeouts, &Settings::default()), Instant::now())
    }

    fn at(clock: &Clock, seconds: u64) -> Instant {
        clock.opened + Duration::from_secs(seconds)
    }

    #[test]
    fn without_limits_there_is_nothing_to_wait_for() {
        assert_eq!(clock(None, None).next(), None);
    }

    #[test]
    fn silence_is_counted_from_the_last_byte() {
        let mut clock = clock(Some(30), None);
        assert_eq!(clock.next(), Some((at(&clock, 30), Cause::Idle)));
        clock.note_bytes(at(&clock, 20));
        assert_eq!(clock.next(), Some((at(&clock, 50), Cause::Idle)));
    }

    #[test]
    fn the_longest_duration_is_shortened_by_up_to_a_tenth() {
        for _ in 0..20 {
            let clock = clock(None, Some(1000));
            let (deadline, cause) = clock.next().unwrap();
            assert_eq!(cause, Cause::MaxDuration);
            assert!((at(&clock, 900)..=at(&clock, 1000)).contains(&deadline), "{deadline:?}");
        }
    }

    #[test]
    fn a_half_closed_tunnel_ends_after_a_minute_of_silence() {
        let mut clock = clock(None, None);
        clock.note_end(Closer::Client, at(&clock, 5));
        clock.note_end(Closer::Backend, at(&clock, 10));
        assert_eq!(clock.first_end, Some(Closer::Client));
        clock.note_bytes(at(&clock, 50));
        assert_eq!(clock.next(), Some((at(&clock, 110), Cause::HalfClosed)));
    }
}
