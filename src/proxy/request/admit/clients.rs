//! `clients`: networks from which requests are served.

use super::super::{View, refusal::Refusal};
use crate::table::Rule;

pub(super) fn check(view: &View<'_>, rule: &Rule) -> Result<(), Refusal> {
    if rule.policy.clients.admit(view.client) { Ok(()) } else { Err(Refusal::Client) }
}
