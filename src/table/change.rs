//! The changes between two tables that affect open tunnels.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{EndpointId, ObjectName, Phase, RouteTable, Rule};

/// The rules and endpoints that changed, in no particular order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableChange {
    /// Removed rules, by route and name.
    pub rules_gone: Vec<(ObjectName, Arc<str>)>,
    /// Endpoints that no rule uses any longer.
    pub endpoints_gone: Vec<EndpointId>,
    /// Endpoints that began to terminate.
    pub endpoints_draining: Vec<EndpointId>,
}

impl TableChange {
    /// The difference between two tables. Its cost grows with their size.
    #[must_use]
    pub fn between(before: &RouteTable, now: &RouteTable) -> Self {
        let (before, now) = (Inventory::of(before), Inventory::of(now));
        let rules_gone = before.rules.difference(&now.rules);
        let (mut endpoints_gone, mut endpoints_draining) = (Vec::new(), Vec::new());
        for (endpoint, phase) in &before.endpoints {
            match now.endpoints.get(endpoint) {
                None => endpoints_gone.push((*endpoint).clone()),
                Some(Phase::Draining) if *phase == Phase::Ready => endpoints_draining.push((*endpoint).clone()),
                Some(_) => {}
            }
        }
        let rules_gone = rules_gone.map(|(route, name)| ((*route).clone(), (*name).clone())).collect();
        Self { rules_gone, endpoints_gone, endpoints_draining }
    }
}

/// The rules and endpoints of a table.
#[derive(Default)]
struct Inventory<'a> {
    rules: HashSet<(&'a ObjectName, &'a Arc<str>)>,
    endpoints: HashMap<&'a EndpointId, Phase>,
}

impl<'a> Inventory<'a> {
    fn of(table: &'a RouteTable) -> Self {
        let mut inventory = Self::default();
        for rule in table.hosts().flat_map(|host| host.matches).map(|(_, rule)| rule) {
            inventory.add(rule);
        }
        inventory
    }

    fn add(&mut self, rule: &'a Rule) {
        if !self.rules.insert((&rule.route.name, &rule.name)) {
            return;
        }
        for backend in rule.backends.iter().filter_map(|backend| backend.target.as_ref().ok()) {
            self.endpoints.extend(backend.endpoints.iter().map(|endpoint| (&endpoint.id, endpoint.phase)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Backend, Conditions, Endpoint, HostPattern, PathPattern, WeightedBackend};

    fn endpoint(name: &str, phase: Phase) -> Arc<Endpoint> {
        let service = ObjectName::new("shop", "chat");
        Arc::new(Endpoint {
            id: EndpointId::new(&service, 80, &name),
            name: name.into(),
            addresses: Box::new([([192, 0, 2, 1], 80).into()]),
            phase,
            state: Arc::default(),
        })
    }

    fn table(rules: &[(&str, &[(&str, Phase)])]) -> RouteTable {
        let mut table = RouteTable::default();
        for (name, endpoints) in rules {
            let endpoints = endpoints.iter().map(|(name, phase)| endpoint(name, *phase)).collect();
            let service = ObjectName::new("shop", "chat");
            let backend = Arc::new(Backend { service, port: 80, endpoints, turn: Arc::default() });
            let backends = Box::new([WeightedBackend { weight: 1, target: Ok(backend) }]);
            let rule = Rule { backends, ..Rule::new(ObjectName::new("shop", "web"), *name) };
            let path = PathPattern::prefix(&format!("/{name}"));
            table.claim(&HostPattern::Any, Conditions::new(path), Arc::new(rule));
        }
        table
    }

    #[test]
    fn a_change_names_what_is_gone_and_what_began_to_drain() {
        use Phase::{Draining, Ready};
        let before = table(&[("kept", &[("a", Ready), ("b", Ready), ("c", Draining)]), ("gone", &[("d", Ready)])]);
        let now = table(&[("kept", &[("a", Draining), ("b", Ready), ("c", Draining)]), ("new", &[("e", Ready)])]);
        let id = |name| endpoint(name, Ready).id.clone();
        let expected = TableChange {
            rules_gone: vec![(ObjectName::new("shop", "web"), "gone".into())],
            endpoints_gone: vec![id("d")],
            endpoints_draining: vec![id("a")],
        };
        assert_eq!(TableChange::between(&before, &now), expected);
        assert_eq!(TableChange::between(&now, &now), TableChange::default());
    }
}
