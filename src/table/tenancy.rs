//! Which namespace a hostname belongs to, and which hostnames may serve a host.

use std::{
    collections::{BTreeSet, btree_set},
    sync::Arc,
    time::SystemTime,
};

use super::{Host, HostMap, HostPattern, ObjectName};

/// The route through which a namespace owns a hostname. Older routes are less than younger ones; routes of the same age
/// are ordered by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostOwner {
    /// When the route was created; `None` (manifests) counts as older than any time.
    pub since: Option<SystemTime>,
    /// The route.
    pub route: ObjectName,
}

/// The hostnames that an operator has reserved for namespaces, regardless of which route is older.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostnameOwners(HostMap<ReservedFor>);

/// The namespaces that a hostname is reserved for; never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedFor(BTreeSet<Arc<str>>);

/// Whether hostnames belong to namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// Any namespace may name any hostname.
    Shared,
    /// A reserved hostname belongs to one of its namespaces, any other to the namespace of the oldest route that names
    /// it.
    Separate(Arc<HostnameOwners>),
}

/// Separate, without reservations.
impl Default for Tenancy {
    fn default() -> Self {
        Self::Separate(Arc::default())
    }
}

impl HostnameOwners {
    /// Reserves a pattern for a namespace.
    pub fn reserve(&mut self, pattern: &HostPattern, namespace: impl Into<Arc<str>>) {
        self.0.entry(pattern).0.insert(namespace.into());
    }

    /// The most specific reservation that covers every host of a pattern.
    #[must_use]
    pub fn covering(&self, pattern: &HostPattern) -> Option<&ReservedFor> {
        self.0.covering(pattern).next()
    }

    fn naming(&self, host: &Host<'_>) -> Option<&ReservedFor> {
        self.0.naming(host).next()
    }
}

impl ReservedFor {
    /// Whether it is reserved for this namespace, possibly among others.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.contains(namespace)
    }

    /// The namespaces, sorted.
    pub fn iter(&self) -> btree_set::Iter<'_, Arc<str>> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ReservedFor {
    type Item = &'a Arc<str>;
    type IntoIter = btree_set::Iter<'a, Arc<str>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Whose hostnames may serve a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenant<'a> {
    /// Those of every namespace.
    Anybody,
    /// Those of the namespace that owns the host.
    Namespace(&'a str),
    /// Those of the namespaces that the host is reserved for, none of which names it.
    Listed(&'a ReservedFor),
}

impl Tenant<'_> {
    /// Whether hostnames of this owner may serve the host.
    pub(super) fn admits(self, owner: Option<&HostOwner>) -> bool {
        let Some(owner) = owner else { return self == Tenant::Anybody };
        match self {
            Tenant::Anybody => true,
            Tenant::Namespace(namespace) => *owner.route.namespace == *namespace,
            Tenant::Listed(reserved) => reserved.contains(&owner.route.namespace),
        }
    }
}

impl Tenancy {
    /// Whose hostnames may serve a host, given the owners of the hostnames that name it.
    ///
    /// A host belongs to the oldest owner. A younger route that names the host more specifically is refused if it would
    /// take the host away (see [`Tenancy::owner`]), so that all lookups for a host agree on its namespace.
    pub(super) fn tenant<'a>(
        &'a self,
        host: &Host<'_>,
        naming: impl Iterator<Item = Option<&'a HostOwner>>,
    ) -> Tenant<'a> {
        let Self::Separate(owners) = self else { return Tenant::Anybody };
        let reserved = owners.naming(host);
        match (oldest(reserved, naming), reserved) {
            (Some(owner), _) => Tenant::Namespace(&owner.route.namespace),
            (None, Some(reserved)) => Tenant::Listed(reserved),
            (None, None) => Tenant::Anybody,
        }
    }

    /// The owner of every host of a pattern, given the owners of the hostnames that cover the pattern.
    pub(super) fn owner<'a>(
        &'a self,
        pattern: &HostPattern,
        covering: impl Iterator<Item = Option<&'a HostOwner>>,
    ) -> Option<&'a HostOwner> {
        oldest(self.reserved(pattern), covering)
    }

    /// The namespaces for which every host of a pattern is reserved.
    #[must_use]
    pub fn reserved(&self, pattern: &HostPattern) -> Option<&ReservedFor> {
        match self {
            Self::Shared => None,
            Self::Separate(owners) => owners.covering(pattern),
        }
    }
}

fn oldest<'a>(
    reserved: Option<&ReservedFor>,
    owners: impl Iterator<Item = Option<&'a HostOwner>>,
) -> Option<&'a HostOwner> {
    let may_own = |owner: &&HostOwner| reserved.is_none_or(|reserved| reserved.contains(&owner.route.namespace));
    owners.flatten().filter(may_own).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(day: u64, namespace: &str) -> HostOwner {
        let since = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(day * 86_400);
        HostOwner { since: Some(since), route: ObjectName::new(namespace, "web") }
    }

    fn reserving(entries: &[(&str, &str)]) -> Tenancy {
        let mut owners = HostnameOwners::default();
        for (namespace, pattern) in entries {
            owners.reserve(&HostPattern::parse(pattern), *namespace);
        }
        Tenancy::Separate(Arc::new(owners))
    }

    fn tenant<'a>(tenancy: &'a Tenancy, host: &str, owners: &'a [HostOwner]) -> Tenant<'a> {
        tenancy.tenant(&Host::parse(host).unwrap(), owners.iter().map(Some))
    }

    #[test]
    fn the_older_route_owns_and_its_name_settles_a_tie() {
        let unknown = HostOwner { since: None, ..owner(0, "z") };
        assert!(unknown < owner(1, "b") && owner(1, "b") < owner(2, "a") && owner(1, "a") < owner(1, "b"));
    }

    #[test]
    fn a_host_belongs_to_its_oldest_owner() {
        let owners = [owner(2, "shop"), owner(1, "bank")];
        assert_eq!(tenant(&Tenancy::default(), "pay.test", &owners), Tenant::Namespace("bank"));
        assert_eq!(tenant(&Tenancy::default(), "pay.test", &[]), Tenant::Anybody);
        assert_eq!(tenant(&Tenancy::Shared, "pay.test", &owners), Tenant::Anybody);
    }

    #[test]
    fn the_most_specific_reservation_decides_whatever_is_older() {
        let tenancy = reserving(&[("shop", "*.test"), ("bank", "pay.test"), ("till", "pay.test")]);
        let owners = [owner(1, "evil"), owner(2, "shop"), owner(3, "bank")];
        assert_eq!(tenant(&tenancy, "pay.test", &owners), Tenant::Namespace("bank"));
        assert_eq!(tenant(&tenancy, "x.test", &owners), Tenant::Namespace("shop"));
        assert_eq!(tenant(&tenancy, "test", &owners), Tenant::Namespace("evil"), "a wildcard does not cover the apex");
        let nobody = tenant(&tenancy, "pay.test", &owners[..2]);
        assert!(nobody.admits(Some(&owner(9, "till"))) && !nobody.admits(Some(&owner(1, "shop"))));
    }

    #[test]
    fn a_wildcard_is_reserved_only_where_all_of_it_is() {
        let tenancy = reserving(&[("shop", "*.example.com"), ("shop", "example.org")]);
        let reserved = |pattern| tenancy.reserved(&HostPattern::parse(pattern)).is_some();
        assert!(["a.example.com", "*.example.com", "*.a.example.com", "example.org"].into_iter().all(reserved));
        assert!(!["example.com", "*.com", "*.example.org", "a.example.org"].into_iter().any(reserved));
        assert!(tenancy.reserved(&HostPattern::Any).is_none());
    }
}
