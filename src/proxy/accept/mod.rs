//! Connections from clients: listeners, TLS with certificates selected by SNI, and connection limits.

pub mod listen;
mod tls;
pub(crate) mod workers;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::tls::Identities;
use crate::proxy::{bounds::clients::Clients, shared::Shared, upstream::pool::Pool};

/// Accepts and serves connections on one thread.
#[derive(Clone)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    /// The pool of this thread: waking another thread for a response would cost more than a new connection.
    pool: Arc<Pool>,
    identities: Arc<Identities>,
    /// The number of connections of each client.
    clients: Arc<Clients>,
    /// Closes the connections that have not ended in time.
    cut: CancellationToken,
}

impl Acceptor {
    /// Creates one for each of `count` threads.
    pub(crate) fn for_threads(count: usize, shared: &Arc<Shared>, cut: &CancellationToken) -> Vec<Arc<Self>> {
        let settings = &shared.settings;
        let clients = Clients::new(settings.max_connections_per_client, settings.max_connections);
        let identities = Arc::<Identities>::default();
        let acceptor = |_| {
            let (shared, identities, clients, cut) = (shared.clone(), identities.clone(), clients.clone(), cut.clone());
            Arc::new(Self { pool: Pool::new(&shared.settings), shared, identities, clients, cut })
        };
        (0..count).map(acceptor).collect()
    }
}
