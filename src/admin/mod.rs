//! The admin port: probes, metrics, and what is served now. Read-only.
//!
//! Whoever reaches it can cost the process only what `AdminLimits` allows. A thread of its own accepts connections and
//! answers probes, and nothing it runs takes long or waits for a lock; what takes time, which is metrics and the API, is
//! written by a second thread (`render`), once for all who wait for it.

mod access;
mod answers;
mod render;
mod routes;
mod seats;
mod server;
mod tokens;
mod tunnels;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Serialize;

use self::{answers::Answers, render::AdminDocument};
pub use tokens::{ApiTokens, TokenFileError};
pub use tunnels::{EachWay, OpenTunnel, OpenTunnels};

use crate::source::Report;

/// Lists what is wrong with the files that routes come from, each as `file:line: field: message`.
pub type FileProblems = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// Whether requests should be sent here.
    pub ready: Arc<Readiness>,
    /// Writes the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What became of the routes.
    pub reports: tokio::sync::watch::Receiver<Report>,
    /// What is wrong with the files that routes come from.
    pub file_problems: FileProblems,
    /// The tunnels that are open.
    pub tunnels: OpenTunnels,
    /// What opens the API to clients that are not on this machine, if anything does.
    pub tokens: Option<Arc<ArcSwap<ApiTokens>>>,
}

/// What clients of the admin port may use.
#[derive(Clone, Copy, Debug)]
pub struct AdminLimits {
    /// How many connections may be open. One more takes the place of another.
    pub connections: usize,
    /// How long the head of a request may take, from the start of the connection.
    pub head: Duration,
    /// How long a connection may last: the head, the rendering, and the client's reading of the response.
    pub exchange: Duration,
    /// How many bytes of responses may wait for clients that read slowly before nothing more is rendered: for metrics,
    /// routes and tunnels each. The response that goes over it is still sent.
    pub unread: usize,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(5), exchange: Duration::from_secs(30), unread: 16 << 20 }
    }
}

/// Whether requests should be sent to this process: not before the first table is published, not once it stops.
#[derive(Debug, Default)]
pub struct Readiness {
    published: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// The first table is published.
    pub fn published(&self) {
        self.published.store(true, Ordering::Release);
    }

    /// The process is to stop.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Err("stopping\n")
        } else if self.published.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("no routing table yet: waiting for the first list of every kind\n")
        }
    }
}

impl Admin {
    /// Serves on threads of its own until the process ends.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn start(self, listener: std::net::TcpListener, limits: AdminLimits) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ready, tokens) = (self.ready.clone(), self.tokens.clone());
        let renderer = render::start(limits.unread, move |document| self.render(document))?;
        let answers = Arc::new(Answers { ready, tokens, renderer });
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let serve = move || runtime.block_on(server::run(listener, answers, limits));
        thread::Builder::new().name("admin".into()).spawn(serve).map(drop)
    }

    fn render(&self, document: &AdminDocument) -> String {
        match document {
            AdminDocument::Metrics => (self.metrics)(),
            AdminDocument::Routes => {
                // A copy, since whoever publishes a report waits for those who look at it.
                let report = self.reports.borrow().clone();
                json(&routes::describe(&report, (self.file_problems)()))
            }
            AdminDocument::Tunnels(filter) => json(&tunnels::list((self.tunnels)(), filter)),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a value of strings and numbers has a JSON form") + "\n"
}
