use serde_json::json;

use super::*;
use crate::{api::ConditionReason, source::backoff::tests::is_about};

const AT: &str = "2026-01-01T00:00:00Z";

fn now() -> Now {
    Now { instant: Instant::now(), time: "2026-02-02T02:02:02.123Z".parse().unwrap() }
}

fn route(version: &str, class: &str, conditions: &serde_json::Value) -> RouteObject {
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "shop", "name": "chat", "generation": 3, "resourceVersion": version,
            "managedFields": [{ "manager": "switchyard/blue", "subresource": "status" }],
        },
        "spec": { "className": class, "rules": [{ "backendRefs": [{ "name": "chat", "port": 80 }] }] },
        "status": { "conditions": conditions },
    }))
    .unwrap()
}

fn pending(version: &str) -> RouteObject {
    let unknown = json!({
        "type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "", "lastTransitionTime": AT,
    });
    route(version, "blue", &json!([unknown]))
}

fn condition(type_: &str, status: &str, reason: &str) -> serde_json::Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": "why", "observedGeneration": 3,
        "lastTransitionTime": AT,
    })
}

fn opinion(conditions: &[(ConditionType, bool, ConditionReason)]) -> Opinion {
    let conditions = conditions.iter().map(|&(type_, status, reason)| {
        let message = "why".to_owned();
        VerdictCondition { type_, status, reason, message: message.into() }
    });
    Opinion { generation: 3, conditions: conditions.collect(), hold_until: None }
}

fn accepted() -> Opinion {
    opinion(&[(ConditionType::Accepted, true, ConditionReason::Accepted)])
}

fn ready(ready: bool) -> Opinion {
    let reason = if ready { ConditionReason::EndpointsReady } else { ConditionReason::NoReadyEndpoints };
    opinion(&[
        (ConditionType::Accepted, true, ConditionReason::Accepted),
        (ConditionType::BackendsReady, ready, reason),
    ])
}

fn stored_ready(version: &str, status: &str, reason: &str) -> RouteObject {
    let accepted = condition("Accepted", "True", "Accepted");
    route(version, "blue", &json!([accepted, condition("BackendsReady", status, reason)]))
}

fn wish(plan: WritePlan) -> Vec<Condition> {
    match plan {
        WritePlan::Write(wish) => wish,
        other => panic!("{other:?}"),
    }
}

fn later(plan: WritePlan) -> Instant {
    match plan {
        WritePlan::Later(at) => at,
        other => panic!("{other:?}"),
    }
}

fn plan(route: &RouteObject, opinion: &Opinion, memory: &WriteHistory, now: Now) -> WritePlan {
    StatusPlanner::new("blue").plan(route, Some(opinion), memory, now)
}

#[test]
fn a_pending_route_gets_its_conditions_with_the_time_in_whole_seconds() {
    let wish = wish(plan(&pending("1"), &accepted(), &WriteHistory::default(), now()));
    assert_eq!(wish.len(), 1);
    assert_eq!((wish[0].status.as_str(), wish[0].reason.as_str()), ("True", "Accepted"));
    assert_eq!(wish[0].observed_generation, Some(3));
    assert_eq!(wish[0].last_transition_time.0.to_string(), "2026-02-02T02:02:02Z");
}

#[test]
fn a_status_that_is_as_it_should_be_is_not_written() {
    let stored = route("1", "blue", &json!([condition("Accepted", "True", "Accepted")]));
    assert_eq!(plan(&stored, &accepted(), &WriteHistory::default(), now()), WritePlan::Nothing);
}

#[test]
fn the_transition_time_moves_with_the_status_only() {
    let stored = route("1", "blue", &json!([condition("Accepted", "False", "Invalid")]));
    let conflicted = opinion(&[(ConditionType::Accepted, false, ConditionReason::Conflicted)]);
    let kept = wish(plan(&stored, &conflicted, &WriteHistory::default(), now()));
    assert_eq!(kept[0].last_transition_time.0.to_string(), AT);
    let moved = wish(plan(&stored, &accepted(), &WriteHistory::default(), now()));
    assert_eq!(moved[0].last_transition_time.0.to_string(), "2026-02-02T02:02:02Z");
}

#[test]
fn a_condition_that_no_longer_holds_is_removed() {
    let accepted_only =
        json!([condition("Accepted", "True", "Accepted"), condition("PartiallyInvalid", "True", "Invalid")]);
    let wish = wish(plan(&route("1", "blue", &accepted_only), &accepted(), &WriteHistory::default(), now()));
    assert_eq!(wish.len(), 1);
}

#[test]
fn an_opinion_of_an_older_spec_is_not_written() {
    let old = Opinion { generation: 2, ..accepted() };
    assert_eq!(plan(&pending("1"), &old, &WriteHistory::default(), now()), WritePlan::Nothing);
}

#[test]
fn a_route_of_another_class_is_let_go_and_otherwise_left_alone() {
    let lost = route("1", "green", &json!([condition("Accepted", "True", "Accepted")]));
    let (memory, now) = (WriteHistory::default(), now());
    assert_eq!(StatusPlanner::new("blue").plan(&lost, None, &memory, now), WritePlan::Write(Vec::new()));
    assert_eq!(StatusPlanner::new("red").plan(&lost, None, &memory, now), WritePlan::Nothing);
}

#[test]
fn a_route_that_was_let_go_is_let_go_once() {
    let lost = route("1", "green", &json!([condition("Accepted", "True", "Accepted")]));
    let mut memory = WriteHistory::default();
    let mut answer = route("2", "green", &json!([]));
    answer.metadata.managed_fields = None;
    memory.wrote(Vec::new(), &lost, answer.clone(), Instant::now());
    assert_eq!(StatusPlanner::new("blue").plan(&lost, None, &memory, now()), WritePlan::Nothing);
    assert_eq!(StatusPlanner::new("blue").plan(&answer, None, &memory, now()), WritePlan::Nothing);
}

#[test]
fn a_write_that_the_watch_has_not_told_of_is_not_repeated() {
    let (before, mut memory) = (pending("1"), WriteHistory::default());
    let wish = wish(plan(&before, &accepted(), &memory, now()));
    let answer = route("2", "blue", &json!([condition("Accepted", "True", "Accepted")]));
    memory.wrote(wish, &before, answer, Instant::now());
    assert_eq!(plan(&before, &accepted(), &memory, now()), WritePlan::Nothing);
}

#[test]
fn what_somebody_else_holds_is_not_fought_over() {
    let foreign = json!([condition("Accepted", "True", "Accepted"), condition("PartiallyInvalid", "True", "Mine")]);
    let (before, mut memory) = (route("1", "blue", &foreign), WriteHistory::default());
    let wish = wish(plan(&before, &accepted(), &memory, now()));
    let answer = route("2", "blue", &foreign);
    memory.wrote(wish, &before, answer.clone(), Instant::now());
    assert_eq!(plan(&answer, &accepted(), &memory, now()), WritePlan::Nothing);
}

#[test]
fn a_status_that_somebody_took_away_is_written_again() {
    let (before, mut memory) = (pending("1"), WriteHistory::default());
    let wished = wish(plan(&before, &accepted(), &memory, now()));
    let answer = route("2", "blue", &json!([condition("Accepted", "True", "Accepted")]));
    memory.wrote(wished, &before, answer, Instant::now());
    assert_eq!(wish(plan(&pending("3"), &accepted(), &memory, now())).len(), 1);
}

#[test]
fn readiness_alone_is_written_at_most_once_in_ten_seconds() {
    let (start, mut memory) = (now(), WriteHistory::default());
    let down = stored_ready("1", "False", "NoReadyEndpoints");
    let wished = wish(plan(&down, &ready(true), &memory, start));
    let up = stored_ready("2", "True", "EndpointsReady");
    memory.wrote(wished, &down, up.clone(), start.instant);

    let soon = Now { instant: start.instant + Duration::from_secs(3), ..start };
    assert_eq!(plan(&up, &ready(false), &memory, soon), WritePlan::Later(start.instant + SMALL_INTERVAL));
    let late = Now { instant: start.instant + SMALL_INTERVAL, ..start };
    assert!(matches!(plan(&up, &ready(false), &memory, late), WritePlan::Write(_)));
}

#[test]
fn readiness_goes_along_with_another_condition_at_once() {
    let (start, mut memory) = (now(), WriteHistory::default());
    let down = stored_ready("1", "False", "NoReadyEndpoints");
    let wished = wish(plan(&down, &ready(true), &memory, start));
    memory.wrote(wished, &down, stored_ready("2", "True", "EndpointsReady"), start.instant);
    let conflicted = opinion(&[
        (ConditionType::Accepted, false, ConditionReason::Conflicted),
        (ConditionType::BackendsReady, false, ConditionReason::NoReadyEndpoints),
    ]);
    assert!(matches!(
        plan(&stored_ready("2", "True", "EndpointsReady"), &conflicted, &memory, start),
        WritePlan::Write(_)
    ));
}

#[test]
fn failed_writes_are_tried_again_ever_more_slowly() {
    let (mut at, mut memory) = (now(), WriteHistory::default());
    for milliseconds in [250, 500] {
        memory.failed(at.instant);
        let until = later(plan(&pending("1"), &accepted(), &memory, at));
        assert!(is_about(until, at.instant, Duration::from_millis(milliseconds)), "{milliseconds}");
        at.instant = until;
    }
}

#[test]
fn two_writers_who_differ_write_ever_more_slowly() {
    let (start, mut memory) = (now(), WriteHistory::default());
    let at = |milliseconds| Now { instant: start.instant + Duration::from_millis(milliseconds), ..start };
    for (version, milliseconds) in [("1", 0), ("3", 10)] {
        let wished = wish(plan(&pending(version), &accepted(), &memory, at(milliseconds)));
        let answer = route("own", "blue", &json!([condition("Accepted", "True", "Accepted")]));
        memory.wrote(wished, &pending(version), answer, at(milliseconds).instant);
    }
    let contested = later(plan(&pending("5"), &accepted(), &memory, at(20)));
    assert!(is_about(contested, at(10).instant, Duration::from_millis(500)));
    assert!(matches!(plan(&pending("5"), &accepted(), &memory, at(10 + 625)), WritePlan::Write(_)));
    let other = opinion(&[(ConditionType::Accepted, false, ConditionReason::Invalid)]);
    assert!(matches!(plan(&pending("5"), &other, &memory, at(20)), WritePlan::Write(_)), "news are not held up");
}

fn programmed(status: bool, message: &str) -> Opinion {
    let mut opinion = accepted();
    let reason = if status { ConditionReason::Programmed } else { ConditionReason::Pending };
    let message = message.to_owned().into();
    opinion.conditions.push(VerdictCondition { type_: ConditionType::Programmed, status, reason, message });
    opinion
}

fn stored_programmed(version: &str, status: &str, reason: &str) -> RouteObject {
    let accepted = condition("Accepted", "True", "Accepted");
    route(version, "blue", &json!([accepted, condition("Programmed", status, reason)]))
}

#[test]
fn which_replicas_are_late_is_written_at_most_once_in_ten_seconds_and_that_none_is_at_once() {
    let (start, mut memory) = (now(), WriteHistory::default());
    let stored = stored_programmed("1", "False", "Pending");
    let wished = wish(plan(&stored, &programmed(false, "a, b"), &memory, start));
    let after = stored_programmed("2", "False", "Pending");
    memory.wrote(wished, &stored, after.clone(), start.instant);
    let later = plan(&after, &programmed(false, "a"), &memory, start);
    assert_eq!(later, WritePlan::Later(start.instant + SMALL_INTERVAL));
    assert!(matches!(plan(&after, &programmed(true, "all"), &memory, start), WritePlan::Write(_)));
}

#[test]
fn a_write_that_may_say_more_in_a_moment_is_held() {
    let (start, memory) = (now(), WriteHistory::default());
    let until = start.instant + Duration::from_millis(500);
    let late = Opinion { hold_until: Some(until), ..programmed(false, "a") };
    assert_eq!(plan(&pending("1"), &late, &memory, start), WritePlan::Later(until));
    assert!(matches!(plan(&pending("1"), &late, &memory, Now { instant: until, ..start }), WritePlan::Write(_)));
}

#[test]
fn a_condition_turns_when_its_status_or_reason_is_another() {
    let conditions = |of: &[(&str, &str, &str)]| -> Vec<Condition> {
        let one = |(type_, status, reason): &(&str, &str, &str)| condition(type_, status, reason);
        of.iter().map(|of| serde_json::from_value(one(of)).unwrap()).collect()
    };
    let before = conditions(&[("Accepted", "True", "Accepted"), ("PartiallyInvalid", "True", "Invalid")]);
    let after = conditions(&[("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "UnknownPort")]);
    let turns: Vec<_> = turns(&before, &after).map(|(type_, after)| (type_, after.is_some())).collect();
    assert_eq!(turns, [(ConditionType::PartiallyInvalid, false), (ConditionType::ResolvedRefs, true)]);
}
