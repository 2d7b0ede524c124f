//! Logs watch failures, and backs off after them.

use std::time::Duration;

use kube::{core::Status, runtime::watcher};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Backoff after the first failure.
const FIRST_REST: Duration = Duration::from_millis(250);
/// Maximum backoff, and thus how long it may take to notice a new API server.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// After this long without failures, a watch starts with the first backoff again.
const CALM: Duration = Duration::from_secs(30);

/// The failures of one watch. Each cause is logged once, and so is recovery.
#[derive(Debug)]
pub(crate) struct Trouble {
    kind: &'static str,
    when_unknown: &'static str,
    logged: Option<String>,
    failures: u32,
    last: Option<Instant>,
}

impl Trouble {
    /// No failures yet for a kind; `when_unknown` is the advice if the API server does not know it.
    pub(crate) fn new(kind: &'static str, when_unknown: &'static str) -> Self {
        Self { kind, when_unknown, logged: None, failures: 0, last: None }
    }

    /// Records a failure; returns how long to wait.
    pub(crate) fn failed(&mut self, error: &watcher::Error, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.duration_since(last) > CALM) {
            self.failures = 0;
        }
        self.log(error);
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(10)).min(LONGEST_REST);
        self.failures += 1;
        self.last = Some(now + rest);
        // Jitter, so that replicas that lost the same API server do not retry in step.
        rest.mul_f64(0.75 + fastrand::f64() / 2.0)
    }

    /// Records that objects arrive.
    pub(crate) fn recovered(&mut self) {
        if self.logged.take().is_some() {
            info!(kind = self.kind, "watch resumed");
        }
    }

    fn log(&mut self, error: &watcher::Error) {
        if status(error).is_some_and(|status| status.code == 410) {
            debug!(kind = self.kind, "watch expired; listing again");
            return;
        }
        let cause = self.cause(error);
        if self.logged.as_ref() == Some(&cause) {
            debug!(kind = self.kind, cause, "watch still failing");
            return;
        }
        warn!(kind = self.kind, cause, "watch failed; serving the last known state and retrying");
        self.logged = Some(cause);
    }

    fn cause(&self, error: &watcher::Error) -> String {
        match status(error) {
            Some(status) if status.code == 404 => {
                format!("the API server does not know {}: {}", self.kind, self.when_unknown)
            }
            // The message names the account, the verb and the resource.
            Some(status) if status.code == 403 => format!("not permitted: {}", status.message),
            Some(status) => format!("the API server responded with {}: {}", status.code, status.message),
            None => chain(error),
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

/// The API server's response, if there was one.
pub(crate) fn status(error: &watcher::Error) -> Option<&Status> {
    use kube::Error::Api;
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(Api(status))
        | WatchStartFailed(Api(status))
        | WatchFailed(Api(status))
        | WatchError(status) => Some(status),
        _ => None,
    }
}

/// An error and its causes. Many errors repeat their cause in their own text; it is not repeated then.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, message: &str) -> watcher::Error {
        let status = Status::failure(message, "").with_code(code);
        watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn an_unknown_kind_is_told_once_with_what_to_do() {
        let mut trouble = Trouble::new("WebSocketRoute", "install the CRD");
        trouble.failed(&failure(404, "page not found"), Instant::now());
        let logged = trouble.logged.clone().unwrap();
        assert_eq!(logged, "the API server does not know WebSocketRoute: install the CRD");
        trouble.failed(&failure(404, "page not found"), Instant::now());
        assert_eq!(trouble.logged, Some(logged));
    }

    #[test]
    fn rests_grow_up_to_a_limit_and_start_over_after_a_calm() {
        let mut trouble = Trouble::new("Service", "");
        let now = Instant::now();
        let first = trouble.failed(&failure(403, "no"), now);
        assert!(first <= FIRST_REST * 2, "{first:?}");
        let later = (0..20).map(|_| trouble.failed(&failure(403, "no"), now)).last().unwrap();
        assert!(later > LONGEST_REST / 2 && later < LONGEST_REST * 2, "{later:?}");
        let calm = trouble.failed(&failure(403, "no"), now + CALM * 2);
        assert!(calm <= FIRST_REST * 2, "{calm:?}");
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
        trouble.failed(&failure(410, "too old"), Instant::now());
        assert_eq!(trouble.logged, None);
    }
}
