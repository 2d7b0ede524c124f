//! The admin port: probes, metrics, and the current routes and tunnels. Read-only.
//!
//! Its clients can only use what `AdminLimits` allows. A separate thread accepts connections and answers probes, and
//! never does anything slow or waits for a lock; slow responses, metrics and the API, are rendered by a second thread
//! (`render`), once for all clients that are waiting.

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

/// Lists the problems of the files that routes come from, each as `file:line: field: message`.
pub type FileProblems = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The content of the admin port.
#[derive(Clone)]
pub struct Admin {
    /// Whether requests should be sent here.
    pub ready: Arc<Readiness>,
    /// Renders the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The verdicts on the routes.
    pub reports: tokio::sync::watch::Receiver<Report>,
    /// The problems of the files that routes come from.
    pub file_problems: FileProblems,
    /// The open tunnels.
    pub tunnels: OpenTunnels,
    /// The tokens that give remote clients access to the API, if any.
    pub tokens: Option<Arc<ArcSwap<ApiTokens>>>,
}

/// Limits for clients of the admin port.
#[derive(Clone, Copy, Debug)]
pub struct AdminLimits {
    /// How many connections may be open. A further one replaces another.
    pub connections: usize,
    /// Time limit for the head of a request, from the start of the connection.
    pub head: Duration,
    /// Time limit for a connection: the head, the rendering, and the client's reading of the response.
    pub exchange: Duration,
    /// How many bytes of responses may wait for slow clients before rendering pauses: for metrics, routes and tunnels
    /// each. The response that exceeds the limit is still sent.
    pub unread: usize,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(5), exchange: Duration::from_secs(30), unread: 16 << 20 }
    }
}

/// Whether requests should be sent to this process: after the first table is published, and until it stops.
#[derive(Debug, Default)]
pub struct Readiness {
    published: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// The first table was published.
    pub fn published(&self) {
        self.published.store(true, Ordering::Release);
    }

    /// The process is stopping.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Err("stopping\n")
        } else if self.published.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("no routing table yet: waiting for the initial list of every kind\n")
        }
    }
}

impl Admin {
    /// Serves on its own threads until the process ends.
    ///
    /// # Errors
    /// If the threads cannot be started.
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
                // A copy, because publishers of reports wait for readers.
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
