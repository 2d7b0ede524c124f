//! Handshakes that RFC 6455 does not allow, and `nonUpgradeRequests`.

use super::super::{View, handshake::Intent, refusal::Refusal};
use crate::table::{NonUpgrade, Rule};

pub(super) fn check(view: &View<'_>, rule: &Rule) -> Result<(), Refusal> {
    match (view.intent, rule.policy.non_upgrade) {
        (Intent::Faulty(fault), _) => Err(fault.into()),
        (Intent::Plain, NonUpgrade::Reject) => Err(Refusal::NoUpgrade),
        _ => Ok(()),
    }
}
