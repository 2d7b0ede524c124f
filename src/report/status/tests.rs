use kube::Config;
use serde_json::json;

use super::*;
use crate::{
    api::{ConditionReason, ConditionType},
    compile::VerdictCondition,
    source::{StoredRoutes, progress},
};

/// Version 7 of the route, with this generation.
fn route(generation: i64) -> RouteObject {
    serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": "chat", "generation": generation, "resourceVersion": "7" },
        "spec": { "className": "blue", "rules": [{ "backendRefs": [{ "name": "chat", "port": 80 }] }] },
    }))
    .unwrap()
}

fn report(generation: i64, reason: ConditionReason) -> Report {
    let status = reason == ConditionReason::Accepted;
    let accepted = VerdictCondition { type_: ConditionType::Accepted, status, reason, message: "why".into() };
    let verdict = Verdict { conditions: vec![accepted], ..progress::tests::verdict("shop", generation) };
    Report { generation: 1, verdicts: [verdict].into(), ..Report::default() }
}

/// A writer that has planned to write that generation 3 of the route is accepted. Nothing answers its requests.
fn writer() -> (StatusWriter, impl FnMut(RouteObject)) {
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let (routes, mut set) = StoredRoutes::in_memory();
    set(route(3));
    let mut writer = StatusWriter::new(client, "blue", "replica", routes);
    writer.receive(&report(3, ConditionReason::Accepted));
    let role = Role::Holder { until: Instant::now() + Duration::from_secs(10) };
    writer.join(&ReplicaStanding { role, ..ReplicaStanding::default() });
    writer.look();
    (writer, set)
}

fn reason(write: &Write) -> &str {
    &plan::find(&write.wish, ConditionType::Accepted).unwrap().reason
}

#[tokio::test]
async fn a_write_is_carried_out_as_planned_if_nothing_has_changed() {
    let (mut writer, _) = writer();
    let mut planned = writer.queue.pop_front().unwrap();
    planned.wish.truncate(1);
    assert_eq!(writer.updated(planned).unwrap().wish.len(), 1, "it is not planned again");
}

#[tokio::test]
async fn a_write_is_planned_again_after_a_new_verdict_or_for_a_new_spec() {
    let (mut writer, mut set) = writer();
    let planned = writer.queue.pop_front().unwrap();
    assert_eq!(reason(&planned), "Accepted");
    writer.receive(&report(3, ConditionReason::Conflicted));
    let updated = writer.updated(planned).unwrap();
    assert_eq!(reason(&updated), "Conflicted");
    set(route(4));
    assert!(writer.updated(updated).is_none(), "the verdict on the new spec is still to come");
}

#[tokio::test]
async fn a_route_that_a_scan_passed_over_during_its_write_is_looked_at_after_it() {
    for looks in [false, true] {
        let (mut writer, _) = writer();
        writer.start_writes();
        let write = Write { name: ObjectName::new("shop", "chat"), before: route(3).into(), wish: Vec::new() };
        if looks {
            writer.look();
            assert!(writer.queue.is_empty());
        }
        let is_complete = writer.note(WriteOutcome { write, stored: Vec::new(), answer: Ok(route(3)) });
        assert_eq!(is_complete, !looks);
    }
}
