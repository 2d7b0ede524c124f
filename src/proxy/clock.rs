//! How long a tunnel may live, and when it has lived so long.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::end::{Cause, Closer};
use crate::table::Timeouts;

/// How long a tunnel may live.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelLimits {
    idle: Option<Duration>,
    max_duration: Option<Duration>,
    half_closed: Duration,
    /// How long its connections may take to close.
    pub linger: Duration,
}

impl TunnelLimits {
    /// The limits of one tunnel. Its duration is shortened by up to a tenth, so that clients which came together do
    /// not have to come back together.
    pub(super) fn new(timeouts: &Timeouts, half_closed: Duration, linger: Duration) -> Self {
        let jitter = |duration: Duration| duration.mul_f64(1.0 - fastrand::f64() / 10.0);
        Self { idle: timeouts.idle, max_duration: timeouts.max_duration.map(jitter), half_closed, linger }
    }
}

/// The times of a tunnel: one timer for all limits, and none at all while there is no limit.
pub(super) struct Clock {
    limits: TunnelLimits,
    pub opened: Instant,
    last_byte: Instant,
    pub first_end: Option<Closer>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    pub(super) fn new(limits: TunnelLimits) -> Self {
        let now = Instant::now();
        Self { limits, opened: now, last_byte: now, first_end: None, timer: None }
    }

    /// One side has closed. From the first on, silence is counted.
    pub(super) fn note_end(&mut self, side: Closer) {
        if self.first_end.is_none() {
            self.first_end = Some(side);
            self.last_byte = Instant::now();
        }
    }

    /// Ready when a limit is reached.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<Cause> {
        if moved && (self.limits.idle.is_some() || self.first_end.is_some()) {
            self.last_byte = Instant::now();
        }
        loop {
            let Some((deadline, cause)) = self.next() else { return Poll::Pending };
            // Bytes only ever move a deadline away, so a timer that rings early is set anew then, not at each byte.
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(cause);
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn next(&self) -> Option<(Instant, Cause)> {
        let half_closed = self.first_end.map(|_| (self.last_byte + self.limits.half_closed, Cause::HalfClosed));
        let idle = self.limits.idle.map(|idle| (self.last_byte + idle, Cause::Idle));
        let max = self.limits.max_duration.map(|max| (self.opened + max, Cause::MaxDuration));
        [half_closed, idle, max].into_iter().flatten().min_by_key(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn clock(idle: Option<u64>, max: Option<u64>) -> Clock {
        let timeouts = Timeouts {
            idle: idle.map(Duration::from_secs),
            max_duration: max.map(Duration::from_secs),
            ..Timeouts::default()
        };
        Clock::new(TunnelLimits::new(&timeouts, Duration::from_secs(60), Duration::from_secs(1)))
    }

    async fn rings(clock: &mut Clock) -> (Cause, u64) {
        let start = clock.opened;
        let cause = poll_fn(|cx| clock.poll(cx, false)).await;
        (cause, start.elapsed().as_secs())
    }

    async fn still_silent(clock: &mut Clock, moved: bool) {
        let polled = poll_fn(|cx| Poll::Ready(clock.poll(cx, moved))).await;
        assert!(polled.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_no_timer_is_made_and_nothing_rings() {
        let mut clock = clock(None, None);
        still_silent(&mut clock, true).await;
        assert!(clock.timer.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_byte() {
        let mut clock = clock(Some(30), None);
        still_silent(&mut clock, true).await;
        tokio::time::advance(Duration::from_secs(20)).await;
        still_silent(&mut clock, true).await;
        assert_eq!(rings(&mut clock).await, (Cause::Idle, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_duration_is_shortened_by_up_to_a_tenth() {
        for _ in 0..20 {
            let (cause, after) = rings(&mut clock(None, Some(1000))).await;
            assert_eq!(cause, Cause::MaxDuration);
            assert!((900..=1000).contains(&after), "{after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_ends_after_a_minute_of_silence() {
        let mut clock = clock(None, None);
        clock.first_end = Some(Closer::Client);
        still_silent(&mut clock, false).await;
        tokio::time::advance(Duration::from_secs(50)).await;
        still_silent(&mut clock, true).await;
        assert_eq!(rings(&mut clock).await, (Cause::HalfClosed, 110));
    }
}
