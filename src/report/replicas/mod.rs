//! The replicas of a controller: which of them writes statuses, and what each of them serves.
//!
//! Both are published as Leases in the controller's own namespace. One names the replica that writes; each replica has
//! another one, whose annotations state how far it has followed the routes. `election`, `announcement` and `roll` make
//! the decisions and are pure; this module has the one task that talks to the API server.

mod announcement;
mod election;
mod identity;
mod roll;

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher::{self, Event, watcher},
};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

pub use identity::{Identity, Names};

use self::{
    announcement::{Announced, Announcement},
    election::{Election, ElectionStep, LEASE},
    roll::Roll,
};
use super::until;
use crate::source::{
    Digests, Report, Versions,
    trouble::{self, Trouble},
};

/// The label that marks the Lease of a replica.
const COMPONENT: (&str, &str) = ("switchyard.dev/component", "replica");
/// The annotation with the versions up to which a replica has followed the routes.
const APPLIED: &str = "switchyard.dev/applied";
/// The annotation with the digests of the routes it serves.
const DIGESTS: &str = "switchyard.dev/digests";

/// After this many seconds the watch is restarted.
const WATCH_SECONDS: u32 = 60;
/// A request without a response after this time has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The backoff after a write that lost a race.
const AFTER_CONFLICT: Duration = Duration::from_millis(250);
/// The backoff after a failed write.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The backoff after a write that is not permitted.
const AFTER_REFUSAL: Duration = Duration::from_secs(15);

/// What this replica may do, and the other replicas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaStanding {
    /// Its role.
    pub role: Role,
    /// The other replicas.
    pub others: Arc<[Replica]>,
    /// Whether the others know this one, or cannot.
    pub announced: bool,
}

/// The role of a replica in writing statuses.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Role {
    /// Another replica writes, or none at the moment.
    #[default]
    Follower,
    /// This replica writes, until the given time unless the Lease is renewed.
    Holder {
        /// When it must stop.
        until: Instant,
    },
    /// No replica can be elected, and the others are unknown.
    Barred {
        /// The cause.
        cause: Arc<str>,
    },
}

/// Another replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Its name.
    pub name: String,
    /// How far it has followed the routes.
    pub applied: Versions,
    /// Digests of the routes it serves.
    pub digests: Digests,
}

impl Replica {
    /// Whether it has followed the routes of each watch up to these versions, or serves the same as a replica with
    /// these digests, which has.
    #[must_use]
    pub fn serves(&self, needs: &Versions, digests: &Digests) -> bool {
        self.applied.cover(needs, |watch| self.digests.agree_on(watch, digests))
    }
}

impl Role {
    /// Whether a write may start now.
    #[must_use]
    pub fn may_write(&self, now: Instant) -> bool {
        match self {
            Self::Follower => false,
            Self::Holder { until } => now < *until,
            Self::Barred { .. } => true,
        }
    }

    /// Whether it is the elected writer.
    #[must_use]
    pub fn is_holder(&self) -> bool {
        matches!(self, Self::Holder { .. })
    }
}

/// This replica among the others.
pub struct Replicas {
    api: Api<Lease>,
    identity: Identity,
    names: Names,
    own_name: String,
    roll: Roll,
    election: Election,
    announcement: Announcement,
    standing: watch::Sender<ReplicaStanding>,
    /// Why the Leases of others cannot be read.
    blind: Option<Arc<str>>,
    /// Why our own Lease cannot be written.
    mute: Option<Arc<str>>,
    /// The failure that was logged last.
    logged: Option<String>,
}

impl Replicas {
    /// A replica with these names; it publishes its standing to `standing`.
    #[must_use]
    pub fn new(client: Client, identity: Identity, names: Names, standing: watch::Sender<ReplicaStanding>) -> Self {
        let own_name = names.replica(&identity.name);
        Self {
            api: Api::namespaced(client, &identity.namespace),
            roll: Roll::new(&names.leader, &own_name),
            election: Election::new(&identity.name),
            announcement: Announcement::default(),
            identity,
            names,
            own_name,
            standing,
            blind: None,
            mute: None,
            logged: None,
        }
    }

    /// Takes part until it is stopped; then hands everything over.
    pub async fn run(mut self, mut reports: watch::Receiver<Report>, mut stop: watch::Receiver<bool>) {
        let labels = self.names.labels().map(|(name, value)| format!("{name}={value}"));
        let config = watcher::Config::default().timeout(WATCH_SECONDS).labels(&labels.join(","));
        let mut events = watcher(self.api.clone(), config).boxed();
        let mut trouble = Trouble::new("Lease", "every cluster should have it");
        let mut rest_until = None;
        loop {
            self.publish();
            tokio::select! {
                () = stopped(&mut stop) => return self.resign().await,
                event = next(&mut events, rest_until) => rest_until = self.see(event, &mut trouble),
                Ok(()) = reports.changed() => self.announcement.serves(&reports.borrow_and_update()),
                () = until(self.due()) => self.act().await,
            }
        }
    }

    fn publish(&self) {
        let now = Instant::now();
        let barred = self.blind.as_ref().or(self.mute.as_ref());
        let role = match (barred, self.election.held_until(self.roll.leader(), now)) {
            (Some(cause), _) => Role::Barred { cause: cause.clone() },
            (None, Some(until)) => Role::Holder { until },
            (None, None) => Role::Follower,
        };
        let others = self.roll.present().cloned().collect();
        let announced = self.announcement.has_announced() || barred.is_some();
        let standing = ReplicaStanding { role, others, announced };
        self.standing.send_if_modified(|before| {
            log_role_change(&before.role, &standing.role);
            let is_news = *before != standing;
            *before = standing;
            is_news
        });
    }

    /// Handles an event of the watch; returns how long to wait.
    fn see(&mut self, event: watcher::Result<Event<Lease>>, trouble: &mut Trouble) -> Option<Instant> {
        match event {
            Ok(event) => {
                if !matches!(event, Event::Init) {
                    trouble.recovered();
                    self.blind = None;
                }
                self.roll.apply(event, Instant::now());
                None
            }
            Err(error) => {
                if let Some(status) = trouble::status(&error).filter(|status| status.is_forbidden()) {
                    self.blind = Some(self.bar(&status.message, self.blind.as_ref()));
                }
                Some(Instant::now() + trouble.failed(&error, Instant::now()))
            }
        }
    }

    /// When something is due without further events.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let announcement = self.announcement.next(now).map(|(_, at)| at);
        let is_holder = self.election.held_until(self.roll.leader(), now);
        let cleaning = is_holder.and_then(|_| self.roll.next_forgotten());
        [announcement, self.election_due(now), is_holder, cleaning].into_iter().flatten().min()
    }

    fn election_due(&self, now: Instant) -> Option<Instant> {
        match self.election_step(now)? {
            ElectionStep::Wait(at) => Some(at),
            ElectionStep::Create | ElectionStep::Take => Some(now),
        }
    }

    /// No step before all Leases have been seen and ours is published: a writer must have a table.
    fn election_step(&self, now: Instant) -> Option<ElectionStep> {
        let may_stand = self.roll.is_synced() && self.announcement.has_announced();
        may_stand.then(|| self.election.step(self.roll.leader(), now))
    }

    async fn act(&mut self) {
        let now = Instant::now();
        if let Some(step @ (ElectionStep::Create | ElectionStep::Take)) = self.election_step(now) {
            self.stand(step == ElectionStep::Create).await;
        }
        let due = self.announcement.next(now).filter(|(_, at)| *at <= now).map(|(content, _)| content.clone());
        if let Some(content) = due {
            self.announce(content).await;
        }
        if self.election.held_until(self.roll.leader(), now).is_some() {
            self.clean(now).await;
        }
    }

    /// Writes our name into the Lease for statuses.
    async fn stand(&mut self, create: bool) {
        let began = Instant::now();
        let (lease, params) = (self.leader_lease(), PostParams::default());
        let answer = if create {
            within(self.api.create(&params, &lease)).await
        } else {
            within(self.api.replace(&self.names.leader, &params, &lease)).await
        };
        match answer {
            Ok(lease) => {
                self.election.wrote(began);
                self.roll.wrote(lease, Instant::now());
                self.succeeded();
            }
            Err(failure) => {
                // 404 means a missing namespace on creation, and otherwise a Lease that has just been deleted.
                let is_late = failure.code == 409 || failure.code == 404 && !create;
                let rest = if is_late { AFTER_CONFLICT } else { self.failed(&failure) };
                self.election.failed(Instant::now(), rest.mul_f64(1.0 + fastrand::f64() / 4.0));
            }
        }
    }

    /// Writes our own Lease.
    async fn announce(&mut self, content: Announced) {
        let params = PatchParams::apply(&format!("switchyard/{}", self.names.class)).force();
        let patch = Patch::Apply(self.replica_lease(&content));
        match within(self.api.patch(&self.own_name, &params, &patch)).await {
            Ok(_) => {
                self.announcement.announced(content, Instant::now());
                self.succeeded();
            }
            Err(failure) => {
                let rest = self.failed(&failure);
                self.announcement.failed(Instant::now(), rest);
            }
        }
    }

    /// Removes the Leases of replicas that vanished.
    async fn clean(&mut self, now: Instant) {
        while let Some((name, version)) = self.roll.forgotten(now) {
            let name = name.to_owned();
            match self.delete(&name, Some(version.to_owned())).await {
                Ok(()) => info!(lease = name, "removed the Lease of a replica that is gone"),
                Err(failure) => debug!(lease = name, cause = failure.cause, "cannot remove the Lease of a replica"),
            }
            // If it still exists, the watch reports it again.
            self.roll.remove(&name);
        }
    }

    /// Hands everything over, so that the others need not wait for Leases to expire.
    async fn resign(mut self) {
        let leader = self.roll.leader().filter(|leader| leader.of.holder == self.identity.name);
        let leader = leader.map(|leader| leader.version.clone());
        self.election = Election::new(&self.identity.name);
        self.publish();
        let leave = async {
            if self.announcement.has_announced() {
                left(&self.own_name, self.delete(&self.own_name, None).await);
            }
        };
        let hand_over = async {
            if let Some(version) = leader {
                left(&self.names.leader, self.delete(&self.names.leader, Some(version)).await);
            }
        };
        tokio::join!(leave, hand_over);
    }

    async fn delete(&self, name: &str, resource_version: Option<String>) -> Result<(), LeaseFailure> {
        let preconditions =
            resource_version.map(|version| Preconditions { resource_version: Some(version), uid: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match within(self.api.delete(name, &params)).await {
            Err(failure) if failure.code == 404 => Ok(()),
            answer => answer.map(drop),
        }
    }

    fn leader_lease(&self) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = self.roll.leader();
        let transitions = before.map_or(0, |before| {
            before.of.transitions.saturating_add(i32::from(before.of.holder != self.identity.name))
        });
        let mut lease = self.lease(&self.names.leader, "leader");
        lease.metadata.resource_version = before.map(|before| before.version.clone());
        let spec = lease.spec.get_or_insert_default();
        spec.lease_transitions = Some(transitions);
        let ours = before.filter(|before| before.of.holder == self.identity.name);
        spec.acquire_time = ours.and_then(|ours| ours.of.acquired.clone()).or(Some(now));
        lease
    }

    fn replica_lease(&self, content: &Announced) -> Lease {
        let mut lease = self.lease(&self.own_name, COMPONENT.1);
        let told = [(APPLIED, json(&content.progress.seen)), (DIGESTS, json(&content.digests))];
        lease.metadata.annotations = Some(told.map(|(name, value)| (name.to_owned(), value)).into());
        lease
    }

    fn lease(&self, name: &str, component: &str) -> Lease {
        let labels = self.names.labels().into_iter().chain([(COMPONENT.0, component)]);
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
                owner_references: self.identity.pod.clone().map(|pod| vec![pod]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.name.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }

    fn succeeded(&mut self) {
        self.mute = None;
        if self.logged.take().is_some() {
            info!("Lease writes resumed");
        }
    }

    /// Logs a failure once; returns the backoff.
    fn failed(&mut self, failure: &LeaseFailure) -> Duration {
        if matches!(failure.code, 403 | 404) {
            self.mute = Some(self.bar(&failure.cause, self.mute.as_ref()));
            self.logged = Some(failure.cause.clone());
            return AFTER_REFUSAL;
        }
        if self.logged.as_ref() == Some(&failure.cause) {
            debug!(cause = failure.cause, "Lease writes still failing");
        } else {
            warn!(cause = failure.cause, "cannot write Leases; retrying; routing is not affected");
            self.logged = Some(failure.cause.clone());
        }
        AFTER_FAILURE
    }

    /// Logs once why no replica can be elected.
    fn bar(&self, cause: &str, before: Option<&Arc<str>>) -> Arc<str> {
        if let Some(before) = before.filter(|before| &***before == cause) {
            return before.clone();
        }
        let namespace = &self.identity.namespace;
        warn!(
            cause,
            namespace,
            "cannot use Leases: every replica writes statuses, and Programmed stays Pending; routing is not affected"
        );
        cause.into()
    }
}

fn json(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("numbers by name have a JSON form")
}

fn log_role_change(before: &Role, now: &Role) {
    match (before.is_holder(), now.is_holder()) {
        (false, true) => info!("this replica now writes statuses"),
        (true, false) => info!("this replica no longer writes statuses"),
        _ => {}
    }
}

fn left(lease: &str, answer: Result<(), LeaseFailure>) {
    match answer {
        Ok(()) => debug!(lease, "released a Lease"),
        Err(LeaseFailure { cause, .. }) => warn!(lease, cause, "cannot release a Lease; others wait until it expires"),
    }
}

/// The reason a request failed.
#[derive(Debug)]
struct LeaseFailure {
    /// The HTTP status, or 0 without a response.
    code: u16,
    cause: String,
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseFailure> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| match error {
            // The message names the account, the verb and the resource.
            kube::Error::Api(status) => LeaseFailure { code: status.code, cause: status.message.clone() },
            other => LeaseFailure { code: 0, cause: trouble::chain(&other) },
        }),
        Err(_) => Err(LeaseFailure { code: 0, cause: "no response from the API server".to_owned() }),
    }
}

async fn next<T>(events: &mut (impl Stream<Item = T> + Unpin), rest_until: Option<Instant>) -> T {
    if let Some(rest_until) = rest_until {
        sleep_until(rest_until).await;
    }
    match events.next().await {
        Some(event) => event,
        // A watch never ends.
        None => std::future::pending().await,
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // If the sender is gone, stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}
