//! Whether every replica serves the current version of a route. Pure: instants are passed in.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::Instant;

use super::plan::find;
use crate::{
    api::{ConditionReason, ConditionType},
    compile::{Verdict, VerdictCondition},
    report::{ReplicaStanding, Role},
    source::{Digests, Report, Versions},
    table::ObjectName,
};

const EVERYWHERE: &str = "Every replica serves the current version of the route";
/// The number of replicas that a message names; further ones are counted.
const NAMED: usize = 4;
/// How long to wait before writing about a route that is served here, so that reports of other replicas in that time go
/// into the same write.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// What a replica must have followed to serve the current version of each route.
#[derive(Debug, Default)]
pub(super) struct Needs {
    routes: HashMap<ObjectName, Need>,
    /// The last changes known when a table was last recorded.
    changed: Arc<Versions>,
    digests: Digests,
}

/// The requirement of one route.
#[derive(Clone, Debug)]
struct Need {
    /// What it applies to: the route, its generation, and whether it is accepted.
    of: (Option<Arc<str>>, i64, bool),
    /// The changes that led to it. Shared between routes.
    versions: Arc<Versions>,
    since: Instant,
}

impl Needs {
    /// Records what is served here now. A route that was not served before needs all changes in this table; others keep
    /// their need; for an unknown version in it, the first known one counts.
    pub(super) fn note(&mut self, report: &Report, now: Instant) {
        let Report { generation: _, verdicts, progress, digests } = report;
        let versions = Arc::new(progress.changed.clone());
        if versions.know_more_than(&self.changed) {
            self.fill(&versions);
        }
        let mut before = std::mem::take(&mut self.routes);
        for verdict in verdicts.iter() {
            let of = (verdict.uid.clone(), verdict.generation, verdict.is_accepted());
            let need = before.remove(&verdict.route).filter(|need| need.of == of);
            let need = need.unwrap_or_else(|| Need { of, versions: versions.clone(), since: now });
            self.routes.insert(verdict.route.clone(), need);
        }
        self.changed = versions;
        self.digests.clone_from(digests);
    }

    fn fill(&mut self, later: &Versions) {
        let mut filled = HashMap::new();
        for need in self.routes.values_mut() {
            let versions = filled.entry(need.versions.clone()).or_insert_with(|| need.versions.or_later(later).into());
            need.versions = Arc::clone(versions);
        }
    }

    /// The condition of a route with these stored conditions, and until when to wait for other replicas.
    pub(super) fn condition(
        &self,
        verdict: &Verdict,
        stored: &[Condition],
        standing: &ReplicaStanding,
    ) -> (VerdictCondition, Option<Instant>) {
        // Not withdrawn for the same generation: a replica that joins has the routes before it is ready.
        if !verdict.is_accepted() || says_programmed(stored, verdict.generation) {
            return (served(verdict, EVERYWHERE), None);
        }
        if let Role::Barred { cause } = &standing.role {
            return (pending(format!("Cannot determine what other replicas serve: {cause}")), None);
        }
        let Some(need) = self.routes.get(&verdict.route) else {
            return (pending("The route is not served yet".to_owned()), None);
        };
        let late = standing.others.iter().filter(|replica| !replica.serves(&need.versions, &self.digests));
        let late: Vec<_> = late.map(|replica| replica.name.as_str()).collect();
        if late.is_empty() {
            return (served(verdict, EVERYWHERE), None);
        }
        (pending(name_late(&late, standing.others.len() + 1)), Some(need.since + PATIENCE))
    }
}

/// `Programmed` for this replica alone, from a verdict on what it serves.
#[must_use]
pub fn programmed_here(verdict: &Verdict) -> VerdictCondition {
    served(verdict, "This replica serves the current version of the route")
}

fn served(verdict: &Verdict, message: &'static str) -> VerdictCondition {
    let accepted = verdict.is_accepted();
    VerdictCondition {
        type_: ConditionType::Programmed,
        status: accepted,
        reason: if accepted { ConditionReason::Programmed } else { ConditionReason::Invalid },
        message: if accepted { message } else { "The route is not accepted" }.into(),
    }
}

fn says_programmed(stored: &[Condition], generation: i64) -> bool {
    find(stored, ConditionType::Programmed)
        .is_some_and(|stored| stored.status == "True" && stored.observed_generation == Some(generation))
}

fn pending(message: String) -> VerdictCondition {
    let reason = ConditionReason::Pending;
    VerdictCondition { type_: ConditionType::Programmed, status: false, reason, message: message.into() }
}

fn name_late(late: &[&str], replicas: usize) -> String {
    let named = late[..late.len().min(NAMED)].join(", ");
    let more = late.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{} of {replicas} replicas have not reported this generation yet: {named}{more}", late.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::replicas::Replica,
        source::progress::{self, WHOLE_CLUSTER},
    };

    const UNKNOWN: Option<u64> = None;

    fn verdict(generation: i64, accepted: bool) -> Verdict {
        let reason = if accepted { ConditionReason::Accepted } else { ConditionReason::Conflicted };
        let accepted =
            VerdictCondition { type_: ConditionType::Accepted, status: accepted, reason, message: "why".into() };
        Verdict { conditions: vec![accepted], ..progress::tests::verdict("shop", generation) }
    }

    fn versions(version: impl Into<Option<u64>>) -> Versions {
        let mut versions = Versions::default();
        versions.set(WHOLE_CLUSTER, version.into());
        versions
    }

    fn report(verdict: Verdict, changed: impl Into<Option<u64>>) -> Report {
        let verdicts: Arc<[Verdict]> = [verdict].into();
        let versions = versions(changed);
        let mut report = Report { generation: 1, digests: Digests::of(&verdicts, &versions), ..Report::default() };
        (report.verdicts, report.progress.changed) = (verdicts, versions);
        report
    }

    fn among(others: &[(&str, u64, &[Verdict])]) -> ReplicaStanding {
        let others = others.iter().map(|(name, applied, verdicts)| Replica {
            name: (*name).to_owned(),
            applied: versions(*applied),
            digests: Digests::of(verdicts, &versions(*applied)),
        });
        let role = Role::Holder { until: Instant::now() };
        ReplicaStanding { role, others: others.collect(), announced: true }
    }

    fn stored(status: &str, generation: i64) -> Vec<Condition> {
        vec![
            serde_json::from_value(serde_json::json!({
                "type": "Programmed", "status": status, "reason": "", "message": "", "observedGeneration": generation,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }))
            .unwrap(),
        ]
    }

    /// Status, reason and message for a route of generation 3 that needs version 7.
    fn told(standing: &ReplicaStanding, stored: &[Condition]) -> (bool, ConditionReason, String) {
        let mut needs = Needs::default();
        needs.note(&report(verdict(3, true), 7), Instant::now());
        let (condition, _) = needs.condition(&verdict(3, true), stored, standing);
        (condition.status, condition.reason, condition.message.into())
    }

    #[test]
    fn a_replica_alone_speaks_for_all() {
        assert!(told(&among(&[]), &[]).0);
    }

    #[test]
    fn every_replica_has_to_have_followed_the_routes_up_to_the_change() {
        assert!(told(&among(&[("a", 7, &[]), ("b", 9, &[])]), &[]).0);
        let (status, reason, message) = told(&among(&[("a", 6, &[]), ("b", 9, &[])]), &[]);
        assert_eq!((status, reason), (false, ConditionReason::Pending));
        assert!(message.contains("1 of 3 replicas") && message.ends_with(": a"), "{message}");
    }

    #[test]
    fn a_replica_that_makes_the_same_of_the_routes_serves_it_whatever_its_versions() {
        assert!(told(&among(&[("a", 0, &[verdict(3, true)])]), &[]).0);
        assert!(!told(&among(&[("a", 0, &[verdict(2, true)])]), &[]).0);
    }

    #[test]
    fn a_change_that_only_a_list_told_of_is_everywhere_with_the_next_event_or_where_the_same_is_served() {
        let mut needs = Needs::default();
        needs.note(&report(verdict(3, true), UNKNOWN), Instant::now());
        let status = |needs: &Needs, applied, serves: &[Verdict]| {
            needs.condition(&verdict(3, true), &[], &among(&[("a", applied, serves)])).0.status
        };
        assert!(!status(&needs, 99, &[]) && status(&needs, 7, &[verdict(3, true)]));
        needs.note(&report(verdict(3, true), 12), Instant::now());
        needs.note(&report(verdict(3, true), 20), Instant::now());
        assert!(!status(&needs, 11, &[]) && status(&needs, 12, &[]));
    }

    #[test]
    fn what_was_said_of_a_generation_stays_said() {
        let joined = among(&[("new", 0, &[])]);
        assert!(told(&joined, &stored("True", 3)).0);
        assert!(!told(&joined, &stored("True", 2)).0);
        assert!(!told(&joined, &stored("False", 3)).0);
    }

    #[test]
    fn a_route_that_is_not_accepted_is_not_programmed() {
        let mut needs = Needs::default();
        needs.note(&report(verdict(3, false), 7), Instant::now());
        let (condition, _) = needs.condition(&verdict(3, false), &stored("True", 3), &among(&[]));
        assert_eq!((condition.status, condition.reason), (false, ConditionReason::Invalid));
    }

    #[test]
    fn a_claim_that_another_route_gives_up_has_to_be_seen_everywhere_as_well() {
        let mut needs = Needs::default();
        needs.note(&report(verdict(3, false), 7), Instant::now());
        needs.note(&report(verdict(3, true), 12), Instant::now());
        needs.note(&report(verdict(3, true), 20), Instant::now());
        let status = |applied| needs.condition(&verdict(3, true), &[], &among(&[("a", applied, &[])])).0.status;
        assert!(!status(11) && status(12));
    }

    #[test]
    fn a_route_of_the_same_name_is_another_one() {
        let mut needs = Needs::default();
        needs.note(&report(verdict(1, true), 7), Instant::now());
        let again = Verdict { uid: Some("18".into()), ..verdict(1, true) };
        needs.note(&report(again.clone(), 12), Instant::now());
        assert!(!needs.condition(&again, &[], &among(&[("a", 7, &[])])).0.status);
    }

    #[test]
    fn without_leases_nothing_is_claimed_and_the_cause_is_told() {
        let barred =
            ReplicaStanding { role: Role::Barred { cause: "cannot list leases".into() }, ..ReplicaStanding::default() };
        let (status, _, message) = told(&barred, &[]);
        assert!(!status && message.contains("cannot list leases"));
    }

    #[test]
    fn others_are_waited_for_a_moment() {
        let (mut needs, now) = (Needs::default(), Instant::now());
        needs.note(&report(verdict(3, true), 7), now);
        let (_, until) = needs.condition(&verdict(3, true), &[], &among(&[("a", 6, &[])]));
        assert_eq!(until, Some(now + PATIENCE));
    }

    #[test]
    fn many_late_replicas_are_counted() {
        let late = ["a", "b", "c", "d", "e", "f"];
        assert!(name_late(&late, 9).ends_with("a, b, c, d and 2 more"));
    }
}
