//! The objects of one kind, as last reported by the API server.
//!
//! kube's own reflector does not report whether an event changed anything, especially for a repeated list, which gives
//! every object a new `Arc`. Both matter here: builds reuse what comes from the same `Arc`, and nothing is built if
//! nothing changed.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;

use super::kind::{Change, Watched};
use crate::{compile::object_name, table::ObjectName};

type ObjectsByName<K> = HashMap<ObjectName, Arc<K>>;

/// The reading side, which can be shared.
#[derive(Debug)]
pub(super) struct Store<K>(Arc<RwLock<StoreContent<K>>>);

#[derive(Debug)]
struct StoreContent<K> {
    objects: ObjectsByName<K>,
    reached: Reached,
}

/// How far a watch has come. `None` if a version is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// All events up to this version are in the store.
    pub(super) seen: Option<u64>,
    /// The version of the last event that affects routing; `None` after a list with a change.
    pub(super) changed: Option<u64>,
}

/// The only writer.
#[derive(Debug)]
pub(super) struct StoreWriter<K> {
    store: Store<K>,
    /// A list in progress: it replaces everything once it is complete, so an aborted list does no harm.
    list: ObjectsByName<K>,
    /// The newest version in it. The list itself may be newer, but its version is unknown.
    newest: Option<u64>,
}

/// An empty store.
pub(super) fn store<K>() -> (Store<K>, StoreWriter<K>) {
    let kept = StoreContent { objects: HashMap::new(), reached: Reached { seen: None, changed: None } };
    let store = Store(Arc::new(RwLock::new(kept)));
    (store.clone(), StoreWriter { store, list: HashMap::new(), newest: Some(0) })
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Store<K> {
    /// All objects, in no particular order.
    pub(super) fn objects(&self) -> Vec<Arc<K>> {
        self.read(|kept| kept.objects.values().cloned().collect())
    }

    /// All objects, in no particular order, and how far the watch had come at that point.
    pub(super) fn objects_and_reached(&self) -> (Vec<Arc<K>>, Reached) {
        self.read(|kept| (kept.objects.values().cloned().collect(), kept.reached))
    }

    /// All objects by name.
    pub(super) fn by_name(&self) -> ObjectsByName<K> {
        self.read(|kept| kept.objects.clone())
    }

    /// One object.
    pub(super) fn object(&self, name: &ObjectName) -> Option<Arc<K>> {
        self.read(|kept| kept.objects.get(name).cloned())
    }

    fn read<T>(&self, read: impl FnOnce(&StoreContent<K>) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Watched> StoreWriter<K> {
    /// Applies an event, and returns what it changed.
    pub(super) fn apply(&mut self, event: Event<K>) -> Change {
        match event {
            Event::Init => (self.list, self.newest) = (HashMap::new(), Some(0)),
            Event::InitApply(object) => {
                // If any version is not a number, the newest is unknown.
                self.newest = self.newest.zip(version(object.meta())).map(|(one, other)| one.max(other));
                self.list.insert(object_name(object.meta()), Arc::new(object));
            }
            Event::InitDone => return self.replace(),
            Event::Apply(object) => return self.set(object),
            Event::Delete(object) => return self.remove(&object),
        }
        Change::Nothing
    }

    fn set(&self, object: K) -> Change {
        let (name, version) = (object_name(object.meta()), version(object.meta()));
        self.write(|kept| {
            let change = kept.objects.get(&name).map_or(Change::Routing, |before| object.change(before));
            if change > Change::Nothing {
                kept.objects.insert(name, Arc::new(object));
            }
            kept.reached.note(version, change);
            change
        })
    }

    fn remove(&self, object: &K) -> Change {
        self.write(|kept| {
            let removed = kept.objects.remove(&object_name(object.meta()));
            let change = if removed.is_some() { Change::Routing } else { Change::Nothing };
            kept.reached.note(version(object.meta()), change);
            change
        })
    }

    fn replace(&mut self) -> Change {
        let mut list = std::mem::take(&mut self.list);
        let before = self.store.by_name();
        let gone = before.keys().any(|name| !list.contains_key(name));
        let mut change = if gone { Change::Routing } else { Change::Nothing };
        for (name, object) in &mut list {
            change = change.max(keep_if_same(object, before.get(name)));
        }
        self.write(|kept| {
            kept.objects = list;
            kept.reached.seen = self.newest;
            // Objects missing from the list may have been deleted, or even created and deleted, after all those in it.
            if change == Change::Routing {
                kept.reached.changed = None;
            }
        });
        change
    }

    fn write<T>(&self, write: impl FnOnce(&mut StoreContent<K>) -> T) -> T {
        write(&mut self.store.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reached {
    fn note(&mut self, version: Option<u64>, change: Change) {
        self.seen = version;
        if change == Change::Routing {
            self.changed = version;
        }
    }
}

/// The version of an object. The versions of one kind grow with each write.
fn version(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_ref()?.parse().ok()
}

/// Replaces a listed object with the stored one if it is unchanged.
fn keep_if_same<K: Watched>(object: &mut Arc<K>, before: Option<&Arc<K>>) -> Change {
    let Some(before) = before else { return Change::Routing };
    let change = object.change(before);
    if change == Change::Nothing {
        *object = before.clone();
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::RouteObject, compile::ServiceObject};

    fn service(version: &str, port: i32) -> ServiceObject {
        serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "shop", "name": "chat", "resourceVersion": version },
            "spec": { "ports": [{ "port": port }] },
        }))
        .unwrap()
    }

    fn route(version: &str, reason: &str) -> RouteObject {
        serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "shop", "name": "chat", "resourceVersion": version },
            "spec": "nonsense",
            "status": { "conditions": [{
                "type": "Accepted", "status": "False", "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_version_that_changes_nothing_keeps_the_stored_object() {
        let (store, mut writer) = store();
        assert_eq!(writer.apply(Event::Apply(service("1", 80))), Change::Routing);
        let before = store.objects();
        assert_eq!(writer.apply(Event::Apply(service("2", 80))), Change::Nothing);
        assert!(Arc::ptr_eq(&before[0], &store.objects()[0]));
        assert_eq!(writer.apply(Event::Apply(service("3", 81))), Change::Routing);
    }

    #[test]
    fn a_list_replaces_everything_only_when_it_is_complete() {
        let (store, mut writer) = store();
        writer.apply(Event::Apply(service("1", 80)));
        assert_eq!(writer.apply(Event::Init), Change::Nothing);
        assert_eq!(store.objects().len(), 1);
        assert_eq!(writer.apply(Event::InitDone), Change::Routing);
        assert_eq!(store.objects().len(), 0);
    }

    #[test]
    fn a_list_of_the_same_objects_changes_nothing() {
        let (store, mut writer) = store();
        writer.apply(Event::Apply(service("1", 80)));
        let before = store.objects();
        writer.apply(Event::Init);
        writer.apply(Event::InitApply(service("7", 80)));
        assert_eq!(writer.apply(Event::InitDone), Change::Nothing);
        assert!(Arc::ptr_eq(&before[0], &store.objects()[0]));
    }

    #[test]
    fn a_status_is_stored_but_is_no_change_of_routing() {
        let (store, mut writer) = store();
        writer.apply(Event::Apply(route("1", "Pending")));
        assert_eq!(writer.apply(Event::Apply(route("2", "Invalid"))), Change::StatusOnly);
        assert_eq!(store.objects()[0].status.conditions[0].reason, "Invalid");
    }

    #[test]
    fn an_unreadable_object_is_kept_and_can_be_deleted() {
        let (store, mut writer) = store();
        assert_eq!(writer.apply(Event::Apply(route("1", "Pending"))), Change::Routing);
        assert!(store.objects()[0].spec.is_err());
        assert_eq!(writer.apply(Event::Delete(route("2", "Pending"))), Change::Routing);
        assert_eq!(store.objects().len(), 0);
    }

    #[test]
    fn a_store_tells_how_far_its_watch_has_come() {
        let (store, mut writer) = store();
        writer.apply(Event::Init);
        writer.apply(Event::InitApply(route("7", "Invalid")));
        assert_eq!(reached(&store), (None, None), "a list counts once it is complete");
        writer.apply(Event::InitDone);
        assert_eq!(reached(&store), (Some(7), None), "what was deleted before is not known");
        writer.apply(Event::Apply(route("9", "Conflicted")));
        assert_eq!(reached(&store), (Some(9), None), "a status changes no routing");
        writer.apply(Event::Delete(route("12", "Conflicted")));
        assert_eq!(reached(&store), (Some(12), Some(12)));
        writer.apply(Event::Apply(route("opaque", "Invalid")));
        assert_eq!(reached(&store), (None, None));
    }

    #[test]
    fn a_list_does_not_tell_when_the_last_change_was() {
        let (store, mut writer) = store();
        list(&mut writer, vec![route("7", "Invalid")]);
        writer.apply(Event::Apply(of_generation(2, route("14", "Invalid"))));
        list(&mut writer, vec![of_generation(2, route("16", "Conflicted"))]);
        assert_eq!(reached(&store), (Some(16), Some(14)), "nothing has changed");
        list(&mut writer, vec![of_generation(3, route("18", "Conflicted"))]);
        assert_eq!(reached(&store), (Some(18), None), "another route may have come and gone since");
        writer.apply(Event::Delete(route("20", "Conflicted")));
        list(&mut writer, vec![]);
        assert_eq!(reached(&store), (Some(0), Some(20)), "an event has told of all");
        writer.apply(Event::Apply(route("21", "Invalid")));
        list(&mut writer, vec![]);
        assert_eq!(reached(&store), (Some(0), None), "nothing tells when it was deleted");
    }

    fn list(writer: &mut StoreWriter<RouteObject>, routes: Vec<RouteObject>) {
        writer.apply(Event::Init);
        for route in routes {
            writer.apply(Event::InitApply(route));
        }
        writer.apply(Event::InitDone);
    }

    fn of_generation(generation: i64, mut route: RouteObject) -> RouteObject {
        route.metadata.generation = Some(generation);
        route
    }

    fn reached(store: &Store<RouteObject>) -> (Option<u64>, Option<u64>) {
        let (_, Reached { seen, changed }) = store.objects_and_reached();
        (seen, changed)
    }
}
