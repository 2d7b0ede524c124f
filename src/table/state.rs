//! State that outlives a table: the counts of a route, shared by the tables, requests and tunnels that use it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{Counts, ObjectName};

/// A route as its requests and tunnels see it, for as long as any of them or a table uses it.
#[derive(Debug)]
pub struct RouteState {
    /// The route's name.
    pub name: ObjectName,
    /// Its tunnels.
    pub tunnels: TunnelCount,
    /// Requests answered, by the label of their status.
    pub requests: Counts<u16>,
    /// Upgrade requests, by their result.
    pub handshakes: Counts<&'static str>,
    /// Closed tunnels, by who closed them and why.
    pub closes: Counts<(&'static str, &'static str)>,
    /// Connections and requests refused, by the reason.
    pub refusals: Counts<&'static str>,
}

impl RouteState {
    /// A route whose counts are at zero.
    #[must_use]
    pub fn new(name: ObjectName) -> Arc<Self> {
        let (tunnels, requests, handshakes, closes, refusals) = Default::default();
        Arc::new(Self { name, tunnels, requests, handshakes, closes, refusals })
    }
}

impl From<ObjectName> for Arc<RouteState> {
    fn from(name: ObjectName) -> Self {
        RouteState::new(name)
    }
}

/// Equal if they are the same route: counts decide nothing about a request.
impl PartialEq for RouteState {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for RouteState {}

/// How many tunnels of something are open, and whether the metrics list it.
#[derive(Debug, Default)]
pub struct TunnelCount {
    open: AtomicUsize,
    is_listed: AtomicBool,
}

impl TunnelCount {
    /// Counts one more.
    pub fn open(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub fn close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Marks it as listed; returns whether it was not listed before.
    pub fn list(&self) -> bool {
        // Nearly always it is listed, and a cache line that is only read need not move between processors.
        !self.is_listed.load(Ordering::Relaxed) && !self.is_listed.swap(true, Ordering::Relaxed)
    }
}

/// The states that are in use, by key, so that a flapping endpoint, a rebuild or a second route finds the existing counts.
///
/// The keys come from the API server and may number a hundred thousand, hence the fast hash.
#[derive(Debug)]
pub struct StateRegistry<K, S>(HashMap<K, Weak<S>, foldhash::fast::RandomState>);

impl<K, S> Default for StateRegistry<K, S> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Clone + Eq + Hash, S> StateRegistry<K, S> {
    /// The state that is in use, or else a new one.
    pub fn get(&mut self, key: &K, new: impl FnOnce() -> Arc<S>) -> Arc<S> {
        let known = self.0.entry(key.clone()).or_default();
        known.upgrade().unwrap_or_else(|| {
            let state = new();
            *known = Arc::downgrade(&state);
            state
        })
    }

    /// Forgets the states that are no longer in use.
    pub fn prune(&mut self) {
        self.0.retain(|_, state| state.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lives_as_long_as_anything_uses_it() {
        let mut registry = StateRegistry::default();
        let name = ObjectName::new("shop", "chat");
        let mut get = || registry.get(&name, || RouteState::new(name.clone()));
        let first = get();
        first.tunnels.open();
        assert_eq!(get().tunnels.count(), 1);
        drop(first);
        assert_eq!(get().tunnels.count(), 0);
        registry.prune();
        assert!(registry.0.is_empty());
    }

    #[test]
    fn it_is_listed_once() {
        let tunnels = TunnelCount::default();
        assert!(tunnels.list() && !tunnels.list());
    }
}
