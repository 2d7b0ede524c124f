//! Elects the replica that writes statuses. Pure: instants are passed in.
//!
//! A Lease belongs to its holder until it has not been renewed for its duration, measured by each observer's own clock
//! from when it saw the Lease change: clocks of different machines are never compared. The holder measures from before
//! it requested the renewal, and stops well before that time is over.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    conventions::RENEW,
    roll::{Leader, Seen},
};
use crate::source::backoff::{Backoff, Delays};

/// How long a holder writes after it requested its last renewal.
const HOLD: Duration = Duration::from_secs(10);

/// This replica's part in the election.
#[derive(Debug)]
pub(super) struct Election {
    me: String,
    /// When the last successful renewal was requested.
    renewed: Option<Instant>,
    attempts: Backoff,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ElectionStep {
    /// There is none: create it.
    Create,
    /// It is ours, or free: write our name into this version.
    Take,
    /// Nothing until this time.
    Wait(Instant),
}

impl Election {
    /// A replica that does not hold the Lease.
    pub(super) fn new(me: &str) -> Self {
        Self { me: me.to_owned(), renewed: None, attempts: Backoff::default() }
    }

    /// What to do now, given the last known Lease.
    pub(super) fn step(&self, lease: Option<&Seen<Leader>>, now: Instant) -> ElectionStep {
        let (step, at) = match lease {
            None => (ElectionStep::Create, now),
            Some(lease) if lease.holder == self.me => (ElectionStep::Take, self.renewed.map_or(now, |at| at + RENEW)),
            Some(lease) if lease.holder.is_empty() => (ElectionStep::Take, now),
            Some(lease) => (ElectionStep::Take, lease.expires()),
        };
        let at = self.attempts.delayed(at);
        if at > now { ElectionStep::Wait(at) } else { step }
    }

    /// Until when we hold the last known Lease; `None` if we do not.
    pub(super) fn held_until(&self, lease: Option<&Seen<Leader>>, now: Instant) -> Option<Instant> {
        let until = self.renewed? + HOLD;
        let is_ours = lease.is_some_and(|lease| lease.holder == self.me);
        (is_ours && now < until).then_some(until)
    }

    /// Records that a Lease with our name was written; `began` is when the request started.
    pub(super) fn wrote(&mut self, began: Instant) {
        self.renewed = Some(began);
        self.attempts.succeeded();
    }

    /// Records a failed write, after which there is no attempt for a while.
    pub(super) fn failed(&mut self, delays: Delays, now: Instant) {
        self.attempts.failed(delays, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::replicas::conventions::LEASE;
    use crate::source::backoff::tests::is_about;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(holder: &str, since: Instant) -> Seen<Leader> {
        let of = Leader { transitions: 0, acquired: None };
        Seen { of, duration: LEASE, version: "1".into(), holder: holder.into(), renewed: None, since }
    }

    #[test]
    fn a_lease_that_is_not_there_is_created_and_a_free_one_taken() {
        let (election, now) = (Election::new("a"), Instant::now());
        assert_eq!(election.step(None, now), ElectionStep::Create);
        assert_eq!(election.step(Some(&lease("", now)), now), ElectionStep::Take);
    }

    #[test]
    fn a_lease_of_another_is_taken_once_it_was_not_renewed_for_its_time() {
        let (election, now) = (Election::new("a"), Instant::now());
        let other = lease("b", now);
        assert_eq!(election.step(Some(&other), now + 14 * SECOND), ElectionStep::Wait(now + LEASE));
        assert_eq!(election.step(Some(&other), now + LEASE), ElectionStep::Take);
        let renewed = lease("b", now + 14 * SECOND);
        assert_eq!(election.step(Some(&renewed), now + LEASE), ElectionStep::Wait(now + 29 * SECOND));
    }

    #[test]
    fn a_holder_renews_in_time_and_stops_before_others_may_take_over() {
        let (mut election, now) = (Election::new("a"), Instant::now());
        election.wrote(now);
        let ours = lease("a", now + SECOND);
        assert_eq!(election.step(Some(&ours), now + SECOND), ElectionStep::Wait(now + RENEW));
        assert_eq!(election.step(Some(&ours), now + RENEW), ElectionStep::Take);
        election.failed(Delays::constant(SECOND), now + RENEW);
        let ElectionStep::Wait(at) = election.step(Some(&ours), now + RENEW) else { panic!("tried again at once") };
        assert!(is_about(at, now + RENEW, SECOND), "{:?}", at - now);
        assert_eq!(election.held_until(Some(&ours), now + 9 * SECOND), Some(now + HOLD));
        assert_eq!(election.held_until(Some(&ours), now + HOLD), None);
        assert!(HOLD + 4 * SECOND < LEASE);
    }

    #[test]
    fn who_is_no_longer_named_holds_nothing() {
        let (mut election, now) = (Election::new("a"), Instant::now());
        election.wrote(now);
        assert_eq!(election.held_until(Some(&lease("b", now)), now), None);
        assert_eq!(election.held_until(None, now), None);
    }

    #[test]
    fn a_container_that_starts_again_goes_on_with_the_lease_of_its_pod() {
        let (election, now) = (Election::new("a"), Instant::now());
        let ours = lease("a", now);
        assert_eq!(election.held_until(Some(&ours), now), None, "not before it was renewed");
        assert_eq!(election.step(Some(&ours), now), ElectionStep::Take);
    }
}
