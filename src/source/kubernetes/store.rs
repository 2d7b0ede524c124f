//! The objects of one kind as the API server last told of them.
//!
//! kube's own reflector does not tell whether an event changed anything, least of all a list that is read again, and
//! gives every object a new `Arc` then. Here both matter: builds reuse what comes from the same `Arc`, and nothing is
//! built when nothing has changed.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use kube::runtime::watcher::Event;

use super::kind::{Change, Watched};
use crate::{compile::object_name, table::ObjectName};

type Objects<K> = HashMap<ObjectName, Arc<K>>;

/// The reading side, which any number may share.
#[derive(Debug)]
pub(super) struct Store<K>(Arc<RwLock<Objects<K>>>);

/// The writing side. There is one.
#[derive(Debug)]
pub(super) struct Writer<K> {
    store: Store<K>,
    /// A list on its way: it replaces everything once it is complete, so that a list that breaks off does no harm.
    list: Objects<K>,
}

/// An empty store.
pub(super) fn store<K>() -> (Store<K>, Writer<K>) {
    let store = Store(Arc::default());
    (store.clone(), Writer { store, list: HashMap::new() })
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Store<K> {
    /// All objects, in no order.
    pub(super) fn objects(&self) -> Vec<Arc<K>> {
        self.read(|objects| objects.values().cloned().collect())
    }

    /// All objects by name.
    pub(super) fn by_name(&self) -> Objects<K> {
        self.read(Clone::clone)
    }

    /// One object.
    pub(super) fn object(&self, name: &ObjectName) -> Option<Arc<K>> {
        self.read(|objects| objects.get(name).cloned())
    }

    fn read<T>(&self, read: impl FnOnce(&Objects<K>) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Watched> Writer<K> {
    /// Takes an event, and tells what it changed.
    pub(super) fn apply(&mut self, event: Event<K>) -> Change {
        match event {
            Event::Init => self.list = HashMap::new(),
            Event::InitApply(object) => drop(self.list.insert(object_name(object.meta()), Arc::new(object))),
            Event::InitDone => return self.replace(),
            Event::Apply(object) => return self.set(object),
            Event::Delete(object) => return self.remove(&object),
        }
        Change::Nothing
    }

    fn set(&self, object: K) -> Change {
        let name = object_name(object.meta());
        let change = self.store.object(&name).map_or(Change::Routing, |before| object.change(&before));
        if change > Change::Nothing {
            self.write(|objects| drop(objects.insert(name, Arc::new(object))));
        }
        change
    }

    fn remove(&self, object: &K) -> Change {
        let removed = self.write(|objects| objects.remove(&object_name(object.meta())));
        if removed.is_some() { Change::Routing } else { Change::Nothing }
    }

    fn replace(&mut self) -> Change {
        let mut list = std::mem::take(&mut self.list);
        let before = self.store.by_name();
        let gone = before.keys().any(|name| !list.contains_key(name));
        let mut change = if gone { Change::Routing } else { Change::Nothing };
        for (name, object) in &mut list {
            change = change.max(keep_if_same(object, before.get(name)));
        }
        self.write(|objects| *objects = list);
        change
    }

    fn write<T>(&self, write: impl FnOnce(&mut Objects<K>) -> T) -> T {
        write(&mut self.store.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Puts the stored object in the place of a listed one that is no different.
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
        assert_eq!(writer.apply(Event::Apply(route("2", "Invalid"))), Change::Told);
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
}
