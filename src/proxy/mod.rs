//! The proxy: connections with clients on one side, with backends on the other.
//!
//! The life of a connection:
//! 1. [`listen`] accepts it; `tls` shakes hands, with the certificate that the current table has for the name.
//! 2. If it begins with a whole handshake, `direct` passes that on line by line. Everything else is HTTP/1.1 by hyper
//!    (`connection`, `service`). Either way `request` checks the head, `handshake` tells what it asks for, and `routing`
//!    looks at the table once, keeping the rule and not the table.
//! 3. A plain request goes over the `pool` (`plain`), an upgrade over a connection of its own (`upgrade`). Endpoints
//!    are tried in the rule's order while nothing of the request has been sent.
//! 4. Behind a 101 that was checked, both connections come back by value, with the bytes that came early, and
//!    a `tunnel` passes bytes on as a task of its own, registered and counted before it runs.
//! 5. A tunnel ends with a [`TunnelEnd`], from which its metric and its line in the log are made.
//!
//! A client that closes its half after a request still gets the answer (hyper's `half_close`); `client_io` notices
//! those that are gone.

mod body;
mod budget;
mod client_io;
mod clients;
mod connection;
mod dial;
mod direct;
mod error;
mod fields;
mod forward;
mod forwarded;
mod handshake;
mod interim;
pub mod listen;
mod meter;
mod pace;
mod plain;
mod pool;
mod protected;
mod reply;
mod request;
mod retarget;
mod routed;
mod routing;
mod service;
mod session;
mod settings;
mod stream;
mod throttle;
mod tls;
mod tunnel;
mod upgrade;
mod workers;

use std::{io, iter, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use listen::{Listener, Scheme};
pub use protected::ProtectedFields;
pub use settings::Settings;
pub use tunnel::{Cause, Closer, TunnelEnd, TunnelHandle, Tunnels, frames};

use self::{clients::Clients, workers::Workers};
use crate::{
    metrics::Metrics,
    table::{CurrentTable, SessionKeys},
};

/// What the proxy works with.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The table, which others replace.
    pub table: Arc<CurrentTable>,
    /// The keys of session tokens, which others replace.
    pub session_keys: Arc<ArcSwap<SessionKeys>>,
    /// What holds for all connections.
    pub settings: Settings,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// The tunnels that are open.
    pub tunnels: Arc<Tunnels>,
}

/// How far the process is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Still accepting, but asking clients to go.
    Leaving,
    /// No longer accepting.
    Stopping,
}

/// Waits until the process is so far.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // Without a sender, the process is gone altogether.
    let _ = phase.wait_for(|phase| *phase == wanted).await;
}

/// What all connections of a thread share.
#[derive(Clone)]
struct Shared {
    table: Arc<CurrentTable>,
    session_keys: Arc<ArcSwap<SessionKeys>>,
    settings: Settings,
    metrics: Arc<Metrics>,
    tunnels: Arc<Tunnels>,
    /// Of this thread: an answer that another one would have to be woken for is worth less than a new connection.
    pool: Arc<pool::Pool>,
    identities: Arc<tls::Identities>,
    phase: watch::Receiver<Phase>,
    /// Of all threads, as what fails on one fails on the others.
    throttle: Arc<throttle::Throttle>,
    /// Who has how many of them.
    clients: Arc<Clients>,
    /// Connections and tunnels of all threads: their number is limited, and the last of them is waited for.
    tasks: TaskTracker,
    /// Cuts the connections that did not end in time.
    cut: CancellationToken,
}

impl Proxy {
    /// Serves until `shutdown` is ready, then stops in order: it goes on accepting for the shutdown delay, but asks
    /// clients to close; accepts no more; lets requests in flight end, and ends tunnels spread over the drain window.
    ///
    /// # Errors
    /// When the threads cannot be started. Nothing has been served then.
    pub async fn run(self, listeners: Vec<Listener>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let (phase, receiver) = watch::channel(Phase::Serving);
        let shared = self.share(receiver);
        let share = || Shared { pool: pool::Pool::new(&self.settings), ..shared.clone() };
        let workers = Workers::start(self.settings.threads, share)?;
        let mut accepting = tokio::task::JoinSet::new();
        let more = workers.len() - 1;
        for listener in listeners {
            let sockets = (0..more).map(|_| listener.another()).collect::<io::Result<Vec<_>>>()?;
            // The first goes along: clients may be waiting there.
            for ((thread, shared), listener) in workers.iter().zip(iter::once(listener).chain(sockets)) {
                let _entered = thread.enter();
                accepting.spawn_on(listen::accept(shared.clone(), listener.move_here()?), thread);
            }
        }
        shutdown.await;
        phase.send_replace(Phase::Leaving);
        tokio::time::sleep(self.settings.shutdown_delay).await;
        phase.send_replace(Phase::Stopping);
        while accepting.join_next().await.is_some() {}
        self.end(&shared.tasks, &shared.cut).await;
        workers.stop();
        Ok(())
    }

    /// What all threads share, and the pool of the first.
    fn share(&self, phase: watch::Receiver<Phase>) -> Shared {
        let Self { table, session_keys, settings, metrics, tunnels } = self.clone();
        let pool = pool::Pool::new(&settings);
        let clients = Clients::new(settings.max_connections_per_client, settings.max_connections);
        let (identities, throttle, tasks, cut) = Default::default();
        Shared {
            table,
            session_keys,
            settings,
            metrics,
            tunnels,
            pool,
            identities,
            phase,
            throttle,
            clients,
            tasks,
            cut,
        }
    }

    /// Ends what is open, spread over the drain window.
    async fn end(&self, tasks: &TaskTracker, cut: &CancellationToken) {
        tasks.close();
        let window = self.settings.drain_window;
        // A request may take its grace, and a tunnel that ends last takes time to end in order.
        let grace = self.settings.request_grace.max(2 * self.settings.close_timeout + self.settings.linger_timeout);
        let drained = async {
            self.tunnels.drain(window).await;
            tasks.wait().await;
        };
        if tokio::time::timeout(window + grace, drained).await.is_err() {
            cut.cancel();
            self.tunnels.end_all();
            let _ = tokio::time::timeout(2 * self.settings.linger_timeout, tasks.wait()).await;
        }
    }
}
