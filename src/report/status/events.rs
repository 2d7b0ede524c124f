//! Publishes an Event for each change of a condition, next to the route.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::plan::turns;
use crate::{
    api::{ConditionReason, ConditionType, GROUP, KIND, RouteObject, VERSION},
    source::{complaint::Complaint, failure::ApiFailure},
};

/// The maximum number of Events waiting for the API server. Further ones are dropped and counted: they are best effort.
const WAITING: usize = 10_000;
/// After this many Events a new recorder is used: each Event scans everything the recorder remembers, for six minutes.
const REMEMBERED: usize = 256;
/// The API's limit for a note, in bytes.
const LONGEST_NOTE: usize = 1_024;

/// Queues Events, which are published in order, one by one: statuses do not wait for them.
#[derive(Clone, Debug)]
pub(super) struct Events {
    waiting: mpsc::Sender<(Event, ObjectReference)>,
    /// The number of dropped Events not logged yet.
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Publishes as a replica of a class, as long as there are senders.
    pub(super) fn start(client: Client, class: &str, replica: &str) -> Self {
        let reporter = Reporter { controller: format!("{GROUP}/{class}"), instance: Some(replica.to_owned()) };
        let (waiting, receiver) = mpsc::channel(WAITING);
        let dropped = Arc::default();
        tokio::spawn(publish(client, reporter, receiver, Arc::clone(&dropped)));
        Self { waiting, dropped }
    }

    /// Queues Events for the changes from `before` to `after`.
    pub(super) fn publish(&self, route: &RouteObject, before: &[Condition], after: &[Condition]) {
        for (type_, after) in turns(before, after).filter(|(type_, _)| *type_ != ConditionType::BackendsReady) {
            if self.waiting.try_send((event(type_, after), reference(route))).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn publish(
    client: Client,
    reporter: Reporter,
    mut events: mpsc::Receiver<(Event, ObjectReference)>,
    dropped: Arc<AtomicU64>,
) {
    let mut recorder = Recorder::new(client.clone(), reporter.clone());
    let (mut complaint, mut published) = (Complaint::default(), 0);
    while let Some((event, reference)) = events.recv().await {
        published += 1;
        if published % REMEMBERED == 0 {
            recorder = Recorder::new(client.clone(), reporter.clone());
        }
        log(&mut complaint, recorder.publish(&event, &reference).await);
        if events.is_empty() || published % WAITING == 0 {
            log_dropped(&dropped);
        }
    }
}

fn log(complaint: &mut Complaint, answer: kube::Result<()>) {
    match answer.map_err(|error| ApiFailure::from(&error)) {
        Ok(()) if complaint.settle() => info!("Events resumed"),
        Ok(()) => {}
        Err(failure) if complaint.raise(&failure.key()) => {
            warn!(cause = failure.cause, "cannot publish Events; statuses are not affected");
        }
        Err(failure) => debug!(cause = failure.cause, "Events still failing"),
    }
}

/// Logged once after a flood, and now and then during it; not for each Event.
fn log_dropped(dropped: &AtomicU64) {
    let dropped = dropped.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        warn!(
            dropped,
            "Event queue full ({WAITING} waiting for the API server), further Events dropped; statuses are not affected"
        );
    }
}

/// The Event for a condition with a new value, or that is gone.
fn event(type_: ConditionType, after: Option<&Condition>) -> Event {
    let name = type_.as_str();
    let (is_good, reason, note) = match after {
        Some(Condition { status, reason, message, .. }) => {
            let is_good = (status == "True") != (type_ == ConditionType::PartiallyInvalid);
            (
                is_good || *reason == ConditionReason::Pending.as_str(),
                reason.clone(),
                format!("{name} is {status}: {message}"),
            )
        }
        None => (true, format!("No{name}"), format!("{name} no longer holds")),
    };
    Event {
        type_: if is_good { EventType::Normal } else { EventType::Warning },
        reason,
        note: Some(shortened(note)),
        action: name.to_owned(),
        secondary: None,
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let end = (0..=LONGEST_NOTE - '…'.len_utf8()).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or_default());
        note.push('…');
    }
    note
}

fn reference(route: &RouteObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(KIND.to_owned()),
        name: route.metadata.name.clone(),
        namespace: route.metadata.namespace.clone(),
        uid: route.metadata.uid.clone(),
        resource_version: route.metadata.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(type_: ConditionType, status: &str, reason: &str, message: &str) -> Condition {
        let condition = serde_json::json!({
            "type": type_.as_str(), "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(condition).unwrap()
    }

    fn condition(type_: ConditionType, status: &str, reason: &str, message: &str) -> Event {
        event(type_, Some(&stored(type_, status, reason, message)))
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let (waiting, mut receiver) = mpsc::channel(1);
        let events = Events { waiting, dropped: Arc::default() };
        let route = serde_json::from_str(r#"{"metadata": {"name": "chat"}, "spec": {}}"#).unwrap();
        let accepted = stored(ConditionType::Accepted, "True", "Accepted", "");
        let programmed = stored(ConditionType::Programmed, "True", "Programmed", "");
        events.publish(&route, &[], &[accepted, programmed]);
        assert_eq!(receiver.try_recv().unwrap().0.reason, "Accepted");
        assert_eq!(events.dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_a_user_has_to_mend_is_a_warning() {
        let type_ = |type_, status, reason| condition(type_, status, reason, "why").type_;
        assert_eq!(type_(ConditionType::Accepted, "True", "Accepted"), EventType::Normal);
        assert_eq!(type_(ConditionType::Accepted, "False", "Conflicted"), EventType::Warning);
        assert_eq!(type_(ConditionType::PartiallyInvalid, "True", "Invalid"), EventType::Warning);
        assert_eq!(type_(ConditionType::Programmed, "False", "Pending"), EventType::Normal);
        assert_eq!(type_(ConditionType::Programmed, "False", "Invalid"), EventType::Warning);
        assert_eq!(event(ConditionType::PartiallyInvalid, None).type_, EventType::Normal);
    }

    #[test]
    fn a_note_says_what_the_condition_says_as_far_as_there_is_room() {
        let short = condition(ConditionType::ResolvedRefs, "False", "UnknownPort", "no port 81");
        assert_eq!(short.note.unwrap(), "ResolvedRefs is False: no port 81");
        let long = condition(ConditionType::ResolvedRefs, "False", "UnknownPort", &"ü".repeat(2_000)).note.unwrap();
        assert!(long.len() <= LONGEST_NOTE && long.ends_with('…'), "{}", long.len());
    }
}
