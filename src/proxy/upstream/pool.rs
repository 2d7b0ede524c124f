//! Connections to backends for plain requests, kept for reuse.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{runtime::Handle, time::Instant};

use super::{
    dial::{DialError, dial},
    restoring::Restoring,
};
use crate::{
    proxy::{
        body::{
            Body,
            meter::{LARGE_READ, Meter, Tap, Tapped},
        },
        request::retarget::{NextTarget, Retarget},
        settings::Settings,
    },
    table::{Endpoint, EndpointId},
};

/// The maximum number of fields in the head of a response.
pub(super) const MAX_FIELDS: usize = 200;
/// The maximum length of a response head in bytes.
pub(super) const MAX_HEAD: usize = LARGE_READ;

/// hyper's settings for backends. The buffer bounds heads, and how much of a body may be read at once: see [`Tapped`].
pub(crate) fn client() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).title_case_headers(true).max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
    builder
}

/// Unused connections to endpoints, by identity and addresses: a connection to one endpoint is never used for another.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
    keep: Duration,
    per_endpoint: usize,
    /// For leases and the task that closes unused connections, which outlive a borrow.
    own: Weak<Self>,
}

#[derive(Debug, Default)]
struct Idle {
    connections: HashMap<PoolKey, Vec<Kept>>,
    swept: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PoolKey(EndpointId, Box<[std::net::SocketAddr]>);

impl PoolKey {
    fn of(endpoint: &Endpoint) -> Self {
        Self(endpoint.id.clone(), endpoint.addresses.clone())
    }
}

/// A connection as hyper provides it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Body>,
    next_target: NextTarget,
    /// Selects the meter that limits reads.
    tap: Tap,
}

/// An unused connection.
#[derive(Debug)]
struct Kept {
    since: Instant,
    connection: Connection,
}

impl Pool {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            idle: Mutex::default(),
            keep: settings.pool_idle_timeout,
            per_endpoint: settings.pool_idle_per_endpoint,
            own: own.clone(),
        })
    }

    /// A connection that was used before and, as far as is known, is still open. The most recently used one comes
    /// first.
    pub(crate) fn take(&self, endpoint: &Endpoint) -> Option<Lease> {
        let key = PoolKey::of(endpoint);
        let mut idle = self.lock();
        let connections = idle.connections.get_mut(&key)?;
        while let Some(Kept { since, connection }) = connections.pop() {
            if since.elapsed() < self.keep && connection.sender.is_ready() {
                return Some(self.lease(key, connection));
            }
        }
        None
    }

    /// A new connection.
    pub(crate) async fn connect(&self, endpoint: &Endpoint, limit: Option<Duration>) -> Result<Lease, DialError> {
        let stream = dial(endpoint, limit).await?;
        let next_target = NextTarget::default();
        let tap = Tap::default();
        let stream = Tapped::new(Restoring::new(stream, next_target.clone()), tap.clone());
        let (sender, connection) = client().handshake(TokioIo::new(stream)).await.map_err(|_| DialError::Failed)?;
        tokio::spawn(connection);
        Ok(self.lease(PoolKey::of(endpoint), Connection { sender, next_target, tap }))
    }

    fn lease(&self, key: PoolKey, connection: Connection) -> Lease {
        Lease { connection: Some(connection), key, home: Home::Pool(self.own.clone()) }
    }

    fn put(&self, key: PoolKey, connection: Connection) {
        let mut idle = self.lock();
        let connections = idle.connections.entry(key).or_default();
        if connections.len() < self.per_endpoint {
            connections.push(Kept { since: Instant::now(), connection });
        }
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(self.own.clone(), self.keep));
        }
    }

    /// Closes expired connections. Returns whether any are left.
    fn expire(&self) -> bool {
        let mut idle = self.lock();
        let now = Instant::now();
        let is_fresh =
            |kept: &mut Kept| now.duration_since(kept.since) < self.keep && !kept.connection.sender.is_closed();
        idle.connections.retain(|_, connections| {
            connections.retain_mut(is_fresh);
            !connections.is_empty()
        });
        idle.swept = !idle.connections.is_empty();
        idle.swept
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().expect("no holder panics")
    }
}

/// Runs while there are unused connections.
async fn sweep(pool: Weak<Pool>, keep: Duration) {
    loop {
        tokio::time::sleep(keep / 4).await;
        match pool.upgrade() {
            Some(pool) if pool.expire() => {}
            _ => return,
        }
    }
}

/// The connection with a backend that belongs to one client's connection: the backend identifies the client by it,
/// since NTLM and Negotiate authenticate connections, not requests (RFC 4559 §6). It closes with the client's.
#[derive(Debug, Default)]
pub(crate) struct Pinned(Mutex<Option<(PoolKey, Connection)>>);

impl Pinned {
    /// The endpoint that it is connected to.
    pub(crate) fn endpoint(&self) -> Option<EndpointId> {
        self.lock().as_ref().map(|(key, _)| key.0.clone())
    }

    /// The connection, if it leads to this endpoint and is still open.
    pub(crate) fn take(self: &Arc<Self>, endpoint: &Endpoint) -> Option<Lease> {
        let mut pinned = self.lock();
        let (key, connection) = pinned.take_if(|(key, _)| *key == PoolKey::of(endpoint))?;
        let home = Home::Client(Arc::downgrade(self));
        connection.sender.is_ready().then(|| Lease { connection: Some(connection), key, home })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(PoolKey, Connection)>> {
        self.0.lock().expect("no holder panics")
    }
}

/// Where a reusable connection returns to.
#[derive(Clone, Debug)]
enum Home {
    /// The pool, for any request.
    Pool(Weak<Pool>),
    /// The client that it belongs to.
    Client(Weak<Pinned>),
}

impl Home {
    fn put(&self, key: PoolKey, connection: Connection) {
        match self {
            Self::Pool(pool) => {
                if let Some(pool) = pool.upgrade() {
                    pool.put(key, connection);
                }
            }
            Self::Client(client) => {
                if let Some(client) = client.upgrade() {
                    *client.lock() = Some((key, connection));
                }
            }
        }
    }
}

/// A connection in use. When dropped, it is returned, if it can be reused.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Option<Connection>,
    key: PoolKey,
    home: Home,
}

impl Lease {
    /// The sender for a request.
    pub(crate) fn sender(&mut self) -> &mut SendRequest<Body> {
        &mut self.connection.as_mut().expect("a lease has its connection until it is dropped").sender
    }

    /// How to write the target of the next request.
    pub(crate) fn set_target(&self, retarget: Option<Retarget>) {
        if let Some(connection) = &self.connection {
            connection.next_target.set(retarget);
        }
    }

    /// From now on, this meter limits reads of responses.
    pub(crate) fn read_by(&self, meter: Option<Arc<Meter>>) {
        if let Some(connection) = &self.connection {
            connection.tap.set(meter);
        }
    }

    /// From now on, the connection belongs to this client.
    pub(crate) fn pin(&mut self, client: &Arc<Pinned>) {
        self.home = Home::Client(Arc::downgrade(client));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let (key, home) = (self.key.clone(), self.home.clone());
        connection.tap.set(None);
        if connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            return home.put(key, connection);
        }
        // The end of a response is reported before the connection is ready for the next request.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), connection.sender.ready()).await {
                    home.put(key, connection);
                }
            });
        }
    }
}
