//! Paths of requests, the patterns that rules claim, and which pattern wins.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap, fmt};

use super::NormalPath;

/// A condition on the normal form of a path ([`NormalPath`]), which it holds in that form as well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path.
    Exact(Box<str>),
    /// This path and all below it, by whole segments; held without its trailing slashes, so empty for `/`.
    Prefix(Box<str>),
}

impl PathPattern {
    /// The prefix `value`; one trailing slash makes no difference.
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

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(path) => (1, path.len()),
            Self::Prefix(path) => (0, path.len()),
        }
    }
}

/// The form in which a pattern is compared. One that no request can have stays as it is: it matches nothing.
fn normal(value: &str) -> Cow<'_, str> {
    NormalPath::parse(value).map_or(Cow::Borrowed(value), NormalPath::into_text)
}

/// The more specific pattern is the greater one: exact, then the longer prefix.
impl Ord for PathPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.to_string().cmp(&other.to_string()))
    }
}

impl PartialOrd for PathPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("PathPrefix /"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
        }
    }
}

/// A value for each path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMap<T> {
    exact: HashMap<Box<str>, T>,
    prefix: HashMap<Box<str>, T>,
    /// Segments of the longest prefix: what bounds the work that a path of many segments causes.
    depth: usize,
    /// Bytes of the longest pattern: a longer path is not even hashed.
    longest: usize,
}

impl<T> Default for PathMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefix: HashMap::new(), depth: 0, longest: 0 }
    }
}

impl<T> PathMap<T> {
    /// The values whose patterns fit a path in its normal form, the most specific first.
    pub fn matching<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a T> {
        let ends = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]);
        // The first slash of a path ends the empty prefix, so a prefix of n segments ends at the slash n + 1.
        let ends: Vec<usize> = ends.take(self.depth + 1).collect();
        let prefixes = ends.into_iter().rev().filter(|end| *end <= self.longest);
        let prefixes = prefixes.filter_map(|end| self.prefix.get(&path[..end]));
        let exact = Some(path).filter(|path| path.len() <= self.longest).and_then(|path| self.exact.get(path));
        exact.into_iter().chain(prefixes)
    }

    /// All patterns with their values, the most specific pattern first.
    pub fn iter(&self) -> impl Iterator<Item = (PathPattern, &T)> {
        let exact = self.exact.iter().map(|(path, value)| (PathPattern::Exact(path.clone()), value));
        let prefix = self.prefix.iter().map(|(path, value)| (PathPattern::Prefix(path.clone()), value));
        let mut all: Vec<_> = exact.chain(prefix).collect();
        all.sort_by(|(one, _), (other, _)| other.cmp(one));
        all.into_iter()
    }

    /// Sets the value of a pattern, giving back the one it had.
    pub fn insert(&mut self, pattern: &PathPattern, value: T) -> Option<T> {
        let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = pattern;
        self.longest = self.longest.max(text.len());
        match pattern {
            PathPattern::Exact(path) => self.exact.insert(path.clone(), value),
            PathPattern::Prefix(path) => {
                self.depth = self.depth.max(path.matches('/').count());
                self.prefix.insert(path.clone(), value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(patterns: &[PathPattern]) -> PathMap<String> {
        let mut map = PathMap::default();
        for pattern in patterns {
            map.insert(pattern, pattern.to_string());
        }
        map
    }

    fn found<'a>(map: &'a PathMap<String>, path: &'a str) -> Vec<&'a str> {
        map.matching(path).map(String::as_str).collect()
    }

    #[test]
    fn a_prefix_covers_whole_segments() {
        let map = map(&[PathPattern::prefix("/ws")]);
        for path in ["/ws", "/ws/", "/ws/a", "/ws/a/b/c"] {
            assert_eq!(found(&map, path), ["PathPrefix /ws"], "{path}");
        }
        for path in ["/", "/wsx", "/w", "//ws", "/WS", "/a/ws", "*", ""] {
            assert!(found(&map, path).is_empty(), "{path}");
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
        let map = map(&[PathPattern::prefix("/")]);
        for path in ["/", "/a", "/a/b/"] {
            assert_eq!(found(&map, path), ["PathPrefix /"], "{path}");
        }
    }

    #[test]
    fn exact_comes_first_then_the_longer_prefix() {
        let patterns = [
            PathPattern::prefix("/"),
            PathPattern::prefix("/a/b"),
            PathPattern::prefix("/a"),
            PathPattern::exact("/a/b"),
        ];
        let map = map(&patterns);
        let expected = ["Exact /a/b", "PathPrefix /a/b", "PathPrefix /a", "PathPrefix /"];
        assert_eq!(found(&map, "/a/b"), expected);
        assert_eq!(found(&map, "/a/b/c"), expected[1..]);
        let mut ranked = patterns.to_vec();
        ranked.sort_by(|one, other| other.cmp(one));
        assert_eq!(ranked.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }
}
