//! `escapedSlashes`: paths with `%2F` or `%5C`, which backends interpret differently.

use super::super::{View, refusal::Refusal};
use crate::table::{EscapedSlashes, Rule};

pub(super) fn check(view: &View<'_>, rule: &Rule) -> Result<(), Refusal> {
    if view.target.path.has_escaped_slash() && rule.policy.escaped_slashes == EscapedSlashes::Reject {
        return Err(Refusal::EscapedSlash);
    }
    Ok(())
}
