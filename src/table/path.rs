//! Paths of requests, the patterns that rules claim, and their precedence.

use std::{borrow::Cow, collections::HashMap, fmt};

use foldhash::fast::RandomState;

use super::{Expression, NormalPath};

/// A condition on the normal form of a path ([`NormalPath`]); patterns are stored in that form too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path.
    Exact(Box<str>),
    /// This path and everything below it, by whole segments; stored without trailing slashes, so empty for `/`.
    Prefix(Box<str>),
    /// The paths that the expression matches as a whole.
    Expression(Expression),
}

impl PathPattern {
    /// The prefix `value`; a trailing slash is ignored.
    #[must_use]
    pub fn prefix(value: &str) -> Self {
        let value = normal(value);
        Self::Prefix(value.strip_suffix('/').unwrap_or(&value).into())
    }

    /// Exactly `value`.
    #[must_use]
    pub fn exact(value: &str) -> Self {
        Self::Exact(normal(value).into())
    }

    /// How specific it is. A request matches at most one pattern of each rank, except among regular expressions.
    #[must_use]
    pub fn rank(&self) -> PathRank {
        match self {
            Self::Exact(_) => PathRank::Exact,
            Self::Expression(expression) => PathRank::Expression(expression.as_str().chars().count()),
            Self::Prefix(path) => PathRank::Prefix(path.len()),
        }
    }
}

/// How specific a path pattern is. Prefixes are ordered by length, regular expressions above them by length, and exact
/// paths above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// A prefix of this many bytes.
    Prefix(usize),
    /// A regular expression of this many characters.
    Expression(usize),
    /// One path.
    Exact,
}

/// The normal form of a pattern. A pattern that no request can have stays unchanged: it matches nothing.
fn normal(value: &str) -> Cow<'_, str> {
    NormalPath::parse(value).map_or(Cow::Borrowed(value), NormalPath::into_text)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("PathPrefix /"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
            Self::Expression(expression) => write!(f, "RegularExpression {}", expression.as_str()),
        }
    }
}

/// A value for each exact path and for each prefix.
///
/// The fast hash is safe here: the owner of the hostname chooses the keys, and collisions slow down nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMap<T> {
    exact: HashMap<Box<str>, T, RandomState>,
    prefix: HashMap<Box<str>, T, RandomState>,
    /// The number of segments of the longest prefix, which bounds the work for a path with many segments.
    depth: usize,
    /// The length of the longest path in bytes: a longer one is not even hashed.
    longest: usize,
}

impl<T> Default for PathMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), prefix: HashMap::default(), depth: 0, longest: 0 }
    }
}

impl<T> PathMap<T> {
    /// The value of exactly this path, which must be in normal form.
    pub fn exact(&self, path: &str) -> Option<&T> {
        Some(path).filter(|path| path.len() <= self.longest).and_then(|path| self.exact.get(path))
    }

    /// The values of the prefixes of a path in normal form, longest first.
    pub fn prefixes<'map>(&'map self, path: &str) -> impl Iterator<Item = &'map T> {
        // The first slash of a path ends the empty prefix, so a prefix of n segments ends at slash n + 1.
        let end = path.match_indices('/').nth(self.depth).map_or(path.len(), |(slash, _)| slash);
        let ends = std::iter::once(end).chain(path[..end].rmatch_indices('/').map(|(slash, _)| slash));
        ends.filter(|end| *end <= self.longest).filter_map(|end| self.prefix.get(&path[..end]))
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.prefix.values())
    }

    /// The value of exactly this path, inserted if absent.
    pub fn entry_of_exact(&mut self, path: &str) -> &mut T
    where
        T: Default,
    {
        self.longest = self.longest.max(path.len());
        self.exact.entry(path.into()).or_default()
    }

    /// The value of this prefix, inserted if absent.
    pub fn entry_of_prefix(&mut self, path: &str) -> &mut T
    where
        T: Default,
    {
        self.longest = self.longest.max(path.len());
        self.depth = self.depth.max(path.matches('/').count());
        self.prefix.entry(path.into()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the prefixes that match a path, longest first.
    fn covering(prefixes: &[&str], path: &str) -> Vec<String> {
        let mut map = PathMap::default();
        for prefix in prefixes {
            let PathPattern::Prefix(prefix) = PathPattern::prefix(prefix) else { unreachable!("it is a prefix") };
            *map.entry_of_prefix(&prefix) = prefix.to_string();
        }
        map.prefixes(path).cloned().collect()
    }

    #[test]
    fn a_prefix_covers_whole_segments() {
        for path in ["/ws", "/ws/", "/ws/a", "/ws/a/b/c"] {
            assert_eq!(covering(&["/ws"], path), ["/ws"], "{path}");
        }
        for path in ["/", "/wsx", "/w", "//ws", "/WS", "/a/ws", "*", ""] {
            assert!(covering(&["/ws"], path).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_trailing_slash_of_a_prefix_makes_no_difference() {
        assert_eq!(PathPattern::prefix("/ws"), PathPattern::prefix("/ws/"));
        assert_ne!(PathPattern::exact("/ws"), PathPattern::exact("/ws/"));
        assert_eq!(PathPattern::prefix("/ws"), PathPattern::prefix("//%77s//"));
    }

    #[test]
    fn the_root_prefix_covers_every_path() {
        for path in ["/", "/a", "/a/b/"] {
            assert_eq!(covering(&["/"], path), [""], "{path}");
        }
    }

    #[test]
    fn the_longer_prefix_comes_first() {
        assert_eq!(covering(&["/", "/a/b", "/a"], "/a/b/c"), ["/a/b", "/a", ""]);
    }
}
