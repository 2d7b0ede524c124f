//! Logs watch failures, and backs off after them.

use std::time::Duration;

use kube::runtime::watcher;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::failure::ApiFailure;
use crate::source::{
    backoff::{Backoff, Delays},
    complaint::Complaint,
};

/// The longest delay is how long it may take to notice a new API server.
const DELAYS: Delays = Delays::doubling(Duration::from_millis(250), Duration::from_secs(5));
/// After this long without failures, a watch starts with the first delay again.
const CALM: Duration = Duration::from_secs(30);

/// The failures of one watch. Each cause is logged once, and so is recovery.
#[derive(Debug)]
pub(crate) struct Trouble {
    kind: &'static str,
    when_unknown: &'static str,
    complaint: Complaint,
    backoff: Backoff,
}

impl Trouble {
    /// No failures yet for a kind; `when_unknown` is the advice if the API server does not know it.
    pub(crate) fn new(kind: &'static str, when_unknown: &'static str) -> Self {
        Self { kind, when_unknown, complaint: Complaint::default(), backoff: Backoff::default() }
    }

    /// Records a failure; returns when to try again.
    pub(crate) fn failed(&mut self, failure: ApiFailure, now: Instant) -> Instant {
        if self.backoff.until().is_some_and(|until| now > until + CALM) {
            self.backoff.succeeded();
        }
        self.log(failure);
        self.backoff.failed(DELAYS, now)
    }

    /// Records that objects arrive.
    pub(crate) fn recovered(&mut self) {
        if self.complaint.settle() {
            info!(kind = self.kind, "watch resumed");
        }
    }

    fn log(&mut self, failure: ApiFailure) {
        let cause = match failure.code {
            410 => return debug!(kind = self.kind, "watch expired; listing again"),
            404 => format!("the API server does not know {}: {}", self.kind, self.when_unknown),
            _ => failure.cause,
        };
        if self.complaint.raise(&cause) {
            warn!(kind = self.kind, cause, "watch failed; serving the last known state and retrying");
        } else {
            debug!(kind = self.kind, cause, "watch still failing");
        }
    }
}

/// Whether a watch that failed like this must list again. kube continues with the version it has, which is useless if
/// the API server rejects it, for example after it was set up again.
pub(super) fn needs_list(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error else { return false };
    !matches!(status.code, 401 | 403 | 429 | 500 | 503)
}

/// Whether a watch failed because the API server is too old, or configured not to stream lists.
pub(super) fn refuses_streams(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error else { return false };
    matches!(status.code, 400 | 422)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::source::backoff::tests::is_about;

    fn failure(code: u16, message: &str) -> ApiFailure {
        let status = Status::failure(message, "").with_code(code);
        ApiFailure::from(&watcher::Error::InitialListFailed(kube::Error::Api(status.boxed())))
    }

    #[test]
    fn an_unknown_kind_is_told_once_with_what_to_do() {
        let mut trouble = Trouble::new("WebSocketRoute", "install the CRD");
        trouble.failed(failure(404, "page not found"), Instant::now());
        let logged = trouble.complaint.cause().unwrap().clone();
        assert_eq!(&*logged, "the API server does not know WebSocketRoute: install the CRD");
        assert!(!trouble.complaint.raise(&logged));
    }

    #[test]
    fn delays_grow_up_to_a_limit_and_start_over_after_a_calm() {
        let mut trouble = Trouble::new("Service", "");
        let now = Instant::now();
        let first = trouble.failed(failure(403, "no"), now);
        assert!(is_about(first, now, Duration::from_millis(250)), "{:?}", first - now);
        let later = (0..20).fold(first, |now, _| trouble.failed(failure(403, "no"), now));
        let latest = trouble.failed(failure(403, "no"), later);
        assert!(is_about(latest, later, Duration::from_secs(5)), "{:?}", latest - later);
        let calm = trouble.failed(failure(403, "no"), latest + CALM * 2);
        assert!(is_about(calm, latest + CALM * 2, Duration::from_millis(250)), "{:?}", calm - latest);
    }

    #[test]
    fn a_watch_that_is_not_valid_with_a_list_in_it_refuses_streams() {
        let failure = |code| {
            let status = Status::failure("sendInitialEvents is forbidden for watch", "").with_code(code);
            watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
        };
        assert!(refuses_streams(&failure(422)) && refuses_streams(&failure(400)));
        assert!(!refuses_streams(&failure(403)) && !refuses_streams(&failure(404)), "no list would be answered either");
    }

    #[test]
    fn an_expired_watch_is_no_news() {
        let mut trouble = Trouble::new("Service", "");
        trouble.failed(failure(410, "too old"), Instant::now());
        assert!(trouble.complaint.cause().is_none());
    }
}
