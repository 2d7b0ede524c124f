//! All checks that may refuse a request that has a rule, one file each.
//!
//! They run in the order in which `admit` lists them, the cheapest first, and in the same way for upgrades and plain
//! requests. No backend has been dialled yet. What a check acquires, such as a place in a limit, is kept in
//! [`Admitted`] and released when the tunnel or the response ends.

mod clients;
mod escaped_slashes;
mod upgrades;

use std::sync::Arc;

use super::{View, denied::Denied};
use crate::table::Rule;

/// A request that its rule admits.
pub(super) struct Admitted {
    pub rule: Arc<Rule>,
}

#[expect(clippy::unused_async, reason = "no check awaits anything yet")]
pub(super) async fn admit(view: &View<'_>, rule: Arc<Rule>) -> Result<Admitted, Denied> {
    clients::check(view, &rule)?;
    escaped_slashes::check(view, &rule)?;
    upgrades::check(view, &rule)?;
    Ok(Admitted { rule })
}
