//! What is added to every response from a backend, including the 101.

use http::header::SET_COOKIE;

use super::routed::Routed;
use crate::{proxy::fields::Fields, table::Endpoint};

impl Routed {
    /// Adds to a response from this endpoint what the rule requires: the session cookie, if the client needs a new one.
    pub(crate) fn finish(&self, response: &mut impl Fields, endpoint: &Endpoint) {
        if let Some(cookie) = self.sticky.as_ref().and_then(|sticky| sticky.cookie(&endpoint.id)) {
            response.add(SET_COOKIE, cookie.into_bytes());
        }
    }
}
