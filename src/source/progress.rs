//! How far the routes have been followed, comparable between replicas.

use std::{collections::BTreeMap, hash::Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::compile::Verdict;

/// The key of a watch of the whole cluster; not a valid namespace.
pub(crate) const WHOLE_CLUSTER: &str = "*";

/// A `resourceVersion` for each watch of routes, by namespace.
///
/// The versions of one kind of object are numbers that grow with each write (KEP-5504; also true of etcd's before it).
/// A version that is unknown, or not a number, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Versions(BTreeMap<String, Option<u64>>);

/// How far the routes had been followed at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All events up to these versions have been seen.
    pub seen: Versions,
    /// The versions of the last events that affect routing. Unknown for a change that came with a list.
    pub changed: Versions,
}

/// A digest of a table's routes for each watch: equal if two replicas serve the same generations of the same routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Digests(BTreeMap<String, u64>);

impl Versions {
    /// Sets the version of a watch.
    pub(crate) fn set(&mut self, watch: &str, version: Option<u64>) {
        self.0.insert(watch.to_owned(), version);
    }

    /// Whether any version is known here but not in `other`.
    pub(crate) fn know_more_than(&self, other: &Self) -> bool {
        self.0.iter().any(|(watch, version)| version.is_some() && other.of(watch).is_none())
    }

    /// These versions, with unknown ones replaced from `later`. An event is newer than the list that left its watch's
    /// version unknown: a replica that has seen the event has also seen the changes in the list.
    pub(crate) fn or_later(&self, later: &Self) -> Self {
        Self(self.0.iter().map(|(watch, version)| (watch.clone(), version.or(later.of(watch)))).collect())
    }

    fn of(&self, watch: &str) -> Option<u64> {
        self.0.get(watch).copied().flatten()
    }

    /// Whether a replica that has seen these versions has seen everything up to `other`, except for watches for which
    /// `otherwise` establishes that.
    pub(crate) fn cover(&self, other: &Self, otherwise: impl Fn(&str) -> bool) -> bool {
        let covers = |(watch, wanted): (&String, &Option<u64>)| {
            self.of(watch).zip(*wanted).is_some_and(|(seen, wanted)| seen >= wanted) || otherwise(watch)
        };
        !other.0.is_empty() && other.0.iter().all(covers)
    }
}

impl Digests {
    /// The digests of these verdicts, in any order, by these watches. Other releases may compute different digests for
    /// the same verdicts, which then merely count as not equal.
    #[must_use]
    pub fn of(verdicts: &[Verdict], watches: &Versions) -> Self {
        let mut digests: BTreeMap<_, _> = watches.0.keys().map(|watch| (watch.clone(), 0)).collect();
        for verdict in verdicts {
            let digest: &mut u64 = match digests.get_mut(&*verdict.route.namespace) {
                Some(digest) => digest,
                None => digests.entry(WHOLE_CLUSTER.to_owned()).or_default(),
            };
            *digest = digest.wrapping_add(of_one(verdict));
        }
        Self(digests)
    }

    /// Whether both have the same routes for a watch.
    pub(crate) fn agree_on(&self, watch: &str, other: &Self) -> bool {
        self.0.get(watch).zip(other.0.get(watch)).is_some_and(|(one, other)| one == other)
    }
}

fn of_one(verdict: &Verdict) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(verdict.uid.as_deref().unwrap_or_default().as_bytes());
    hasher.write_i64(verdict.generation);
    hasher.write_u8(u8::from(verdict.is_accepted()));
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::table::ObjectName;

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
        assert!(seen.cover(&versions(&[("blue", Some(7)), ("green", Some(4))]), |_| false));
        assert!(!seen.cover(&versions(&[("blue", Some(7)), ("green", Some(6))]), |_| false));
        assert!(!seen.cover(&versions(&[("red", Some(1))]), |_| false), "an unknown watch");
    }

    #[test]
    fn versions_that_are_not_numbers_cover_nothing_and_are_not_covered() {
        let seen = versions(&[("blue", Some(7))]);
        let unknown = versions(&[("blue", None)]);
        let cover = |one: &Versions, other: &Versions| one.cover(other, |_| false);
        assert!(!cover(&seen, &unknown) && !cover(&unknown, &seen) && !cover(&unknown, &unknown));
        assert!(!cover(&seen, &Versions::default()));
    }

    #[test]
    fn a_watch_that_versions_say_nothing_of_may_be_known_otherwise() {
        let seen = versions(&[("blue", Some(7)), ("green", Some(5))]);
        let needs = versions(&[("blue", None), ("green", Some(5))]);
        assert!(seen.cover(&needs, |watch| watch == "blue"));
        assert!(!seen.cover(&needs, |watch| watch == "green"));
    }

    #[test]
    fn versions_that_are_not_known_are_filled_with_later_ones() {
        let needs = versions(&[("blue", None), ("green", Some(5)), ("red", None)]);
        let later = versions(&[("blue", Some(7)), ("green", Some(9)), ("red", None)]);
        assert!(later.know_more_than(&needs) && !later.know_more_than(&later));
        assert_eq!(needs.or_later(&later), versions(&[("blue", Some(7)), ("green", Some(5)), ("red", None)]));
    }

    #[test]
    fn digests_are_those_of_each_watch() {
        let of = |verdicts: &[Verdict], watches: &[&str]| {
            let watches: Vec<_> = watches.iter().map(|watch| (*watch, Some(1))).collect();
            Digests::of(verdicts, &versions(&watches))
        };
        let (blue, green) = (verdict("blue", 1), verdict("green", 1));
        let both = of(&[blue.clone(), green.clone()], &["blue", "green"]);
        assert_eq!(both, of(&[green, blue.clone()], &["blue", "green"]));
        let changed = of(&[blue.clone(), verdict("green", 2)], &["blue", "green"]);
        assert!(both.agree_on("blue", &changed) && !both.agree_on("green", &changed));
        assert!(!both.agree_on("red", &both), "an unknown watch");
        let cluster = |verdicts: &[Verdict]| of(verdicts, &[WHOLE_CLUSTER]);
        let one = cluster(std::slice::from_ref(&blue));
        assert!(
            one.agree_on(WHOLE_CLUSTER, &one) && !one.agree_on(WHOLE_CLUSTER, &cluster(&[blue, verdict("green", 1)]))
        );
    }

    /// An empty verdict on the route `chat`.
    pub(crate) fn verdict(namespace: &str, generation: i64) -> Verdict {
        Verdict {
            route: ObjectName::new(namespace, "chat"),
            uid: Some(namespace.into()),
            generation,
            conditions: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            hostnames: Arc::default(),
            rules: Arc::default(),
        }
    }

    #[test]
    fn versions_survive_the_way_through_an_annotation() {
        let versions = versions(&[(WHOLE_CLUSTER, Some(12)), ("odd", None)]);
        let text = serde_json::to_string(&versions).unwrap();
        assert_eq!(text, r#"{"*":12,"odd":null}"#);
        assert_eq!(serde_json::from_str::<Versions>(&text).unwrap(), versions);
    }
}
