//! Which namespace each hostname belongs to, settled before any claims.

use std::sync::Arc;

use crate::table::{HostPattern, ObjectName, ReservedFor, RouteTable, Tenancy};

use super::draft::Draft;

/// Records the owner of each hostname that a route names in the table. Drafts must be sorted oldest first and include
/// routes that cannot be served: an invalid route keeps its hostnames.
pub(super) fn settle(table: &mut RouteTable, drafts: &[Arc<Draft>]) {
    for draft in drafts {
        for host in &*draft.hostnames {
            if Owners(table).may_name(&draft.name.namespace, host) {
                table.own(host, draft.owner());
            }
        }
    }
}

/// The owners, once settled.
#[derive(Clone, Copy)]
pub(super) struct Owners<'a>(pub(super) &'a RouteTable);

impl Owners<'_> {
    fn may_name(self, namespace: &str, host: &HostPattern) -> bool {
        if matches!(self.0.tenancy(), Tenancy::Shared) {
            return true;
        }
        let is_listed = self.0.tenancy().reserved(host).is_none_or(|reserved| reserved.contains(namespace));
        let is_held = || self.0.owner(host).is_some_and(|owner| *owner.route.namespace != *namespace);
        is_listed && !is_held()
    }

    /// Checks that routes of a namespace may name a hostname.
    ///
    /// # Errors
    /// If they may not: the owner, and what to do about it.
    pub(super) fn check(self, namespace: &str, host: &HostPattern) -> Result<(), String> {
        if self.may_name(namespace, host) {
            return Ok(());
        }
        let owner = self.0.owner(host).map(|owner| &owner.route);
        let reserved = self.0.tenancy().reserved(host).filter(|reserved| !reserved.contains(namespace));
        Err(match reserved {
            Some(reserved) => reserved_for(reserved, owner, namespace, host),
            None => held_by(owner.expect("a hostname without an owner may be named by any namespace"), namespace, host),
        })
    }
}

fn reserved_for(reserved: &ReservedFor, owner: Option<&ObjectName>, namespace: &str, host: &HostPattern) -> String {
    let namespaces = reserved.iter().map(|name| &**name).collect::<Vec<_>>().join(" and ");
    let route = owner.map(|route| format!(", whose route {route} names it")).unwrap_or_default();
    format!(
        "hostname {host} is reserved for namespace {namespaces}{route}; use another hostname, or have the operator list \
         {namespace} for it in --hostname-owners"
    )
}

fn held_by(route: &ObjectName, namespace: &str, host: &HostPattern) -> String {
    let owner = &route.namespace;
    if *host == HostPattern::Any {
        return format!(
            "requests for hosts that no route names belong to namespace {owner}, whose older route {route} has no \
             hostnames either; specify hostnames for this route"
        );
    }
    format!(
        "hostname {host} belongs to namespace {owner}, whose older route {route} names it, exactly or by a wildcard; use \
         another hostname, or have the operator reserve it for {namespace} in --hostname-owners"
    )
}
