//! Backends, their endpoints, and the order in which endpoints are tried.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{ObjectName, TunnelCount};
use crate::choices::Algorithm;

/// A port of a Service with the endpoints behind it.
#[derive(Debug)]
pub struct Backend {
    /// The Service.
    pub service: ObjectName,
    /// The port number that routes use.
    pub port: u16,
    /// The endpoints, sorted by identity, without duplicates.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// The position of round robin, which the next table continues from.
    pub turn: Arc<AtomicUsize>,
}

impl Backend {
    /// Whether any endpoint is ready, rather than merely used because none is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.phase == Phase::Ready)
    }

    /// The endpoints for a new session: the ready ones; if none is ready, those that terminate but still serve. `first`
    /// comes before all of them, whatever its phase.
    #[must_use]
    pub fn candidates(self: &Arc<Self>, algorithm: Algorithm, first: Option<usize>) -> Candidates {
        Candidates { backend: self.clone(), algorithm, first, untried: None, turn: 0 }
    }
}

/// Equal if requests are served alike: the position of round robin does not matter.
impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service && self.port == other.port && self.endpoints == other.endpoints
    }
}

impl Eq for Backend {}

/// Endpoints of one backend in order of preference, each once. Each choice uses the counts at that moment.
///
/// It owns what it needs, so that no table is held while an endpoint is dialled.
#[derive(Debug)]
pub struct Candidates {
    backend: Arc<Backend>,
    algorithm: Algorithm,
    first: Option<usize>,
    /// The positions left to try; `None` before the first choice.
    untried: Option<Vec<usize>>,
    /// The position of round robin in `untried`.
    turn: usize,
}

impl Candidates {
    /// The next endpoint to try.
    ///
    /// `now` is the time on the clock that [`EndpointState::unreached`] uses, whatever its origin. Endpoints that were
    /// recently unreachable come after all others: an endpoint that is gone has no connections, so every algorithm
    /// would prefer it until the API server notices.
    pub fn next(&mut self, rng: &mut fastrand::Rng, now: Duration) -> Option<Arc<Endpoint>> {
        let position = match self.first.take() {
            Some(first) => {
                self.draw(Some(first));
                first
            }
            None => self.choose(rng, now)?,
        };
        Some(self.backend.endpoints[position].clone())
    }

    /// The Service of these endpoints.
    #[must_use]
    pub fn service(&self) -> &ObjectName {
        &self.backend.service
    }

    fn choose(&mut self, rng: &mut fastrand::Rng, now: Duration) -> Option<usize> {
        if self.untried.is_none() {
            self.draw(None);
            if self.algorithm == Algorithm::RoundRobin {
                self.turn = self.backend.turn.fetch_add(1, Ordering::Relaxed);
            }
        }
        let Self { backend, algorithm, untried, turn, .. } = self;
        let untried = untried.as_mut().expect("drawn above");
        let shunned = |position: &usize| backend.endpoints[*position].state.is_shunned(now);
        let all_shunned = untried.iter().all(shunned);
        let eligible = |position: &usize| all_shunned || !shunned(position);
        let chosen = match algorithm {
            Algorithm::LeastConnections => {
                least(untried, rng, |position| eligible(position).then(|| backend.endpoints[*position].state.in_use()))
            }
            Algorithm::Random => least(untried, rng, |position| eligible(position).then_some(0)),
            Algorithm::RoundRobin => {
                let length = untried.len();
                (0..length).map(|step| (*turn + step) % length).find(|at| eligible(&untried[*at]))
            }
        }?;
        // The entry after the removed one moves into its place, so round robin continues from there.
        *turn = chosen;
        Some(untried.remove(chosen))
    }

    /// Sets the positions to try, without `except`.
    fn draw(&mut self, except: Option<usize>) {
        let wanted = if self.backend.is_ready() { Phase::Ready } else { Phase::Draining };
        let endpoints = self.backend.endpoints.iter().enumerate();
        let eligible = endpoints.filter(|(position, endpoint)| endpoint.phase == wanted && Some(*position) != except);
        self.untried = Some(eligible.map(|(position, _)| position).collect());
    }
}

/// The index of the least value, each of several with equal probability; `None` values do not count.
fn least(positions: &[usize], rng: &mut fastrand::Rng, value: impl Fn(&usize) -> Option<usize>) -> Option<usize> {
    let (mut least, mut chosen, mut ties) = (usize::MAX, None, 0);
    for (at, position) in positions.iter().enumerate() {
        let Some(value) = value(position) else { continue };
        if chosen.is_none() || value < least {
            (least, chosen, ties) = (value, Some(at), 1);
        } else if value == least {
            ties += 1;
            if rng.usize(..ties) == 0 {
                chosen = Some(at);
            }
        }
    }
    chosen
}

/// The identity of an endpoint: the Service's namespace and name, the port, and the uid of the pod behind it or,
/// without a pod, its address.
///
/// A container restart does not change it; a new pod on an old address is another endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The identity of an endpoint of a Service's port; `target` is the uid of its pod or its address.
    #[must_use]
    pub fn new(service: &ObjectName, port: u16, target: &dyn fmt::Display) -> Self {
        Self(format!("{service}:{port}/{target}").into())
    }

    /// The text from which its hash is computed.
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
    /// It is terminating but still serves: it keeps its sessions and gets no new ones.
    Draining,
}

/// A single server of a backend, usually a pod.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its identity.
    pub id: EndpointId,
    /// Its name for display: that of the pod, or else the first address.
    pub name: Arc<str>,
    /// Its addresses, one for each address family, sorted; never empty.
    pub addresses: Box<[SocketAddr]>,
    /// Whether it takes new sessions.
    pub phase: Phase,
    /// State that outlives tables.
    pub state: Arc<EndpointState>,
}

/// Equal if requests are served alike. The state follows from the identity.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        let Self { id, name, addresses, phase, state: _ } = other;
        self.id == *id && self.name == *name && self.addresses == *addresses && self.phase == *phase
    }
}

impl Eq for Endpoint {}

/// The state of an endpoint for as long as anything uses it, shared by all routes and all tables.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_use: AtomicUsize,
    /// Its tunnels.
    pub tunnels: TunnelCount,
    /// When it was unreachable, in milliseconds of the caller's clock, plus one; 0 for never.
    unreached: AtomicU64,
}

/// How long an endpoint that was unreachable is tried last.
const SHUNNED_MILLISECONDS: u64 = 10_000;

impl EndpointState {
    /// Counts one more tunnel or request, until the guard is dropped.
    ///
    /// Called when the endpoint is picked, not when the backend has responded: otherwise, a storm of reconnecting
    /// clients would find every endpoint equally empty and pile up on one.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> InUse {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }

    /// Records that a connection to it failed.
    pub fn unreached(&self, now: Duration) {
        self.unreached.store(milliseconds(now), Ordering::Relaxed);
    }

    /// Records that a connection to it succeeded.
    pub fn reached(&self) {
        // Usually it is 0 already, and a cache line that is not written need not move between processors.
        if self.unreached.load(Ordering::Relaxed) != 0 {
            self.unreached.store(0, Ordering::Relaxed);
        }
    }

    fn is_shunned(&self, now: Duration) -> bool {
        let unreached = self.unreached.load(Ordering::Relaxed);
        unreached != 0 && milliseconds(now) < unreached + SHUNNED_MILLISECONDS
    }

    /// The current number of tunnels and requests of this process.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}

/// Milliseconds plus one, so that 0 can mean never.
fn milliseconds(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX / 2) + 1
}

/// A tunnel or request at an endpoint, counted until this is dropped.
#[derive(Debug)]
pub struct InUse(Arc<EndpointState>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(phases: &[(&str, Phase)]) -> Arc<Backend> {
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
        Arc::new(Backend { service: service.clone(), port: 80, endpoints, turn: Arc::default() })
    }

    fn order(backend: &Arc<Backend>, algorithm: Algorithm, seed: u64) -> Vec<String> {
        let (mut candidates, mut rng) = (backend.candidates(algorithm, None), fastrand::Rng::with_seed(seed));
        let now = Duration::ZERO;
        std::iter::from_fn(|| candidates.next(&mut rng, now)).map(|endpoint| endpoint.name.to_string()).collect()
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
            let mut candidates = backend.candidates(Algorithm::LeastConnections, None);
            guards.push(candidates.next(&mut rng, Duration::ZERO).unwrap().state.enter());
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
    fn an_endpoint_that_could_not_be_reached_comes_last_for_a_while() {
        let backend = backend(THREE);
        let now = Duration::ZERO;
        let firsts = |now| -> std::collections::HashSet<String> {
            let first = |seed| {
                let mut candidates = backend.candidates(Algorithm::LeastConnections, None);
                candidates.next(&mut fastrand::Rng::with_seed(seed), now).unwrap().name.to_string()
            };
            (0..50).map(first).collect()
        };
        backend.endpoints[0].state.unreached(now);
        assert!(!firsts(now).contains("a"));
        for algorithm in [Algorithm::LeastConnections, Algorithm::RoundRobin, Algorithm::Random] {
            assert_eq!(order(&backend, algorithm, 1).last().map(String::as_str), Some("a"), "{algorithm:?}");
        }
        assert!(firsts(Duration::from_secs(11)).contains("a"), "it is given another chance");
        backend.endpoints[0].state.reached();
        assert!(firsts(now).contains("a"), "it has been reached again");
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
}
