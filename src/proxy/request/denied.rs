//! What a request gets instead of what it asked for.

use http::Response;

use super::refusal::Refusal;
use crate::proxy::body::Body;

/// Why a request does not get what it asked for.
#[derive(Debug)]
pub(crate) enum Denied {
    /// We refuse it.
    Refused(Refusal),
    /// Somebody else does, and the client gets their response.
    Answered(Box<Response<Body>>),
}

impl<R: Into<Refusal>> From<R> for Denied {
    fn from(reason: R) -> Self {
        Self::Refused(reason.into())
    }
}
