//! The matches of a rule: what they claim.

use crate::{
    api::{ConditionReason, Open, PathMatch, RouteMatch},
    choices::PathMatchType,
    table::{AmbiguousPath, Conditions, NormalPath, PathPattern},
};

use super::rule::RuleReader;

impl RuleReader<'_> {
    /// What the rule claims, with the position of the match that does; what is wrong with a match is a fault.
    pub(super) fn read_matches(&mut self, matches: &[RouteMatch]) -> Vec<(usize, Conditions)> {
        for (position, RouteMatch { path }) in matches.iter().enumerate() {
            if let Some(path) = path {
                self.check_path(position, path);
            }
        }
        claimed(matches)
    }

    fn check_path(&mut self, position: usize, path: &PathMatch) {
        let PathMatch { type_, value } = path;
        let field = format!("matches[{position}].path");
        // The schema's rule is a regular expression, which does not find everything.
        if let Err(AmbiguousPath) = NormalPath::parse(value) {
            let message = format!("{AmbiguousPath}, got {value:?}");
            self.fault(&format!("{field}.value"), ConditionReason::Invalid, message);
        }
        self.choice(&format!("{field}.type"), Some(type_));
    }
}

/// What matches claim, with the position of the one that does. Rules that are not valid are asked as well, for the claims
/// that they keep.
pub(super) fn claimed(matches: &[RouteMatch]) -> Vec<(usize, Conditions)> {
    if matches.is_empty() {
        return vec![(0, everything())];
    }
    let claims = matches.iter().enumerate();
    claims.filter_map(|(position, one)| Some((position, conditions(one)?))).collect()
}

fn everything() -> Conditions {
    Conditions::new(PathPattern::prefix("/"))
}

/// What a match claims; `None` if no request can meet it, or if this version cannot tell.
fn conditions(RouteMatch { path }: &RouteMatch) -> Option<Conditions> {
    path.as_ref().map_or_else(|| Some(everything()), |path| pattern(path).map(Conditions::new))
}

fn pattern(PathMatch { type_, value }: &PathMatch) -> Option<PathPattern> {
    match type_ {
        _ if !is_path(value) => None,
        Open::Known(PathMatchType::PathPrefix) => Some(PathPattern::prefix(value)),
        Open::Known(PathMatchType::Exact) => Some(PathPattern::exact(value)),
        Open::Unsupported(_) => None,
    }
}

/// Whether a request can have this path.
fn is_path(value: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    value.starts_with('/') && value.bytes().all(visible) && NormalPath::parse(value).is_ok()
}
