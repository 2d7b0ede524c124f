//! A rule of a route: where its requests go, and how they are handled.

use std::sync::Arc;

use super::{Backend, Candidates, EndpointId, ObjectName, Policy, RouteState, Session};

/// The rule for matching requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The route that contains it.
    pub route: Arc<RouteState>,
    /// Its name, or its position in the route.
    pub name: Arc<str>,
    /// Why its requests get 503, if the rule itself is at fault. It keeps its claims: its requests never fall through
    /// to another route.
    pub fault: Option<Arc<str>>,
    /// The backends for new sessions.
    pub backends: Box<[WeightedBackend]>,
    /// How its requests are handled.
    pub policy: Policy,
}

/// A reference to a backend, with its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Its share of new sessions.
    pub weight: u32,
    /// The backend, or why it is not available. A reference that does not resolve keeps its share.
    pub target: Result<Arc<Backend>, Arc<str>>,
}

/// Why there is no endpoint to try; each is a 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The rule is at fault.
    Faulty(Arc<str>),
    /// The selected reference does not resolve.
    Unresolved(Arc<str>),
    /// All references have weight 0.
    NoWeight,
    /// The selected backend has no endpoint that serves.
    NoneReady(ObjectName),
}

impl Rule {
    /// A rule without backends and with default settings.
    #[must_use]
    pub fn new(route: ObjectName, name: impl Into<Arc<str>>) -> Self {
        Self {
            route: route.into(),
            name: name.into(),
            fault: None,
            backends: Box::default(),
            policy: Policy::default(),
        }
    }

    /// The endpoints to try, in order: that of the session, if it still serves, then the others of its backend; without
    /// a session, those of a backend selected by weight.
    ///
    /// # Errors
    /// If there is nothing to try.
    pub fn candidates(&self, session: Option<&Session>, rng: &mut fastrand::Rng) -> Result<Candidates, NoEndpoint> {
        if let Some(fault) = &self.fault {
            return Err(NoEndpoint::Faulty(fault.clone()));
        }
        if let Some(candidates) = session.and_then(|session| self.beginning_with(|id| session.belongs_to(id))) {
            return Ok(candidates);
        }
        let backend = self.draw(rng)?;
        if backend.endpoints.is_empty() {
            return Err(NoEndpoint::NoneReady(backend.service.clone()));
        }
        Ok(backend.candidates(self.policy.algorithm, None))
    }

    /// The endpoints to try, beginning with the one that `is_wanted`; `None` if the rule has no such endpoint.
    #[must_use]
    pub fn beginning_with(&self, is_wanted: impl Fn(&EndpointId) -> bool) -> Option<Candidates> {
        self.backends.iter().filter_map(|backend| backend.target.as_ref().ok()).find_map(|backend| {
            let first = backend.endpoints.iter().position(|endpoint| is_wanted(&endpoint.id))?;
            Some(backend.candidates(self.policy.algorithm, Some(first)))
        })
    }

    fn draw(&self, rng: &mut fastrand::Rng) -> Result<Arc<Backend>, NoEndpoint> {
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 {
            return Err(NoEndpoint::NoWeight);
        }
        let mut drawn = rng.u64(..total);
        for WeightedBackend { weight, target } in &self.backends {
            let weight = u64::from(*weight);
            if drawn < weight {
                return target.clone().map_err(NoEndpoint::Unresolved);
            }
            drawn -= weight;
        }
        unreachable!("a number below the sum of the weights falls into one of them")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::table::{Endpoint, Phase, SessionKeys};

    fn backend(service: &str, endpoints: &[(&str, Phase)]) -> Arc<Backend> {
        let service = ObjectName::new("shop", service);
        let endpoint = |(uid, phase): &(&str, Phase)| {
            Arc::new(Endpoint {
                id: EndpointId::new(&service, 80, uid),
                name: (*uid).into(),
                addresses: Box::new([([192, 0, 2, 1], 80).into()]),
                phase: *phase,
                state: Arc::default(),
            })
        };
        let endpoints = endpoints.iter().map(endpoint).collect();
        Arc::new(Backend { service: service.clone(), port: 80, endpoints, turn: Arc::default() })
    }

    fn rule(backends: Vec<(u32, Result<Arc<Backend>, &str>)>) -> Rule {
        let backends = backends.into_iter();
        Rule {
            route: ObjectName::new("shop", "chat").into(),
            name: "main".into(),
            fault: None,
            backends: backends
                .map(|(weight, target)| WeightedBackend { weight, target: target.map_err(Into::into) })
                .collect(),
            policy: Policy::default(),
        }
    }

    fn names(candidates: Result<Candidates, NoEndpoint>, rng: &mut fastrand::Rng) -> Vec<String> {
        let (mut candidates, now) = (candidates.unwrap(), std::time::Duration::ZERO);
        std::iter::from_fn(|| candidates.next(rng, now)).map(|endpoint| endpoint.name.to_string()).collect()
    }

    const READY: Phase = Phase::Ready;

    #[test]
    fn a_session_comes_first_and_failover_stays_in_its_backend() {
        let stable = backend("stable", &[("a", READY), ("b", READY)]);
        let canary = backend("canary", &[("c", READY), ("d", Phase::Draining)]);
        let rule = rule(vec![(1_000_000, Ok(stable)), (0, Ok(canary.clone()))]);
        let (keys, rng) = (Arc::new(SessionKeys::random()), &mut fastrand::Rng::with_seed(1));
        for (position, order) in [(0, ["c"].as_slice()), (1, &["d", "c"])] {
            let token = keys.issue(&canary.endpoints[position].id, "scope", 0);
            let session = keys.read(&token, "scope", 0, None);
            assert_eq!(names(rule.candidates(session.as_ref(), rng), rng), order);
        }
    }

    #[test]
    fn a_session_whose_endpoint_is_gone_gets_another() {
        let rule = rule(vec![(1, Ok(backend("chat", &[("a", READY)])))]);
        let (keys, rng) = (Arc::new(SessionKeys::random()), &mut fastrand::Rng::with_seed(1));
        let gone = EndpointId::new(&ObjectName::new("shop", "chat"), 80, &"gone");
        let token = keys.issue(&gone, "scope", 0);
        assert_eq!(names(rule.candidates(keys.read(&token, "scope", 0, None).as_ref(), rng), rng), ["a"]);
    }

    #[test]
    fn new_sessions_are_shared_out_by_weight() {
        let (stable, canary) = (backend("stable", &[("a", READY)]), backend("canary", &[("b", READY)]));
        let rule = rule(vec![(9, Ok(stable)), (1, Ok(canary))]);
        let rng = &mut fastrand::Rng::with_seed(1);
        let canaries = (0..1000).filter(|_| names(rule.candidates(None, rng), rng) == ["b"]).count();
        assert!((70..130).contains(&canaries), "{canaries} of 1000");
    }

    #[test]
    fn a_reference_that_does_not_resolve_keeps_its_share() {
        let rule = rule(vec![(1, Ok(backend("chat", &[("a", READY)]))), (1, Err("no Service shop/gone"))]);
        let rng = &mut fastrand::Rng::with_seed(1);
        let outcomes: HashSet<_> = (0..50).map(|_| rule.candidates(None, rng).is_ok()).collect();
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn nothing_to_try_says_why() {
        let rng = &mut fastrand::Rng::with_seed(1);
        let empty = rule(vec![(1, Ok(backend("chat", &[])))]);
        assert_eq!(empty.candidates(None, rng).unwrap_err(), NoEndpoint::NoneReady(ObjectName::new("shop", "chat")));
        let unweighted = rule(vec![(0, Ok(backend("chat", &[("a", READY)])))]);
        assert_eq!(unweighted.candidates(None, rng).unwrap_err(), NoEndpoint::NoWeight);
        let mut faulty = rule(vec![]);
        faulty.fault = Some("unsupported".into());
        assert_eq!(faulty.candidates(None, rng).unwrap_err(), NoEndpoint::Faulty("unsupported".into()));
    }
}
