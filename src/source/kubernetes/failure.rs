//! Failures of requests to the API server, as text.

use std::borrow::Cow;

use kube::{core::Status, runtime::watcher};
use tokio::time::{Instant, timeout_at};

/// Why a request to the API server failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiFailure {
    /// The HTTP status of the response, or 0 without one.
    pub(crate) code: u16,
    /// The cause in words.
    pub(crate) cause: String,
}

impl ApiFailure {
    /// Distinguishes failures in general: the message of a response also names the object.
    pub(crate) fn key(&self) -> Cow<'_, str> {
        match self.code {
            0 => Cow::Borrowed(&self.cause),
            code => Cow::Owned(code.to_string()),
        }
    }
}

impl From<&Status> for ApiFailure {
    fn from(status: &Status) -> Self {
        let Status { code, message, .. } = status;
        let cause = match code {
            // The message names the account, the verb and the resource.
            403 => format!("not permitted: {message}"),
            code => format!("the API server responded with {code}: {message}"),
        };
        Self { code: *code, cause }
    }
}

impl From<&kube::Error> for ApiFailure {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(&**status),
            other => Self { code: 0, cause: chain(other) },
        }
    }
}

impl From<&watcher::Error> for ApiFailure {
    fn from(error: &watcher::Error) -> Self {
        use kube::Error::Api;
        use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
        match error {
            InitialListFailed(Api(status))
            | WatchStartFailed(Api(status))
            | WatchFailed(Api(status))
            | WatchError(status) => Self::from(&**status),
            other => Self { code: 0, cause: chain(other) },
        }
    }
}

/// The response to a request. Without one by the deadline, the request has failed.
pub(crate) async fn answer_by<T>(
    deadline: Instant,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiFailure> {
    match timeout_at(deadline, request).await {
        Ok(answer) => answer.map_err(|error| ApiFailure::from(&error)),
        Err(_) => Err(ApiFailure { code: 0, cause: "no response from the API server".to_owned() }),
    }
}

/// An error and its causes. Many errors repeat their cause in their own text; it is not repeated then.
fn chain(error: &dyn std::error::Error) -> String {
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

    fn failure(code: u16, message: &str) -> ApiFailure {
        let status = Status::failure(message, "").with_code(code);
        ApiFailure::from(&kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_response_is_described_by_its_code_and_message() {
        assert_eq!(failure(503, "busy").cause, "the API server responded with 503: busy");
        assert_eq!(failure(403, "user may not").cause, "not permitted: user may not");
    }

    #[test]
    fn the_same_response_about_two_objects_is_one_kind_of_failure() {
        assert_eq!(failure(404, "no chat").key(), failure(404, "no shop").key());
        assert_ne!(failure(404, "no chat").key(), failure(403, "no chat").key());
    }

    #[test]
    fn causes_are_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect{0}")]
        struct Outer(&'static str, #[source] std::io::Error);
        let refused = || std::io::Error::other("refused");
        assert_eq!(chain(&Outer("", refused())), "cannot connect: refused");
        assert_eq!(chain(&Outer(": refused", refused())), "cannot connect: refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_response_in_time_has_failed() {
        let answer = answer_by(Instant::now(), std::future::pending::<kube::Result<()>>()).await;
        assert_eq!(answer, Err(ApiFailure { code: 0, cause: "no response from the API server".into() }));
    }
}
