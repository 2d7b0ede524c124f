//! The proxy: connections with clients on one side, with backends on the other.
//!
//! The life of a connection:
//! 1. [`listen`] accepts it; `tls` shakes hands, with the certificate that the current table has for the name.
//! 2. `connection` serves HTTP/1.1 on it. For each request, `request` checks the head, `handshake` tells what it asks
//!    for, and `service` looks at the table once, keeping the rule and not the table.
//! 3. A plain request goes over the `pool` (`plain`), an upgrade over a connection of its own (`upgrade`). Endpoints
//!    are tried in the rule's order while nothing of the request has been sent.
//! 4. Behind a 101 that was checked, hyper gives both connections back by value, with the bytes that came early, and
//!    a `tunnel` passes bytes on as a task of its own, registered and counted before it runs.
//! 5. A tunnel ends with a [`TunnelEnd`], from which its metric and its line in the log are made.
//!
//! A client that closes its half after a request still gets the answer (hyper's `half_close`); `client_io` notices
//! those that are gone.

mod body;
mod client_io;
mod connection;
mod dial;
mod error;
mod forward;
mod forwarded;
mod handshake;
pub mod listen;
mod plain;
mod pool;
mod reply;
mod request;
mod routed;
mod service;
mod session;
mod settings;
mod stream;
mod tls;
mod tunnel;
mod upgrade;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use listen::{Listener, Scheme};
pub use settings::Settings;
pub use tunnel::{Cause, Closer, TunnelEnd, TunnelHandle, Tunnels, frames};

use crate::{
    observe::Metrics,
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

/// What all connections share.
struct Shared {
    table: Arc<CurrentTable>,
    session_keys: Arc<ArcSwap<SessionKeys>>,
    settings: Settings,
    metrics: Arc<Metrics>,
    tunnels: Arc<Tunnels>,
    pool: Arc<pool::Pool>,
    identities: tls::Identities,
    phase: watch::Receiver<Phase>,
    /// Connections and tunnels.
    tasks: TaskTracker,
    /// Cuts the connections that did not end in time.
    cut: CancellationToken,
}

impl Proxy {
    /// Serves until `shutdown` is ready, then stops in order: it goes on accepting for the shutdown delay, but asks
    /// clients to close; accepts no more; lets requests in flight end, and ends tunnels spread over the drain window.
    pub async fn run(self, listeners: Vec<Listener>, shutdown: impl Future<Output = ()>) {
        let (phase, receiver) = watch::channel(Phase::Serving);
        let shared = Arc::new(self.share(receiver));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            accepting.spawn(listen::accept(shared.clone(), listener));
        }
        shutdown.await;
        phase.send_replace(Phase::Leaving);
        tokio::time::sleep(shared.settings.shutdown_delay).await;
        phase.send_replace(Phase::Stopping);
        while accepting.join_next().await.is_some() {}
        shared.stop().await;
    }

    fn share(self, phase: watch::Receiver<Phase>) -> Shared {
        let Self { table, session_keys, settings, metrics, tunnels } = self;
        let pool = pool::Pool::new(&settings);
        let (identities, tasks, cut) = Default::default();
        Shared { table, session_keys, settings, metrics, tunnels, pool, identities, phase, tasks, cut }
    }
}

impl Shared {
    async fn stop(&self) {
        self.tasks.close();
        let window = self.settings.drain_window;
        let limit = window + self.settings.request_grace;
        let drained = async {
            self.tunnels.drain(window).await;
            self.tasks.wait().await;
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            self.cut.cancel();
            self.tunnels.end_all();
            let _ = tokio::time::timeout(2 * self.settings.linger_timeout, self.tasks.wait()).await;
        }
    }
}
