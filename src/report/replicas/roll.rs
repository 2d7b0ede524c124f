//! The Leases as observed: who holds the one for statuses, and which other replicas serve. Pure: instants are passed
//! in.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{
    Replica,
    conventions::{APPLIED, COMPONENT, DIGESTS, LEASE},
};

/// How long after its expiry the Lease of a vanished replica is removed.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// A Lease, and when its renewal was observed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen<T> {
    /// Its content.
    pub(super) of: T,
    /// How long it is valid.
    pub(super) duration: Duration,
    /// Its version.
    pub(super) version: String,
    /// The holder; empty if there is none.
    pub(super) holder: String,
    /// When the holder says it renewed it; tells a renewal from other changes.
    pub(super) renewed: Option<MicroTime>,
    /// When its renewal was observed.
    pub(super) since: Instant,
}

/// The Lease of the replica that writes statuses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leader {
    /// How often the holder has changed.
    pub(super) transitions: i32,
    /// Since when the holder has it.
    pub(super) acquired: Option<MicroTime>,
}

/// All Leases of the replicas of a class.
#[derive(Debug)]
pub(super) struct Roll {
    leader_name: String,
    own_name: String,
    leader: Option<Seen<Leader>>,
    others: BTreeMap<String, Seen<Replica>>,
    list: Option<BTreeMap<String, Lease>>,
    /// When the watch last reported anything; `None` before all Leases have been seen. Our own renewals arrive this way
    /// too, so this is at most seconds ago while the watch works.
    heard: Option<Instant>,
    /// The version of our own last write, which the watch reports later.
    floor: u64,
}

impl<T> Seen<T> {
    /// A Lease that is observed now, and was observed as `before`.
    fn new(of: T, lease: Lease, before: Option<&Self>, now: Instant) -> Self {
        let spec = lease.spec.unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let version = lease.metadata.resource_version.unwrap_or_default();
        let (holder, renewed) = (spec.holder_identity.unwrap_or_default(), spec.renew_time);
        let same = before.filter(|before| before.holder == holder && before.renewed == renewed);
        let since = same.map_or(now, |before| before.since);
        Self { of, duration: seconds.map_or(LEASE, Duration::from_secs), version, holder, renewed, since }
    }

    /// When it expires unless it is renewed.
    pub(super) fn expires(&self) -> Instant {
        self.since + self.duration
    }
}

impl Roll {
    /// Nothing observed yet. `leader` names the Lease for statuses; our `own` Lease is ignored.
    pub(super) fn new(leader: &str, own: &str) -> Self {
        Self {
            leader_name: leader.to_owned(),
            own_name: own.to_owned(),
            leader: None,
            others: BTreeMap::new(),
            list: None,
            heard: None,
            floor: 0,
        }
    }

    /// Whether all Leases have been seen.
    pub(super) fn is_synced(&self) -> bool {
        self.heard.is_some()
    }

    /// The Lease for statuses.
    pub(super) fn leader(&self) -> Option<&Seen<Leader>> {
        self.leader.as_ref()
    }

    /// The other replicas with a valid Lease, as far as the watch has reported: without reports, no replica is
    /// considered gone.
    pub(super) fn present(&self) -> impl Iterator<Item = &Replica> {
        let is_good = |seen: &&Seen<Replica>| self.heard.is_none_or(|heard| heard < seen.expires());
        self.others.values().filter(is_good).map(|seen| &seen.of)
    }

    /// The Leases that expired long ago, by name and version.
    pub(super) fn forgotten(&self, now: Instant) -> Option<(&str, &str)> {
        let mut forgotten = self.others.iter().filter(|(_, seen)| seen.expires() + FORGOTTEN <= now);
        forgotten.next().map(|(name, seen)| (name.as_str(), seen.version.as_str()))
    }

    /// When there will be another one, if nothing else happens.
    pub(super) fn next_forgotten(&self) -> Option<Instant> {
        self.others.values().map(|seen| seen.expires() + FORGOTTEN).min()
    }

    /// Applies an event of the watch.
    pub(super) fn apply(&mut self, event: Event<Lease>, now: Instant) {
        match event {
            Event::Init => {
                self.list = Some(BTreeMap::new());
                return;
            }
            Event::InitApply(lease) => {
                let list = self.list.get_or_insert_default();
                list.insert(lease.metadata.name.clone().unwrap_or_default(), lease);
                return;
            }
            Event::InitDone => self.replace(now),
            Event::Apply(lease) => self.set(lease, now),
            Event::Delete(lease) => self.remove(lease.metadata.name.as_deref().unwrap_or_default()),
        }
        self.heard = Some(now);
    }

    /// Applies the API server's response to our own write of the Lease for statuses.
    pub(super) fn wrote(&mut self, lease: Lease, now: Instant) {
        self.floor = version(&lease).unwrap_or_default();
        self.take(lease, now);
    }

    /// Removes a deleted Lease.
    pub(super) fn remove(&mut self, name: &str) {
        self.others.remove(name);
        if name == self.leader_name {
            self.leader = None;
        }
    }

    fn replace(&mut self, now: Instant) {
        let list = self.list.take().unwrap_or_default();
        self.others.retain(|name, _| list.contains_key(name));
        self.leader.take_if(|_| !list.contains_key(&self.leader_name));
        for lease in list.into_values() {
            self.set(lease, now);
        }
    }

    fn set(&mut self, lease: Lease, now: Instant) {
        let is_leader = lease.metadata.name.as_ref() == Some(&self.leader_name);
        let is_old = version(&lease).is_some_and(|version| version <= self.floor);
        if !(is_leader && is_old) {
            self.take(lease, now);
        }
    }

    fn take(&mut self, lease: Lease, now: Instant) {
        let name = lease.metadata.name.clone().unwrap_or_default();
        if name == self.leader_name {
            self.leader = Some(Seen::new(leader(&lease), lease, self.leader.as_ref(), now));
        } else if name != self.own_name && is_replica(&lease) {
            let seen = Seen::new(replica(&lease), lease, self.others.get(&name), now);
            self.others.insert(name, seen);
        }
    }
}

fn leader(lease: &Lease) -> Leader {
    let spec = lease.spec.clone().unwrap_or_default();
    Leader { transitions: spec.lease_transitions.unwrap_or_default(), acquired: spec.acquire_time }
}

fn is_replica(lease: &Lease) -> bool {
    let component = lease.metadata.labels.as_ref().and_then(|labels| labels.get(COMPONENT.0));
    component.is_some_and(|component| component == COMPONENT.1)
}

fn replica(lease: &Lease) -> Replica {
    let name = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    Replica { name: name.unwrap_or_default(), applied: read(lease, APPLIED), digests: read(lease, DIGESTS) }
}

/// Unreadable content counts as empty.
fn read<T: Default + DeserializeOwned>(lease: &Lease, annotation: &str) -> T {
    let text = lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(annotation));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests;
