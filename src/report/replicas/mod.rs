//! The replicas of a controller: which of them writes statuses, and what each of them serves.
//!
//! Both are published as Leases in the controller's own namespace. One names the replica that writes; each replica has
//! another one, whose annotations state how far it has followed the routes. `election`, `announcement` and `roll` make
//! the decisions and are pure; this module has the one task that talks to the API server.

mod announcement;
mod conventions;
mod election;
mod identity;
mod lease;
mod leave;
mod roll;
mod standing;

use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

pub use identity::{Identity, Names};
pub(super) use standing::Replica;
pub use standing::{ReplicaStanding, Role};

use self::{
    announcement::{Announced, Announcement},
    election::{Election, ElectionStep},
    lease::OwnLeases,
    roll::Roll,
};
use super::until;
use crate::source::{
    Report,
    backoff::Delays,
    complaint::Complaint,
    failure::{ApiFailure, answer_by},
    trouble::Trouble,
};

/// After this many seconds the watch is restarted.
const WATCH_SECONDS: u32 = 60;
/// A request without a response after this time has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The delay after a write that lost a race.
const AFTER_CONFLICT: Delays = Delays::constant(Duration::from_millis(250));
/// The delay after a failed write. It does not grow: the Lease must be renewed before it expires.
const AFTER_FAILURE: Delays = Delays::constant(Duration::from_secs(1));
/// The delay after a write that is not permitted.
const AFTER_REFUSAL: Delays = Delays::constant(Duration::from_secs(15));

/// This replica among the others.
pub struct Replicas {
    api: Api<Lease>,
    leases: OwnLeases,
    own_name: String,
    roll: Roll,
    election: Election,
    announcement: Announcement,
    standing: watch::Sender<ReplicaStanding>,
    /// The Leases of others cannot be read.
    blind: Complaint,
    /// Our own Lease cannot be written.
    mute: Complaint,
    /// Writing failed for another reason.
    writes: Complaint,
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
            leases: OwnLeases { identity, names },
            own_name,
            standing,
            blind: Complaint::default(),
            mute: Complaint::default(),
            writes: Complaint::default(),
        }
    }

    /// Takes part until it is stopped; then hands everything over.
    pub async fn run(mut self, mut reports: watch::Receiver<Report>, mut stop: watch::Receiver<bool>) {
        let labels = self.leases.names.labels().map(|(name, value)| format!("{name}={value}"));
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
        let barred = self.blind.cause().or(self.mute.cause());
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
                    self.blind = Complaint::default();
                }
                self.roll.apply(event, Instant::now());
                None
            }
            Err(error) => {
                let failure = ApiFailure::from(&error);
                if failure.code == 403 && self.blind.raise(&failure.cause) {
                    self.log_barred(&failure.cause);
                }
                Some(trouble.failed(failure, Instant::now()))
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
        let (lease, params) = (self.leases.leader(self.roll.leader()), PostParams::default());
        let answer = if create {
            within(self.api.create(&params, &lease)).await
        } else {
            within(self.api.replace(&self.leases.names.leader, &params, &lease)).await
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
                let delays = if is_late { AFTER_CONFLICT } else { self.failed(&failure) };
                self.election.failed(delays, Instant::now());
            }
        }
    }

    /// Writes our own Lease.
    async fn announce(&mut self, content: Announced) {
        let params = PatchParams::apply(&format!("switchyard/{}", self.leases.names.class)).force();
        let patch = Patch::Apply(self.leases.replica(&content));
        match within(self.api.patch(&self.own_name, &params, &patch)).await {
            Ok(_) => {
                self.announcement.announced(content, Instant::now());
                self.succeeded();
            }
            Err(failure) => {
                let delays = self.failed(&failure);
                self.announcement.failed(delays, Instant::now());
            }
        }
    }

    fn succeeded(&mut self) {
        if self.mute.settle() | self.writes.settle() {
            info!("Lease writes resumed");
        }
    }

    /// Logs a failure once; returns how long to wait.
    fn failed(&mut self, failure: &ApiFailure) -> Delays {
        let cause = &failure.cause;
        if matches!(failure.code, 403 | 404) {
            if self.mute.raise(cause) {
                self.log_barred(cause);
            }
            return AFTER_REFUSAL;
        }
        if self.writes.raise(cause) {
            warn!(cause, "cannot write Leases; retrying; routing is not affected");
        } else {
            debug!(cause, "Lease writes still failing");
        }
        AFTER_FAILURE
    }

    /// Logs why no replica can be elected.
    fn log_barred(&self, cause: &str) {
        let namespace = &self.leases.identity.namespace;
        warn!(
            cause,
            namespace,
            "cannot use Leases: every replica writes statuses, and Programmed stays Pending; routing is not affected"
        );
    }
}

/// A request to the API server, which has failed without a response in time.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiFailure> {
    answer_by(Instant::now() + REQUEST_TIMEOUT, request).await
}

fn log_role_change(before: &Role, now: &Role) {
    match (before.is_holder(), now.is_holder()) {
        (false, true) => info!("this replica now writes statuses"),
        (true, false) => info!("this replica no longer writes statuses"),
        _ => {}
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
