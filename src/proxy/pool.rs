//! Connections to backends for plain requests, kept for the next one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Handle, time::Instant};

use super::{
    body::Body,
    dial::{DialError, dial},
    error::Refusal,
    settings::Settings,
};
use crate::table::{Endpoint, EndpointId, ObjectName};

/// How hyper speaks to backends.
pub(super) fn client() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).title_case_headers(true).max_buf_size(256 * 1024).max_headers(200);
    builder
}

/// Unused connections to endpoints, by the endpoint's identity and addresses: what one has got no other may use.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    keep: Duration,
    per_endpoint: usize,
    /// For what outlives a borrow: leases, and the task that closes what nobody took.
    own: Weak<Self>,
}

#[derive(Debug, Default)]
struct Idle {
    connections: HashMap<Key, Vec<(Instant, SendRequest<Body>)>>,
    swept: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(EndpointId, Box<[std::net::SocketAddr]>);

impl Key {
    fn of(endpoint: &Endpoint) -> Self {
        Self(endpoint.id.clone(), endpoint.addresses.clone())
    }
}

impl Pool {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            idle: Mutex::default(),
            keep: settings.pool_idle_timeout,
            per_endpoint: settings.pool_idle_per_endpoint,
            own: own.clone(),
        })
    }

    /// A connection that was used before and, as far as can be told, still lives. The one used last comes first.
    pub(super) fn take(&self, endpoint: &Endpoint) -> Option<Lease> {
        let key = Key::of(endpoint);
        let mut idle = self.lock();
        let connections = idle.connections.get_mut(&key)?;
        while let Some((since, sender)) = connections.pop() {
            if since.elapsed() < self.keep && sender.is_ready() {
                return Some(Lease { sender: Some(sender), key, pool: self.own.clone() });
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn connect(&self, endpoint: &Endpoint, limit: Option<Duration>) -> Result<Lease, DialError> {
        let stream: TcpStream = dial(endpoint, limit).await?;
        let (sender, connection) = client().handshake(TokioIo::new(stream)).await.map_err(|_| DialError::Failed)?;
        tokio::spawn(connection);
        Ok(Lease { sender: Some(sender), key: Key::of(endpoint), pool: self.own.clone() })
    }

    fn put(&self, key: Key, sender: SendRequest<Body>) {
        let mut idle = self.lock();
        let connections = idle.connections.entry(key).or_default();
        if connections.len() < self.per_endpoint {
            connections.push((Instant::now(), sender));
        }
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(self.own.clone(), self.keep));
        }
    }

    /// Closes what is too old. Returns whether anything is left.
    fn expire(&self) -> bool {
        let mut idle = self.lock();
        let now = Instant::now();
        idle.connections.retain(|_, connections| {
            connections.retain(|(since, sender)| now.duration_since(*since) < self.keep && !sender.is_closed());
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

/// A connection in use. It goes back to the pool when it is dropped, if it can be used again.
#[derive(Debug)]
pub(super) struct Lease {
    sender: Option<SendRequest<Body>>,
    key: Key,
    pool: Weak<Pool>,
}

impl Lease {
    /// The connection, to send a request.
    pub(super) fn sender(&mut self) -> &mut SendRequest<Body> {
        self.sender.as_mut().expect("a lease has its connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut sender), Some(pool)) = (self.sender.take(), self.pool.upgrade()) else { return };
        let key = self.key.clone();
        if sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            return pool.put(key, sender);
        }
        // The end of an answer is told before the connection is ready for the next request.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), sender.ready()).await {
                    pool.put(key, sender);
                }
            });
        }
    }
}

/// What is answered when no endpoint of a Service could be reached.
pub(super) fn unreachable(last: &DialError, service: &ObjectName) -> Refusal {
    match last {
        DialError::TimedOut => Refusal::ConnectTimeout(service.clone()),
        DialError::Failed => Refusal::Unreachable(service.clone()),
    }
}
