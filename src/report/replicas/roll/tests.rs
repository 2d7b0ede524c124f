use serde_json::json;

use super::*;
use crate::source::{Digests, Versions};

const SECOND: Duration = Duration::from_secs(1);

fn lease(name: &str, holder: &str, version: u64, renewed: u32) -> Lease {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "resourceVersion": version.to_string(),
            "labels": { "switchyard.dev/component": if name == "leader" { "leader" } else { "replica" } },
            "annotations": { "switchyard.dev/applied": r#"{"*":7}"#, "switchyard.dev/digests": r#"{"*":1}"# },
        },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15,
            "renewTime": format!("2026-01-01T00:00:{renewed:02}.000000Z"),
        },
    }))
    .unwrap()
}

fn roll(leases: Vec<Lease>, now: Instant) -> Roll {
    let mut roll = Roll::new("leader", "me");
    roll.apply(Event::Init, now);
    assert!(!roll.is_synced());
    for lease in leases {
        roll.apply(Event::InitApply(lease), now);
    }
    roll.apply(Event::InitDone, now);
    roll
}

fn names(roll: &Roll) -> Vec<String> {
    roll.present().map(|replica| replica.name.clone()).collect()
}

/// Our own renewal, as reported by the watch.
fn hear(roll: &mut Roll, now: Instant) {
    roll.apply(Event::Apply(lease("me", "me", 100, 1)), now);
}

#[test]
fn replicas_are_present_until_they_have_not_renewed_for_their_time() {
    let now = Instant::now();
    let mut roll = roll(vec![lease("me", "me", 1, 0), lease("r.a", "a", 2, 0), lease("r.b", "b", 3, 0)], now);
    assert_eq!(names(&roll), ["a", "b"]);
    roll.apply(Event::Apply(lease("r.b", "b", 4, 9)), now + 10 * SECOND);
    assert_eq!(names(&roll), ["a", "b"]);
    hear(&mut roll, now + LEASE);
    assert_eq!(names(&roll), ["b"]);
    assert_eq!(roll.forgotten(now + LEASE), None);
    assert_eq!(roll.forgotten(now + LEASE + FORGOTTEN), Some(("r.a", "2")));
    roll.apply(Event::Delete(lease("r.b", "b", 9, 9)), now + LEASE);
    assert_eq!(names(&roll), Vec::<String>::new());
}

#[test]
fn whoever_hears_nothing_takes_nobody_for_gone() {
    let now = Instant::now();
    let mut roll = roll(vec![lease("r.a", "a", 2, 0), lease("leader", "me", 3, 0)], now);
    roll.wrote(lease("leader", "me", 5, 1), now + 2 * LEASE);
    roll.apply(Event::Init, now + 2 * LEASE);
    assert_eq!(names(&roll), ["a"], "what is asked for has not been answered");
    roll.apply(Event::InitApply(lease("r.a", "a", 4, 9)), now + 2 * LEASE);
    roll.apply(Event::InitDone, now + 2 * LEASE);
    assert_eq!(names(&roll), ["a"], "it has renewed meanwhile");
}

#[test]
fn a_lease_that_is_listed_again_is_no_fresher_for_it() {
    let now = Instant::now();
    let mut roll = roll(vec![lease("r.a", "a", 2, 0)], now);
    roll.apply(Event::Init, now + 10 * SECOND);
    roll.apply(Event::InitApply(lease("r.a", "a", 2, 0)), now + 10 * SECOND);
    roll.apply(Event::InitDone, now + 10 * SECOND);
    hear(&mut roll, now + LEASE);
    assert_eq!(names(&roll), Vec::<String>::new());
}

#[test]
fn what_is_not_listed_any_more_is_gone() {
    let now = Instant::now();
    let mut roll = roll(vec![lease("r.a", "a", 2, 0), lease("leader", "a", 3, 0)], now);
    assert_eq!(roll.leader().unwrap().holder, "a");
    roll.apply(Event::Init, now);
    roll.apply(Event::InitDone, now);
    assert!(roll.leader().is_none() && names(&roll).is_empty());
}

#[test]
fn the_watch_does_not_undo_what_our_own_write_was_answered_with() {
    let now = Instant::now();
    let mut roll = roll(vec![lease("leader", "a", 3, 0)], now);
    roll.wrote(lease("leader", "me", 5, 1), now);
    roll.apply(Event::Apply(lease("leader", "a", 4, 2)), now);
    assert_eq!(roll.leader().unwrap().holder, "me");
    roll.apply(Event::Apply(lease("leader", "b", 6, 3)), now);
    assert_eq!(roll.leader().unwrap().holder, "b");
}

#[test]
fn a_replica_whose_word_cannot_be_read_has_applied_nothing() {
    let mut garbled = lease("r.a", "a", 2, 0);
    let annotations = [APPLIED, DIGESTS].map(|name| (name.to_owned(), "soon".to_owned()));
    garbled.metadata.annotations = Some(annotations.into());
    let roll = roll(vec![garbled], Instant::now());
    let replica = roll.present().next().unwrap();
    assert_eq!((&replica.applied, &replica.digests), (&Versions::default(), &Digests::default()));
}
