//! The replicas of a controller: who of them writes statuses, and what each of them serves.
//!
//! Both are told through Leases in the controller's own namespace. One names the replica that writes; each replica has
//! another one, whose annotations say how far it has followed the routes. `election`, `announcement` and `roll` decide
//! and are pure; here is the one task that talks to the API server about it.

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
    announcement::{Announcement, Content},
    election::{Election, LEASE, Step},
    roll::Roll,
};
use super::until;
use crate::source::{
    Digests, Report, Versions,
    trouble::{self, Trouble},
};

/// The label that tells the Lease of a replica.
const COMPONENT: (&str, &str) = ("switchyard.dev/component", "replica");
/// The annotation with the versions up to which a replica has followed the routes.
const APPLIED: &str = "switchyard.dev/applied";
/// The annotation with the digests of what it made of them.
const DIGESTS: &str = "switchyard.dev/digests";

/// After this many seconds the watch is begun anew.
const WATCH_SECONDS: u32 = 60;
/// A request that has no answer after so long has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The rest after a write that somebody else was ahead of.
const AFTER_CONFLICT: Duration = Duration::from_millis(250);
/// The rest after a write that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The rest after one that is not permitted.
const AFTER_REFUSAL: Duration = Duration::from_secs(15);

/// What this replica may do, and who else there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Its part.
    pub role: Role,
    /// The other replicas.
    pub others: Arc<[Replica]>,
    /// Whether the others have been told of this one, or cannot be.
    pub announced: bool,
}

/// The part of a replica in writing statuses.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Role {
    /// Another one writes, or nobody does for now.
    #[default]
    Follower,
    /// It writes, until then unless the Lease is renewed.
    Holder {
        /// When it has to stop.
        until: Instant,
    },
    /// Nobody can be chosen, and nobody knows of the others.
    Barred {
        /// Why.
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
    /// The digests of what it made of them.
    pub digests: Digests,
}

impl Replica {
    /// Whether it has followed the routes of each watch up to these versions, or makes the same of them as somebody with
    /// these digests, who has.
    #[must_use]
    pub fn serves(&self, needs: &Versions, digests: &Digests) -> bool {
        self.applied.cover(needs, |watch| self.digests.agree_on(watch, digests))
    }
}

impl Role {
    /// Whether a write may be begun now.
    #[must_use]
    pub fn may_write(&self, now: Instant) -> bool {
        match self {
            Self::Follower => false,
            Self::Holder { until } => now < *until,
            Self::Barred { .. } => true,
        }
    }

    /// Whether it was chosen to write.
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
    standing: watch::Sender<Standing>,
    /// Why the Leases of others cannot be seen.
    blind: Option<Arc<str>>,
    /// Why our own cannot be written.
    mute: Option<Arc<str>>,
    /// The failure that was told last.
    told: Option<String>,
}

impl Replicas {
    /// A replica of those with these names; it tells `standing` what becomes of it.
    #[must_use]
    pub fn new(client: Client, identity: Identity, names: Names, standing: watch::Sender<Standing>) -> Self {
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
            told: None,
        }
    }

    /// Takes part until it is told to stop; then hands everything over.
    pub async fn run(mut self, mut reports: watch::Receiver<Report>, mut stop: watch::Receiver<bool>) {
        let labels = self.names.labels().map(|(name, value)| format!("{name}={value}"));
        let config = watcher::Config::default().timeout(WATCH_SECONDS).labels(&labels.join(","));
        let mut events = watcher(self.api.clone(), config).boxed();
        let mut trouble = Trouble::new("Lease", "it should be part of every cluster");
        let mut rest_until = None;
        loop {
            self.publish();
            tokio::select! {
                () = told_to_stop(&mut stop) => return self.resign().await,
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
        let announced = self.announcement.has_told() || barred.is_some();
        let standing = Standing { role, others, announced };
        self.standing.send_if_modified(|before| {
            tell_turn(&before.role, &standing.role);
            let is_news = *before != standing;
            *before = standing;
            is_news
        });
    }

    /// Takes what the watch says; tells how long it should rest.
    fn see(&mut self, event: watcher::Result<Event<Lease>>, trouble: &mut Trouble) -> Option<Instant> {
        match event {
            Ok(event) => {
                if !matches!(event, Event::Init) {
                    trouble.is_over();
                    self.blind = None;
                }
                self.roll.apply(event, Instant::now());
                None
            }
            Err(error) => {
                if let Some(status) = trouble::status(&error).filter(|status| status.is_forbidden()) {
                    self.blind = Some(self.bar(&status.message, self.blind.as_ref()));
                }
                Some(Instant::now() + trouble.begins(&error, Instant::now()))
            }
        }
    }

    /// When there is something to do by itself.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let announcement = self.announcement.next(now).map(|(_, at)| at);
        let is_holder = self.election.held_until(self.roll.leader(), now);
        let cleaning = is_holder.and_then(|_| self.roll.next_forgotten());
        [announcement, self.election_due(now), is_holder, cleaning].into_iter().flatten().min()
    }

    fn election_due(&self, now: Instant) -> Option<Instant> {
        match self.election_step(now)? {
            Step::Wait(at) => Some(at),
            Step::Create | Step::Take => Some(now),
        }
    }

    /// Nothing before all Leases have been seen, and ours is among them: who writes has a table.
    fn election_step(&self, now: Instant) -> Option<Step> {
        let may_stand = self.roll.is_synced() && self.announcement.has_told();
        may_stand.then(|| self.election.step(self.roll.leader(), now))
    }

    async fn act(&mut self) {
        let now = Instant::now();
        if let Some(step @ (Step::Create | Step::Take)) = self.election_step(now) {
            self.stand(step == Step::Create).await;
        }
        let due = self.announcement.next(now).filter(|(_, at)| *at <= now).map(|(content, _)| content.clone());
        if let Some(content) = due {
            self.announce(content).await;
        }
        if self.election.held_until(self.roll.leader(), now).is_some() {
            self.clean(now).await;
        }
    }

    /// Writes the Lease for statuses with our name in it.
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
                // What was not found is a namespace when it was to be created there, else it has just been deleted.
                let is_late = failure.code == 409 || failure.code == 404 && !create;
                let rest = if is_late { AFTER_CONFLICT } else { self.failed(&failure) };
                self.election.failed(Instant::now(), rest.mul_f64(1.0 + fastrand::f64() / 4.0));
            }
        }
    }

    /// Writes our own Lease.
    async fn announce(&mut self, content: Content) {
        let params = PatchParams::apply(&format!("switchyard/{}", self.names.class)).force();
        let patch = Patch::Apply(self.replica_lease(&content));
        match within(self.api.patch(&self.own_name, &params, &patch)).await {
            Ok(_) => {
                self.announcement.told(content, Instant::now());
                self.succeeded();
            }
            Err(failure) => {
                let rest = self.failed(&failure);
                self.announcement.failed(Instant::now(), rest);
            }
        }
    }

    /// Removes the Leases of replicas that went without a word.
    async fn clean(&mut self, now: Instant) {
        while let Some((name, version)) = self.roll.forgotten(now) {
            let name = name.to_owned();
            match self.delete(&name, Some(version.to_owned())).await {
                Ok(()) => info!(lease = name, "removed the Lease of a replica that is gone"),
                Err(failure) => debug!(lease = name, cause = failure.cause, "the Lease of a replica stays"),
            }
            // Should it still be there, the watch tells of it again.
            self.roll.remove(&name);
        }
    }

    /// Hands everything over, so that the others need not wait for Leases to end.
    async fn resign(mut self) {
        let leader = self.roll.leader().filter(|leader| leader.of.holder == self.identity.name);
        let leader = leader.map(|leader| leader.version.clone());
        self.election = Election::new(&self.identity.name);
        self.publish();
        let leave = async {
            if self.announcement.has_told() {
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

    async fn delete(&self, name: &str, resource_version: Option<String>) -> Result<(), Failure> {
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

    fn replica_lease(&self, content: &Content) -> Lease {
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
        if self.told.take().is_some() {
            info!("writing Leases again");
        }
    }

    /// Tells of a failure, once; gives back how long to rest.
    fn failed(&mut self, failure: &Failure) -> Duration {
        if matches!(failure.code, 403 | 404) {
            self.mute = Some(self.bar(&failure.cause, self.mute.as_ref()));
            self.told = Some(failure.cause.clone());
            return AFTER_REFUSAL;
        }
        if self.told.as_ref() == Some(&failure.cause) {
            debug!(cause = failure.cause, "still cannot write Leases");
        } else {
            warn!(cause = failure.cause, "cannot write Leases, trying again; routing is not concerned");
            self.told = Some(failure.cause.clone());
        }
        AFTER_FAILURE
    }

    /// Says, once, why nobody can be chosen.
    fn bar(&self, cause: &str, before: Option<&Arc<str>>) -> Arc<str> {
        if let Some(before) = before.filter(|before| &***before == cause) {
            return before.clone();
        }
        let namespace = &self.identity.namespace;
        warn!(
            cause,
            namespace,
            "cannot use Leases: every replica writes statuses, and Programmed stays Pending; routing is not concerned"
        );
        cause.into()
    }
}

fn json(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("numbers by name have a JSON form")
}

fn tell_turn(before: &Role, now: &Role) {
    match (before.is_holder(), now.is_holder()) {
        (false, true) => info!("this replica writes statuses now"),
        (true, false) => info!("this replica no longer writes statuses"),
        _ => {}
    }
}

fn left(lease: &str, answer: Result<(), Failure>) {
    match answer {
        Ok(()) => debug!(lease, "gave up a Lease"),
        Err(Failure { cause, .. }) => warn!(lease, cause, "cannot give up a Lease; others wait until it ends"),
    }
}

/// Why a request failed.
#[derive(Debug)]
struct Failure {
    /// The HTTP status, where there was an answer.
    code: u16,
    cause: String,
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| match error {
            // The API server names the account, the verb and the resource.
            kube::Error::Api(status) => Failure { code: status.code, cause: status.message.clone() },
            other => Failure { code: 0, cause: trouble::chain(&other) },
        }),
        Err(_) => Err(Failure { code: 0, cause: "the API server does not answer".to_owned() }),
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

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // Nobody left who could tell is a reason to stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}
