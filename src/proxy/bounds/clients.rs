//! How many connections each client address has open: a limit for one address, and a warning when one has most of them.
//!
//! Connections to the public listeners are counted from the moment they are accepted to their end, tunnels included, by
//! the address of the peer; an IPv6 client is its /64, which is what one customer gets. An address is known only while
//! it has connections.

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

/// So many that threads which accept at the same time rarely wait for one another.
const SHARDS: usize = 64;
/// A map this small keeps its room.
const SMALL: usize = 64;
/// Fewer connections of one address are nothing to warn of, however few the others have.
const MANY: usize = 1000;
/// How often the warning may be repeated.
const WARNING_INTERVAL: Duration = Duration::from_secs(3600);
/// How often connections over the limit are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The connections of all threads, by client address.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Connections that one address may have; 0 means no limit.
    limit: u32,
    /// From how many connections on one address is worth a warning.
    many: usize,
    hasher: foldhash::fast::RandomState,
    shards: [Mutex<Shard>; SHARDS],
    majority: Majority,
    over_limit: Mutex<OverLimit>,
}

type Shard = HashMap<Client, u32, foldhash::fast::RandomState>;

/// A client address in 8 bytes: the network part of an IPv6 address, or an IPv4 address behind 32 ones. The latter are
/// multicast addresses (`ff00::/8`) when read as IPv6, which no connection comes from.
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

/// The place of one connection in the count of its address, until it is dropped.
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
        // What a flood of addresses took is given back.
        if shard.capacity() > SMALL && shard.len() * 4 < shard.capacity() {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }
}

/// A connection that is over the limit of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Clients {
    /// `limit` is how many connections one address may have, 0 for any number; `max_connections` is the limit of all.
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

    /// Counts a connection from an address; `all` is how many connections there are in all.
    ///
    /// # Errors
    /// When the address has as many as it may have.
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

    /// Logs a connection that was refused: one line in a second, at the level debug.
    pub(crate) fn log_refusal(&self, address: IpAddr) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(unlogged) = lock(&self.over_limit).line(Instant::now())
        {
            let limit = self.limit;
            tracing::debug!(%address, limit, unlogged, "connection refused: over --max-connections-per-client");
        }
    }

    /// How many connections the client has with this one.
    fn count(&self, client: Client) -> Result<usize, TooMany> {
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_default();
        // An entry at the limit is not new, so it stays.
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

/// Which client has more than half of all connections, as far as was seen when it opened its last one.
#[derive(Debug, Default)]
struct Majority {
    /// Its [`Client`]; 0, the network of the unspecified address, is nobody.
    client: AtomicU64,
    warned: Mutex<Option<Instant>>,
}

impl Majority {
    /// Whether to warn: the client had no majority before, and the last warning is long ago.
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

/// Refusals since the last line about them.
#[derive(Debug, Default)]
struct OverLimit {
    last: Option<Instant>,
    unlogged: u64,
}

impl OverLimit {
    /// How many went unlogged before this one, when it is time for a line.
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
