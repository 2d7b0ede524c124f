//! Backends, their endpoints, and the order in which endpoints are tried.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::ObjectName;

/// A port of a Service with the endpoints behind it.
#[derive(Debug)]
pub struct Backend {
    /// The Service.
    pub service: ObjectName,
    /// Its port, as routes name it.
    pub port: u16,
    /// The endpoints, sorted by identity; none is there twice.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Where round robin stands. It goes on from there in the next table.
    pub turn: Arc<AtomicUsize>,
}

impl Backend {
    /// Whether any endpoint takes new sessions as it should, rather than for want of a better one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.phase == Phase::Ready)
    }

    /// The endpoints in the order in which a new session should try them.
    ///
    /// Only ready ones; with none ready, those that still serve while they terminate.
    pub fn order<'a>(&'a self, algorithm: Algorithm, rng: &'a mut fastrand::Rng) -> Order<'a> {
        let wanted = if self.is_ready() { Phase::Ready } else { Phase::Draining };
        let candidates: Vec<_> = self.endpoints.iter().filter(|endpoint| endpoint.phase == wanted).collect();
        let first = match algorithm {
            Algorithm::RoundRobin if !candidates.is_empty() => {
                self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len()
            }
            _ => 0,
        };
        Order { candidates, algorithm, first, rng }
    }
}

/// Equal when requests are served alike: where round robin stands makes no difference.
impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service && self.port == other.port && self.endpoints == other.endpoints
    }
}

impl Eq for Backend {}

/// How an endpoint is chosen for a new session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The one with the fewest open tunnels and requests, ties at random.
    #[default]
    LeastConnections,
    /// Each in turn.
    RoundRobin,
    /// Any.
    Random,
}

/// Endpoints in order of preference, each once. The choice is made anew at each step, from the counts of that moment.
#[derive(Debug)]
pub struct Order<'a> {
    candidates: Vec<&'a Arc<Endpoint>>,
    algorithm: Algorithm,
    first: usize,
    rng: &'a mut fastrand::Rng,
}

impl<'a> Iterator for Order<'a> {
    type Item = &'a Arc<Endpoint>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.candidates.is_empty() {
            return None;
        }
        let chosen = match self.algorithm {
            Algorithm::Random => self.rng.usize(..self.candidates.len()),
            Algorithm::LeastConnections => self.least_used(),
            // What follows the removed one moves into its place, so the position stays where it is.
            Algorithm::RoundRobin => self.first % self.candidates.len(),
        };
        self.first = chosen;
        match self.algorithm {
            Algorithm::RoundRobin => Some(self.candidates.remove(chosen)),
            _ => Some(self.candidates.swap_remove(chosen)),
        }
    }
}

impl Order<'_> {
    /// The position of a candidate with the fewest in use, each of several with the same chance.
    fn least_used(&mut self) -> usize {
        let (mut least, mut chosen, mut ties) = (usize::MAX, 0, 0);
        for (position, endpoint) in self.candidates.iter().enumerate() {
            let in_use = endpoint.state.in_use();
            if in_use < least {
                (least, chosen, ties) = (in_use, position, 1);
            } else if in_use == least {
                ties += 1;
                if self.rng.usize(..ties) == 0 {
                    chosen = position;
                }
            }
        }
        chosen
    }
}

/// What makes an endpoint itself: the Service's namespace and name, the port, and the uid of the pod behind it, or,
/// without a pod, its address.
///
/// A container that restarts keeps it; a new pod on an old address is another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The identity of an endpoint of a Service's port; `target` is the uid of its pod or its address.
    #[must_use]
    pub fn new(service: &ObjectName, port: u16, target: &dyn fmt::Display) -> Self {
        Self(format!("{service}:{port}/{target}").into())
    }

    /// The text that it is hashed from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an endpoint takes new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes new sessions.
    Ready,
    /// It terminates and still serves: it keeps its sessions and gets no new ones.
    Draining,
}

/// A place that serves: usually a pod.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What makes it itself.
    pub id: EndpointId,
    /// Its name for people: that of the pod, else the first address.
    pub name: Arc<str>,
    /// Its addresses, one for each address family, sorted; never none.
    pub addresses: Box<[SocketAddr]>,
    /// Whether it takes new sessions.
    pub phase: Phase,
    /// What outlasts tables.
    pub state: Arc<EndpointState>,
}

/// Equal when requests are served alike. The state follows from the identity.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        let Self { id, name, addresses, phase, state: _ } = other;
        self.id == *id && self.name == *name && self.addresses == *addresses && self.phase == *phase
    }
}

impl Eq for Endpoint {}

/// What is known of an endpoint for as long as anything uses it, shared by all routes and all tables.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_use: AtomicUsize,
}

impl EndpointState {
    /// Counts one more tunnel or request, until the guard is dropped.
    ///
    /// It is taken when the endpoint is picked, not when the backend has answered: else a storm of reconnecting
    /// clients would find every endpoint equally empty and pile up on one.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> InUse {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }

    /// Tunnels and requests of this process now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}

/// One tunnel or request at an endpoint; counted while this lives.
#[derive(Debug)]
pub struct InUse(Arc<EndpointState>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The states of all endpoints that anything uses, so that a flapping endpoint, a rebuild or a second route finds the
/// counts that are there.
///
/// Its keys come from the API server, a hundred thousand of them at times, hence the quick hash.
#[derive(Debug, Default)]
pub struct EndpointRegistry(HashMap<EndpointId, Weak<EndpointState>, foldhash::fast::RandomState>);

impl EndpointRegistry {
    /// The state of an endpoint: the one in use, else a new one.
    pub fn state(&mut self, id: &EndpointId) -> Arc<EndpointState> {
        let known = self.0.entry(id.clone()).or_default();
        known.upgrade().unwrap_or_else(|| {
            let state = Arc::default();
            *known = Arc::downgrade(&state);
            state
        })
    }

    /// Forgets the endpoints that nothing uses any more.
    pub fn prune(&mut self) {
        self.0.retain(|_, state| state.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(phases: &[(&str, Phase)]) -> Backend {
        let service = ObjectName::new("shop", "chat");
        let endpoint = |(name, phase): &(&str, Phase)| {
            Arc::new(Endpoint {
                id: EndpointId::new(&service, 80, name),
                name: (*name).into(),
                addresses: Box::new([([192, 0, 2, 1], 80).into()]),
                phase: *phase,
                state: Arc::default(),
            })
        };
        let endpoints = phases.iter().map(endpoint).collect();
        Backend { service: service.clone(), port: 80, endpoints, turn: Arc::default() }
    }

    fn order(backend: &Backend, algorithm: Algorithm, seed: u64) -> Vec<String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        backend.order(algorithm, &mut rng).map(|endpoint| endpoint.name.to_string()).collect()
    }

    const THREE: &[(&str, Phase)] = &[("a", Phase::Ready), ("b", Phase::Ready), ("c", Phase::Ready)];

    #[test]
    fn round_robin_goes_on_to_the_next_and_wraps() {
        let backend = backend(THREE);
        let orders: Vec<_> = (0..4).map(|_| order(&backend, Algorithm::RoundRobin, 0).concat()).collect();
        assert_eq!(orders, ["abc", "bca", "cab", "abc"]);
    }

    #[test]
    fn least_connections_counts_what_was_just_picked() {
        let backend = backend(THREE);
        let mut guards = Vec::new();
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..30 {
            guards.push(backend.order(Algorithm::LeastConnections, &mut rng).next().unwrap().state.enter());
        }
        let counts: Vec<_> = backend.endpoints.iter().map(|endpoint| endpoint.state.in_use()).collect();
        assert_eq!(counts, [10, 10, 10]);
        drop(guards);
        assert!(backend.endpoints.iter().all(|endpoint| endpoint.state.in_use() == 0));
    }

    #[test]
    fn least_connections_breaks_ties_at_random() {
        let backend = backend(THREE);
        let firsts: std::collections::HashSet<_> =
            (0..50).map(|seed| order(&backend, Algorithm::LeastConnections, seed)[0].clone()).collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn every_algorithm_offers_each_endpoint_once() {
        let backend = backend(THREE);
        for algorithm in [Algorithm::LeastConnections, Algorithm::RoundRobin, Algorithm::Random] {
            let mut names = order(&backend, algorithm, 3);
            names.sort();
            assert_eq!(names, ["a", "b", "c"], "{algorithm:?}");
        }
    }

    #[test]
    fn terminating_endpoints_are_used_only_when_none_is_ready() {
        let mixed = backend(&[("a", Phase::Draining), ("b", Phase::Ready)]);
        assert_eq!(order(&mixed, Algorithm::RoundRobin, 0), ["b"]);
        let ending = backend(&[("a", Phase::Draining)]);
        assert_eq!(order(&ending, Algorithm::RoundRobin, 0), ["a"]);
        assert!(!ending.is_ready());
        assert!(order(&backend(&[]), Algorithm::RoundRobin, 0).is_empty());
    }

    #[test]
    fn a_registry_keeps_the_counts_of_what_is_in_use_and_forgets_the_rest() {
        let mut registry = EndpointRegistry::default();
        let id = EndpointId::new(&ObjectName::new("shop", "chat"), 80, &"uid-1");
        let guard = registry.state(&id).enter();
        registry.prune();
        assert_eq!(registry.state(&id).in_use(), 1);
        drop(guard);
        registry.prune();
        assert!(registry.0.is_empty());
    }
}
