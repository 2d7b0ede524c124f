//! Everything that may refuse a request that has a rule, each check in a file of its own.
//!
//! They run in the order in which `admit` lists them, the cheapest first, and each in the same way for upgrades and
//! plain requests. No backend has been dialled. What a check takes, such as a place in a limit, travels in [`Admitted`]
//! and is given back when the tunnel or the response ends.

mod clients;
mod escaped_slashes;
mod upgrades;

use std::sync::Arc;

use super::{View, denied::Denied};
use crate::table::Rule;

/// A request that its rule serves.
pub(super) struct Admitted {
    pub rule: Arc<Rule>,
}

#[expect(clippy::unused_async, reason = "the checks so far need no one else; those that do will wait here")]
pub(super) async fn admit(view: &View<'_>, rule: Arc<Rule>) -> Result<Admitted, Denied> {
    clients::check(view, &rule)?;
    escaped_slashes::check(view, &rule)?;
    upgrades::check(view, &rule)?;
    Ok(Admitted { rule })
}
