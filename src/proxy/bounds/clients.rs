//! How many connections each client address has open: a limit for each address, and a warning if one has most of them.
//!
//! Connections to the public listeners are counted by the peer's address from accept to end, including tunnels; an IPv6
//! client is its /64, which is what one customer gets. An address is remembered only while it has connections.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Enough that threads that accept at the same time rarely contend for a lock.
const SHARDS: usize = 64;
/// The capacity up to which a map is not shrunk.
const SMALL: usize = 64;
/// The number of connections up to which one address causes no warning, however few the others have.
const MANY: usize = 1000;
/// How often the warning may be repeated.
const WARNING_INTERVAL: Duration = Duration::from_secs(3600);
/// How often connections over the limit are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The connections of all threads, by client address.
#[derive(Debug)]
pub(crate) struct Clients {
    /// The limit for one address; 0 means no limit.
    limit: u32,
    /// The number of connections above which an address may cause a warning.
    many: usize,
    hasher: foldhash::fast::RandomState,
    shards: [Mutex<Shard>; SHARDS],
    majority: Majority,
    over_limit: Mutex<OverLimit>,
}

type Shard = HashMap<Client, u32, foldhash::fast::RandomState>;

/// A client address in 8 bytes: the network part of an IPv6 address, or an IPv4 address after 32 one bits. Read as
/// IPv6, the latter are multicast addresses (`ff00::/8`), from which no connection comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client(u64);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(u32::MAX) << 32 | u64::from(u32::from(address))),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self([a, b, c, d].into_iter().fold(0, |network, part| network << 16 | u64::from(part)))
            }
        }
    }
}

/// One connection in the count of its address, until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    clients: Arc<Clients>,
    client: Client,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shard = self.clients.shard(self.client);
        match shard.get_mut(&self.client) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(shard.remove(&self.client)),
        }
        // Release the memory that a flood of addresses has occupied.
        if shard.capacity() > SMALL && shard.len() * 4 < shard.capacity() {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }
}

/// The address has reached its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Clients {
    /// `limit` is how many connections one address may have, 0 for no limit; `max_connections` is the limit for all
    /// addresses together.
    pub(crate) fn new(limit: u32, max_connections: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            many: MANY.min(max_connections / 10),
            hasher: foldhash::fast::RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            majority: Majority::default(),
            over_limit: Mutex::default(),
        })
    }

    /// Counts a connection from an address; `all` is the total number of connections.
    ///
    /// # Errors
    /// If the address has reached its limit.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, all: usize) -> Result<Seat, TooMany> {
        let client = Client::from(address);
        let open = self.count(client)?;
        let seat = Seat { clients: self.clone(), client };
        let has_most = open > self.many && open.saturating_mul(2) > all;
        if self.majority.begins(client, has_most, Instant::now) {
            tracing::warn!(
                %address, connections = open, of = all,
                "one client address holds more than half of all connections: if it is a load balancer or proxy, add it \
                 to --trusted-proxies; otherwise --max-connections-per-client limits it"
            );
        }
        Ok(seat)
    }

    /// Logs a refused connection at debug level, at most once per second.
    pub(crate) fn log_refusal(&self, address: IpAddr) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(unlogged) = lock(&self.over_limit).line(Instant::now())
        {
            let limit = self.limit;
            tracing::debug!(%address, limit, unlogged, "connection refused: over --max-connections-per-client");
        }
    }

    /// The number of connections of the client, including this one.
    fn count(&self, client: Client) -> Result<usize, TooMany> {
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_default();
        // An entry at the limit is not new, so nothing was inserted.
        if self.limit > 0 && *open >= self.limit {
            return Err(TooMany);
        }
        *open += 1;
        Ok(*open as usize)
    }

    fn shard(&self, client: Client) -> MutexGuard<'_, Shard> {
        // The upper bits, since the maps use the lower ones.
        let index = self.hasher.hash_one(client) >> 58;
        lock(&self.shards[usize::try_from(index).expect("six bits are left")])
    }
}

/// The client with more than half of all connections, as of its last new connection.
#[derive(Debug, Default)]
struct Majority {
    /// Its [`Client`]; 0, the network of the unspecified address, means none.
    client: AtomicU64,
    warned: Mutex<Option<Instant>>,
}

impl Majority {
    /// Whether to warn: the client had no majority before, and the last warning was long enough ago.
    fn begins(&self, client: Client, has_most: bool, now: impl FnOnce() -> Instant) -> bool {
        let is_known = self.client.load(Ordering::Relaxed) == client.0;
        if has_most == is_known {
            return false;
        }
        self.client.store(if has_most { client.0 } else { 0 }, Ordering::Relaxed);
        has_most && {
            let now = now();
            let mut warned = lock(&self.warned);
            let is_due = warned.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
            if is_due {
                *warned = Some(now);
            }
            is_due
        }
    }
}

/// Refusals since the last log line.
#[derive(Debug, Default)]
struct OverLimit {
    last: Option<Instant>,
    unlogged: u64,
}

impl OverLimit {
    /// If a line is due, the number of refusals that were not logged before this one.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            self.unlogged += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests;
