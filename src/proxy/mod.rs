//! The proxy: connections with clients on one side, with backends on the other.
//!
//! The parts, each of which uses only those below it:
//!
//! - `accept`: listeners, TLS with certificates selected by SNI, connection limits
//! - `http`: heads in and out, by our own codec for a handshake that arrives whole, by hyper for the rest
//! - `upstream`: dialling, the pool, the exchange with a backend
//! - `request`: what happens to every request, however it arrived
//! - `tunnel`: the bytes of a WebSocket connection, from its 101 to its end
//! - `body`, `transport`, `bounds`, `fields`: the building blocks of the others
//!
//! A client that closes its half after a request still gets the response (hyper's `half_close`); `http::client_io`
//! detects those that are gone.

mod accept;
mod body;
mod bounds;
mod fields;
mod http;
mod request;
mod settings;
mod shared;
mod transport;
mod tunnel;
mod upstream;

use std::{io, iter, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    accept::listen::{self, Listener, Scheme},
    fields::protected::ProtectedFields,
    settings::Settings,
    tunnel::{Cause, Closer, Ending, Selector, TunnelEnd, TunnelHandle, Tunnels, frames},
};
use self::{
    accept::{Acceptor, workers::Workers},
    shared::{ServingPhase, Shared},
};
use crate::{
    metrics::Metrics,
    table::{CurrentTable, SessionKeys},
};

/// The proxy, with everything that it works with.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The table, which its owner replaces.
    pub table: Arc<CurrentTable>,
    /// The keys for session tokens, which their owner replaces.
    pub session_keys: Arc<ArcSwap<SessionKeys>>,
    /// The settings for all connections.
    pub settings: Settings,
    /// The metrics that it records.
    pub metrics: Arc<Metrics>,
    /// The open tunnels.
    pub tunnels: Arc<Tunnels>,
}

impl Proxy {
    /// Serves until `shutdown` is ready, then stops in an orderly way: keeps accepting for the shutdown delay, but asks
    /// clients to close; stops accepting; lets requests in flight finish, and ends tunnels, spread over the drain
    /// window.
    ///
    /// # Errors
    /// If the threads cannot be started. Nothing has been served then.
    pub async fn run(self, listeners: Vec<Listener>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let (phase, receiver) = watch::channel(ServingPhase::Serving);
        let shared = self.share(receiver);
        let cut = CancellationToken::new();
        let workers = Workers::start(self.settings.threads, self.settings.held_per_thread)?;
        let acceptors = Acceptor::for_threads(workers.len(), &shared, &cut);
        let mut accepting = tokio::task::JoinSet::new();
        let more = workers.len() - 1;
        for listener in listeners {
            let sockets = (0..more).map(|_| listener.another()).collect::<io::Result<Vec<_>>>()?;
            // Including the first socket: clients may be waiting there.
            let sockets = iter::once(listener).chain(sockets);
            for ((thread, acceptor), listener) in workers.iter().zip(&acceptors).zip(sockets) {
                let _entered = thread.enter();
                accepting.spawn_on(listen::accept(acceptor.clone(), listener.move_here()?), thread);
            }
        }
        shutdown.await;
        phase.send_replace(ServingPhase::Leaving);
        tokio::time::sleep(self.settings.shutdown_delay).await;
        phase.send_replace(ServingPhase::Stopping);
        while accepting.join_next().await.is_some() {}
        self.end(&shared.tasks, &cut).await;
        workers.stop();
        Ok(())
    }

    fn share(&self, phase: watch::Receiver<ServingPhase>) -> Arc<Shared> {
        let Self { table, session_keys, settings, metrics, tunnels } = self.clone();
        let (throttle, tasks) = Default::default();
        Arc::new(Shared { table, session_keys, settings, metrics, tunnels, phase, throttle, tasks })
    }

    /// Ends what is open, spread over the drain window.
    async fn end(&self, tasks: &TaskTracker, cut: &CancellationToken) {
        tasks.close();
        let window = self.settings.drain_window;
        // A request may take its grace, and a tunnel that ends last needs time for the closing handshake.
        let grace = self.settings.request_grace.max(2 * self.settings.close_timeout + self.settings.linger_timeout);
        let drained = async {
            self.tunnels.drain(window, Ending::SHUTDOWN).await;
            tasks.wait().await;
        };
        if tokio::time::timeout(window + grace, drained).await.is_err() {
            cut.cancel();
            self.tunnels.drain(Duration::ZERO, Ending::SHUTDOWN).await;
            let _ = tokio::time::timeout(2 * self.settings.linger_timeout, tasks.wait()).await;
        }
    }
}
