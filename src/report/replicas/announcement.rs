//! When a replica reports what it serves. Pure: instants are passed in.

use std::time::Duration;

use tokio::time::Instant;

use super::conventions::RENEW;
use crate::source::{
    Digests, Progress, Report,
    backoff::{Backoff, Delays},
};

/// The minimum time between two reports of new tables.
const SPACING: Duration = Duration::from_millis(200);

/// What this replica serves, and what it has reported.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    serves: Option<Announced>,
    announced: Option<(Announced, Instant)>,
    attempts: Backoff,
}

/// The content of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// How far the routes were followed.
    pub(super) progress: Progress,
    /// Digests of the routes served.
    pub(super) digests: Digests,
}

impl Announcement {
    /// Records what is served now.
    pub(super) fn serves(&mut self, report: &Report) {
        let Report { generation, verdicts: _, progress, digests } = report;
        if *generation > 0 {
            self.serves = Some(Announced { progress: progress.clone(), digests: digests.clone() });
        }
    }

    /// What to report, and when; `None` before there is a table.
    pub(super) fn next(&self, now: Instant) -> Option<(&Announced, Instant)> {
        let serves = self.serves.as_ref()?;
        let at = match &self.announced {
            None => now,
            Some((announced, at)) if announced.is_news_to(serves) => *at + SPACING,
            Some((_, at)) => *at + RENEW,
        };
        Some((serves, self.attempts.delayed(at)))
    }

    /// Records that `content` was reported.
    pub(super) fn announced(&mut self, content: Announced, now: Instant) {
        self.announced = Some((content, now));
        self.attempts.succeeded();
    }

    /// Records a failure, after which there is no attempt for a while.
    pub(super) fn failed(&mut self, delays: Delays, now: Instant) {
        self.attempts.failed(delays, now);
    }

    /// Whether anything has been reported.
    pub(super) fn has_announced(&self) -> bool {
        self.announced.is_some()
    }
}

impl Announced {
    /// Versions that were merely seen are reported with the next renewal: no route has changed in them.
    fn is_news_to(&self, serves: &Self) -> bool {
        self.progress.changed != serves.progress.changed || self.digests != serves.digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::progress::WHOLE_CLUSTER;

    fn report(seen: u64, changed: u64) -> Report {
        let mut report = Report { generation: 1, ..Report::default() };
        report.progress.seen.set(WHOLE_CLUSTER, Some(seen));
        report.progress.changed.set(WHOLE_CLUSTER, Some(changed));
        report
    }

    fn due(announcement: &Announcement, now: Instant) -> Instant {
        announcement.next(now).unwrap().1
    }

    #[test]
    fn nothing_is_told_before_there_is_a_table() {
        let mut announcement = Announcement::default();
        announcement.serves(&Report::default());
        assert!(announcement.next(Instant::now()).is_none());
    }

    #[test]
    fn a_new_table_is_told_at_once_but_not_twice_in_200_milliseconds() {
        let (mut announcement, now) = (Announcement::default(), Instant::now());
        announcement.serves(&report(7, 7));
        assert_eq!(due(&announcement, now), now);
        let content = announcement.next(now).unwrap().0.clone();
        announcement.announced(content, now);
        announcement.serves(&report(9, 8));
        assert_eq!(due(&announcement, now), now + SPACING);
    }

    #[test]
    fn what_changes_no_route_waits_for_the_next_renewal() {
        let (mut announcement, now) = (Announcement::default(), Instant::now());
        announcement.serves(&report(7, 7));
        announcement.announced(announcement.next(now).unwrap().0.clone(), now);
        announcement.serves(&report(9, 7));
        assert_eq!(due(&announcement, now), now + RENEW);
        assert_eq!(announcement.next(now).unwrap().0.progress, report(9, 7).progress);
    }
}
