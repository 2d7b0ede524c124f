//! Requests that do not get what they asked for.

use http::Response;

use super::refusal::Refusal;
use crate::proxy::body::Body;

/// Why a request does not get what it asked for.
#[derive(Debug)]
pub(crate) enum Denied {
    /// The proxy refuses it.
    Refused(Refusal),
    /// Another server does, whose response the client gets.
    Answered(Box<Response<Body>>),
}

impl<R: Into<Refusal>> From<R> for Denied {
    fn from(reason: R) -> Self {
        Self::Refused(reason.into())
    }
}
