//! When a silent peer is pinged, and when it is considered gone. Pure: instants are arguments.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use tokio::time::Instant;

use crate::table::Pings;

/// Pings to one side, and its signs of life.
#[derive(Debug)]
pub(super) struct Pinger {
    pings: Pings,
    /// The payload of our first ping; each ping carries one more than the last.
    first: u64,
    /// Pings sent.
    sent: u64,
    /// The number of pings up to the last one answered. A peer may answer only the latest (RFC 6455 §5.5.3).
    answered: u64,
    /// The answer that this side owes to the other.
    owed: Option<Owed>,
    heard: Instant,
    state: State,
}

/// The answer to a ping of the other side.
#[derive(Clone, Copy, Debug)]
struct Owed {
    /// A digest of the payload of the latest ping.
    digest: u64,
    /// When the first unanswered ping was seen.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No ping of the proxy is pending.
    Quiet,
    /// A ping has been created, but the socket has not accepted all of it.
    Leaving,
    /// A ping has been sent, and there has been no sign of life since.
    Asked(Instant),
}

/// What to do for a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing until this instant, or until something happens.
    Wait(Option<Instant>),
    /// Send a ping with this payload.
    Ping([u8; 8]),
    /// Consider it gone.
    GiveUp,
}

static DIGEST: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Pinger {
    /// Starts with a side that is known to be alive now. The payload of the first ping must be hard to guess.
    pub(super) fn new(pings: Pings, first: u64, now: Instant) -> Self {
        Self { pings, first, sent: 0, answered: 0, owed: None, heard: now, state: State::Quiet }
    }

    /// Records a sign of life.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.state = State::Quiet;
    }

    /// Records a ping from the other side, which must be answered before one of the proxy's own.
    pub(super) fn owe(&mut self, payload: &[u8]) {
        let since = self.owed.and_then(|owed| owed.since);
        self.owed = Some(Owed { digest: DIGEST.hash_one(payload), since });
    }

    /// Whether a pong answers one of the proxy's own pings.
    pub(super) fn takes_pong(&mut self, payload: &[u8]) -> bool {
        self.owed = self.owed.filter(|owed| owed.digest != DIGEST.hash_one(payload));
        let Ok(payload) = payload.try_into() else { return false };
        let number = u64::from_be_bytes(payload).wrapping_sub(self.first);
        let ours = (self.answered..self.sent).contains(&number);
        if ours {
            self.answered = number + 1;
        }
        ours
    }

    /// What to do now. `may_ping` is whether a ping could be sent, `all_sent` whether the socket has accepted
    /// everything.
    pub(super) fn act(&mut self, now: Instant, may_ping: bool, all_sent: bool) -> Action {
        if self.state == State::Leaving && all_sent {
            self.state = State::Asked(now);
        }
        if let Some(owed) = &mut self.owed {
            owed.since.get_or_insert(now);
        }
        match (self.state, self.pings.timeout) {
            (State::Asked(since), Some(timeout)) if now >= since + timeout => Action::GiveUp,
            (State::Asked(since), Some(timeout)) => Action::Wait(Some(since + timeout)),
            (State::Leaving, _) => Action::Wait(None),
            (State::Asked(since), None) => self.ping(now, since, may_ping),
            (State::Quiet, _) => self.ping(now, self.heard, may_ping),
        }
    }

    fn ping(&mut self, now: Instant, since: Instant, may_ping: bool) -> Action {
        let due = since + self.pings.interval;
        if now < due {
            return Action::Wait(Some(due));
        }
        if let Some(since) = self.owed.and_then(|owed| owed.since) {
            let until = since + self.pings.timeout.unwrap_or(self.pings.interval);
            if now < until {
                return Action::Wait(Some(until));
            }
            // An answer that has not come by now will not come. The side may be gone, which only our own ping can show.
            self.owed = None;
        }
        // Any obstacle is removed by bytes, after which this is called again.
        if !may_ping {
            return Action::Wait(None);
        }
        let payload = self.first.wrapping_add(self.sent);
        self.sent += 1;
        self.state = State::Leaving;
        Action::Ping(payload.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pinger(timeout: Option<u64>) -> (Pinger, Instant) {
        let now = Instant::now();
        let pings = Pings { interval: 25 * SECOND, timeout: timeout.map(Duration::from_secs) };
        (Pinger::new(pings, u64::MAX, now), now)
    }

    fn ping(pinger: &mut Pinger, now: Instant) -> [u8; 8] {
        match pinger.act(now, true, true) {
            Action::Ping(payload) => payload,
            other => panic!("{other:?} instead of a ping"),
        }
    }

    #[test]
    fn a_silent_side_is_pinged_and_given_up_when_it_does_not_answer() {
        let (mut pinger, start) = pinger(Some(20));
        assert_eq!(pinger.act(start, true, true), Action::Wait(Some(start + 25 * SECOND)));
        ping(&mut pinger, start + 25 * SECOND);
        // The timeout begins once the ping has been sent.
        assert_eq!(pinger.act(start + 26 * SECOND, true, false), Action::Wait(None));
        let gone = start + 50 * SECOND;
        assert_eq!(pinger.act(start + 30 * SECOND, true, true), Action::Wait(Some(gone)));
        assert_eq!(pinger.act(gone, true, true), Action::GiveUp);
    }

    #[test]
    fn any_sign_of_life_starts_the_time_anew() {
        let (mut pinger, start) = pinger(Some(20));
        let payload = ping(&mut pinger, start + 25 * SECOND);
        pinger.act(start + 25 * SECOND, true, true);
        pinger.hear(start + 40 * SECOND);
        assert_eq!(pinger.act(start + 46 * SECOND, true, true), Action::Wait(Some(start + 65 * SECOND)));
        // A late pong is still an answer to the proxy's ping.
        assert!(pinger.takes_pong(&payload));
        assert!(!pinger.takes_pong(&payload), "a second one is not");
    }

    #[test]
    fn a_pong_to_a_later_ping_answers_all_before() {
        let (mut pinger, start) = pinger(Some(20));
        let first = ping(&mut pinger, start + 25 * SECOND);
        pinger.hear(start + 26 * SECOND);
        let second = ping(&mut pinger, start + 60 * SECOND);
        assert_ne!(first, second);
        assert!(!pinger.takes_pong(b"other") && !pinger.takes_pong(b"8 bytes!"));
        assert!(pinger.takes_pong(&second));
        assert!(!pinger.takes_pong(&first));
    }

    #[test]
    fn no_ping_while_the_side_owes_an_answer_or_nothing_may_be_sent() {
        let (mut pinger, start) = pinger(Some(20));
        pinger.owe(b"earlier");
        pinger.owe(b"latest");
        let due = start + 30 * SECOND;
        assert_eq!(pinger.act(due, true, true), Action::Wait(Some(due + 20 * SECOND)));
        assert!(!pinger.takes_pong(b"earlier"));
        assert_eq!(pinger.act(due, true, true), Action::Wait(Some(due + 20 * SECOND)));
        assert!(!pinger.takes_pong(b"latest"), "which is the other side's");
        assert_eq!(pinger.act(due, false, true), Action::Wait(None));
        ping(&mut pinger, due);
    }

    #[test]
    fn an_answer_that_is_owed_for_too_long_is_waited_for_no_more() {
        let (mut pinger, start) = pinger(Some(20));
        pinger.owe(b"one");
        pinger.act(start + 10 * SECOND, true, true);
        // Later pings make no difference.
        pinger.owe(b"two");
        assert_eq!(pinger.act(start + 25 * SECOND, true, true), Action::Wait(Some(start + 30 * SECOND)));
        ping(&mut pinger, start + 30 * SECOND);
        pinger.act(start + 30 * SECOND, true, true);
        pinger.owe(b"three");
        assert_eq!(pinger.act(start + 50 * SECOND, true, true), Action::GiveUp);
    }

    #[test]
    fn without_a_timeout_it_is_pinged_again_and_never_given_up() {
        let (mut pinger, start) = pinger(None);
        ping(&mut pinger, start + 25 * SECOND);
        assert_eq!(pinger.act(start + 25 * SECOND, true, true), Action::Wait(Some(start + 50 * SECOND)));
        ping(&mut pinger, start + 1000 * SECOND);
    }
}
