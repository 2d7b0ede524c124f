//! The conditions under which a rule serves a request, and the precedence of several matches.

use std::{
    borrow::Cow,
    cmp::{Ordering, Reverse},
    fmt,
};

use http::HeaderName;

use super::{Expression, HeaderLines, PathPattern, RequestView, path::PathRank};

/// Conditions that a request must meet, all of them. Their order is irrelevant, as are repetitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conditions {
    path: PathPattern,
    values: Box<[ValueCondition]>,
    subprotocols: Box<[Box<str>]>,
}

/// A condition on a value in the request head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueCondition {
    /// Which value.
    pub source: ValueSource,
    /// What it must be.
    pub text: TextPattern,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueSource {
    /// A header field.
    Header(HeaderName),
    /// A query parameter.
    QueryParameter(Box<str>),
}

/// A condition on a text, which is compared as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextPattern {
    /// The value is this text.
    Exact(Box<str>),
    /// The expression matches the value.
    Expression(Expression),
}

/// Conditions with their position among those claimed for the same hostname.
///
/// Matches with higher precedence are greater: by the type and the length of the path, then by the number of headers,
/// query parameters and subprotocols, then by who claimed first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub(super) conditions: Conditions,
    /// How many matches of the hostname were claimed before: those of older routes, and of rules further up.
    pub(super) earlier: usize,
}

impl Conditions {
    /// Conditions on the path only.
    #[must_use]
    pub fn new(path: PathPattern) -> Self {
        Self { path, values: Box::default(), subprotocols: Box::default() }
    }

    /// The same conditions, plus conditions on headers and query parameters.
    #[must_use]
    pub fn with_values(self, values: impl IntoIterator<Item = ValueCondition>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by_cached_key(ToString::to_string);
        values.dedup();
        Self { values: values.into(), ..self }
    }

    /// The same conditions, for clients that offer at least one of these subprotocols.
    #[must_use]
    pub fn with_subprotocols(self, subprotocols: impl IntoIterator<Item = Box<str>>) -> Self {
        let mut subprotocols: Vec<_> = subprotocols.into_iter().collect();
        subprotocols.sort_unstable();
        subprotocols.dedup();
        Self { subprotocols: subprotocols.into(), ..self }
    }

    /// The condition on the path.
    #[must_use]
    pub fn path(&self) -> &PathPattern {
        &self.path
    }

    /// An exact value that every request that meets the conditions has, and that is likely to differ in other
    /// conditions: a key for an index.
    pub(super) fn key(&self) -> Option<(&ValueSource, &str)> {
        self.values.iter().find_map(|condition| match &condition.text {
            TextPattern::Exact(text) => Some((&condition.source, &**text)),
            TextPattern::Expression(_) => None,
        })
    }

    /// Whether a request meets them. The path is compared only if the pattern is a regular expression: other paths are
    /// looked up in the index.
    pub(super) fn are_met_by(&self, request: &RequestView<'_, impl HeaderLines>) -> bool {
        let fits_path = || match &self.path {
            PathPattern::Expression(expression) => expression.is_match(request.path.as_bytes()),
            PathPattern::Exact(_) | PathPattern::Prefix(_) => true,
        };
        let is_offered = || self.subprotocols.iter().any(|subprotocol| request.offers(subprotocol));
        self.values.iter().all(|condition| condition.is_met_by(request))
            && (self.subprotocols.is_empty() || is_offered())
            && fits_path()
    }
}

impl From<&PathPattern> for Conditions {
    fn from(path: &PathPattern) -> Self {
        Self::new(path.clone())
    }
}

impl ValueCondition {
    /// A header with exactly this value.
    #[must_use]
    pub fn header(name: HeaderName, value: &str) -> Self {
        Self { source: ValueSource::Header(name), text: TextPattern::Exact(value.into()) }
    }

    fn is_met_by(&self, request: &RequestView<'_, impl HeaderLines>) -> bool {
        self.source.value(request).is_some_and(|value| self.text.fits(&value))
    }

    fn is_on_header(&self) -> bool {
        matches!(self.source, ValueSource::Header(_))
    }
}

impl ValueSource {
    /// The value in a request.
    pub(super) fn value<'a>(&'a self, request: &RequestView<'a, impl HeaderLines>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(name) => request.header(name),
            Self::QueryParameter(name) => request.parameter(name).map(|value| match value {
                Cow::Borrowed(value) => Cow::Borrowed(value.as_bytes()),
                Cow::Owned(value) => Cow::Owned(value.into_bytes()),
            }),
        }
    }
}

impl TextPattern {
    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Expression(expression) => expression.is_match(value),
        }
    }
}

impl Match {
    /// The conditions.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    fn rank(&self) -> (PathRank, usize, usize, usize, Reverse<usize>) {
        let Conditions { path, values, subprotocols } = &self.conditions;
        let headers = values.iter().filter(|condition| condition.is_on_header()).count();
        (path.rank(), headers, values.len() - headers, subprotocols.len(), Reverse(self.earlier))
    }
}

impl Ord for Match {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_text = || self.conditions.to_string().cmp(&other.conditions.to_string());
        self.rank().cmp(&other.rank()).then_with(by_text)
    }
}

impl PartialOrd for Match {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        for condition in &self.values {
            write!(f, ", {condition}")?;
        }
        match &*self.subprotocols {
            [] => Ok(()),
            subprotocols => write!(f, ", subprotocol {}", subprotocols.join(" or ")),
        }
    }
}

impl fmt::Display for ValueCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ValueSource::Header(name) => write!(f, "header {name}")?,
            ValueSource::QueryParameter(name) => write!(f, "query parameter {name}")?,
        }
        match &self.text {
            TextPattern::Exact(text) => write!(f, " Exact {text:?}"),
            TextPattern::Expression(expression) => write!(f, " RegularExpression {:?}", expression.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &str) -> ValueCondition {
        ValueCondition::header(HeaderName::from_static(name), value)
    }

    fn parameter(name: &str, value: &str) -> ValueCondition {
        ValueCondition { source: ValueSource::QueryParameter(name.into()), text: TextPattern::Exact(value.into()) }
    }

    fn expression(text: &str) -> PathPattern {
        PathPattern::Expression(Expression::parse(text).unwrap())
    }

    #[test]
    fn the_more_specific_match_comes_first_then_the_one_that_was_claimed_first() {
        let root = || Conditions::new(PathPattern::prefix("/"));
        let expected = [
            Conditions::new(PathPattern::exact("/a")),
            Conditions::new(expression("/a.*")),
            Conditions::new(expression("/a")).with_values([header("x", "1")]),
            Conditions::new(expression("/b")),
            Conditions::new(PathPattern::prefix("/a/b")),
            Conditions::new(PathPattern::prefix("/a")),
            root().with_values([header("x", "1"), header("y", "1")]),
            root().with_values([header("x", "1"), parameter("v", "1"), parameter("w", "1")]),
            root().with_values([header("x", "1"), parameter("v", "1")]).with_subprotocols(["a".into(), "b".into()]),
            root().with_values([header("x", "1"), parameter("v", "1")]).with_subprotocols(["a".into()]),
            root().with_values([header("x", "1")]).with_subprotocols(["a".into()]),
            root().with_values([header("z", "1")]),
            root().with_values([header("y", "1")]),
            root().with_values([parameter("v", "1")]),
            root().with_subprotocols(["a".into()]),
            root(),
        ];
        let claimed = expected.iter().cloned().enumerate();
        let mut ranked: Vec<_> = claimed.map(|(earlier, conditions)| Match { conditions, earlier }).collect();
        ranked.reverse();
        ranked.sort_by(|one, other| other.cmp(one));
        assert_eq!(ranked.into_iter().map(|one| one.conditions).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn conditions_are_sets() {
        let root = || Conditions::new(PathPattern::prefix("/"));
        let (one, two) = (header("x", "1"), parameter("v", "1"));
        assert_eq!(
            root().with_values([one.clone(), two.clone()]),
            root().with_values([two.clone(), one.clone(), two.clone()])
        );
        assert_ne!(root().with_values([one]), root().with_values([two]));
        let subprotocols = |names: &[&str]| root().with_subprotocols(names.iter().map(|name| Box::from(*name)));
        assert_eq!(subprotocols(&["a", "b"]), subprotocols(&["b", "a", "a"]));
    }
}
