//! How far the routes have been followed, in terms that replicas can compare.

use std::{collections::BTreeMap, hash::Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::compile::Verdict;

/// The key of a watch of the whole cluster, which no namespace is called.
pub(super) const WHOLE_CLUSTER: &str = "*";

/// For each watch of routes, by its namespace, a `resourceVersion`.
///
/// Those of one kind of object are numbers that grow with each write (KEP-5504; true of etcd's before it). A watch
/// whose versions are none has nothing here, and then nothing is ever covered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Versions(BTreeMap<String, Option<u64>>);

/// How far the routes were followed when they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All events up to these versions have been seen.
    pub seen: Versions,
    /// The versions of the last events that routing depends on.
    pub changed: Versions,
}

/// What a table makes of which routes, in short: equal where two replicas serve the same generations of the same
/// routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Versions {
    /// Notes the version of a watch.
    pub(super) fn set(&mut self, watch: &str, version: Option<u64>) {
        self.0.insert(watch.to_owned(), version);
    }

    /// Whether whoever has seen these has seen all that `other` speaks of.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        let covers = |(watch, wanted): (&String, &Option<u64>)| match (self.0.get(watch), wanted) {
            (Some(Some(seen)), Some(wanted)) => seen >= wanted,
            _ => false,
        };
        !other.0.is_empty() && other.0.iter().all(covers)
    }
}

impl Digest {
    /// The digest of these verdicts, whatever their order. Another release may make another one of the same, which
    /// then only counts as not equal.
    #[must_use]
    pub fn of(verdicts: &[Verdict]) -> Self {
        Self(verdicts.iter().map(of_one).fold(0, u64::wrapping_add))
    }
}

fn of_one(verdict: &Verdict) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(verdict.uid.as_deref().unwrap_or_default().as_bytes());
    hasher.write_i64(verdict.generation);
    hasher.write_u8(u8::from(verdict.is_accepted()));
    hasher.finish()
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(of: &[(&str, Option<u64>)]) -> Versions {
        let mut versions = Versions::default();
        for (watch, version) in of {
            versions.set(watch, *version);
        }
        versions
    }

    #[test]
    fn versions_cover_what_is_not_newer_in_any_watch() {
        let seen = versions(&[("blue", Some(7)), ("green", Some(5))]);
        assert!(seen.cover(&versions(&[("blue", Some(7)), ("green", Some(4))])));
        assert!(!seen.cover(&versions(&[("blue", Some(7)), ("green", Some(6))])));
        assert!(!seen.cover(&versions(&[("red", Some(1))])), "a watch that is not had");
    }

    #[test]
    fn versions_that_are_not_numbers_cover_nothing_and_are_not_covered() {
        let seen = versions(&[("blue", Some(7))]);
        let unknown = versions(&[("blue", None)]);
        assert!(!seen.cover(&unknown) && !unknown.cover(&seen) && !unknown.cover(&unknown));
        assert!(!seen.cover(&Versions::default()));
    }

    #[test]
    fn versions_survive_the_way_through_an_annotation() {
        let versions = versions(&[(WHOLE_CLUSTER, Some(12)), ("odd", None)]);
        let text = serde_json::to_string(&versions).unwrap();
        assert_eq!(text, r#"{"*":12,"odd":null}"#);
        assert_eq!(serde_json::from_str::<Versions>(&text).unwrap(), versions);
    }
}
