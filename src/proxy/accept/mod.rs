//! Connections from clients: listening, TLS by SNI, and how many there may be.

pub mod listen;
mod tls;
pub(crate) mod workers;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::tls::Identities;
use crate::proxy::{bounds::clients::Clients, shared::Shared, upstream::pool::Pool};

/// What accepts and serves connections on one thread.
#[derive(Clone)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    /// Of this thread: an answer that another thread would have to be woken for is worth less than a new connection.
    pool: Arc<Pool>,
    identities: Arc<Identities>,
    /// Who has how many of the connections.
    clients: Arc<Clients>,
    /// Cuts the connections that did not end in time.
    cut: CancellationToken,
}

impl Acceptor {
    /// One for each of this many threads.
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
