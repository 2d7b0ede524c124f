//! What every response of a backend gets on its way to the client, the 101 included.

use http::header::SET_COOKIE;

use super::routed::Routed;
use crate::{proxy::fields::Fields, table::Endpoint};

impl Routed {
    /// Adds to a response of this endpoint what the rule adds: the session's cookie, where the client needs a new one.
    pub(crate) fn finish(&self, response: &mut impl Fields, endpoint: &Endpoint) {
        if let Some(cookie) = self.sticky.as_ref().and_then(|sticky| sticky.cookie(&endpoint.id)) {
            response.add(SET_COOKIE, cookie.into_bytes());
        }
    }
}
