//! Users: each holds a socket, sends messages all the time, and reconnects with its cookie when it closes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::interval};

use crate::{
    socket::{Ended, Site, Socket},
    support::{block_on, eventually, spawn},
};

/// How often each user sends a message.
const BEAT: Duration = Duration::from_millis(200);

/// All users.
pub(crate) struct Fleet {
    users: Vec<User>,
    stop: Arc<AtomicBool>,
}

struct User {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    site: Site,
    pod: String,
    heard: Heard,
}

/// What users have observed since the last call.
#[derive(Default)]
pub(crate) struct Heard {
    /// Messages that were echoed.
    pub(crate) echoes: usize,
    /// The longest round trip.
    pub(crate) slowest: Duration,
    /// Sockets that closed, and what came next.
    pub(crate) ends: Vec<End>,
    /// Failed connection attempts.
    pub(crate) refusals: Vec<String>,
}

/// The end of a user's socket, and the user's next pod.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// How it ended.
    pub(crate) how: Ended,
    /// When.
    pub(crate) at: Instant,
    /// The pod it was connected to.
    pub(crate) from: String,
    /// The pod of the next socket.
    pub(crate) to: String,
    /// Time until the next pod's greeting.
    pub(crate) gap: Duration,
}

impl Fleet {
    /// Opens this many sockets to an address.
    pub(crate) fn start(count: usize, at: SocketAddr, site: &Site) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let users = (0..count).map(|_| {
            let socket = block_on(Socket::open(at, site, None)).expect("sockets can be opened");
            let state = State { site: site.clone(), pod: socket.pod.clone(), heard: Heard::default() };
            let state = Arc::new(Mutex::new(state));
            let task = spawn(live(Arc::clone(&state), Arc::clone(&stop), at, socket));
            User { state, task }
        });
        Self { users: users.collect(), stop }
    }

    /// The number of users.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// From now on, new sockets use this site.
    pub(crate) fn visit(&self, site: &Site) {
        for user in &self.users {
            lock(&user.state).site = site.clone();
        }
    }

    /// Observations since the last call.
    pub(crate) fn heard(&self) -> Heard {
        self.users.iter().fold(Heard::default(), |mut all, user| {
            let Heard { echoes, slowest, ends, refusals } = std::mem::take(&mut lock(&user.state).heard);
            all.echoes += echoes;
            all.slowest = all.slowest.max(slowest);
            all.ends.extend(ends);
            all.refusals.extend(refusals);
            all
        })
    }

    /// The number of sockets with each pod.
    pub(crate) fn by_pod(&self) -> BTreeMap<String, usize> {
        self.users.iter().fold(BTreeMap::new(), |mut pods, user| {
            *pods.entry(lock(&user.state).pod.clone()).or_default() += 1;
            pods
        })
    }

    /// The pods that have sockets.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        self.by_pod().into_keys().collect()
    }

    /// Waits until every user has got an echo on a socket that is open now.
    pub(crate) fn all_echo(&self) {
        let before: Vec<_> = self.users.iter().map(|user| lock(&user.state).heard.echoes).collect();
        eventually(|| {
            let silent =
                self.users.iter().zip(&before).filter(|(user, before)| lock(&user.state).heard.echoes < **before + 2);
            match silent.count() {
                0 => Ok(()),
                silent => Err(format!("{silent} users hear nothing")),
            }
        });
    }

    /// Closes all sockets cleanly.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users {
            block_on(user.task).expect("users do not panic");
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn live(state: Arc<Mutex<State>>, stop: Arc<AtomicBool>, at: SocketAddr, mut socket: Socket) {
    let mut beat = interval(BEAT);
    for number in 0_u64.. {
        beat.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        match socket.echo(&format!("message {number}")).await {
            Ok(()) => {
                let heard = &mut lock(&state).heard;
                heard.echoes += 1;
                heard.slowest = heard.slowest.max(sent.elapsed());
            }
            Err(how) => socket = come_back(&state, at, &socket, how).await,
        }
    }
    socket.close().await.expect("the proxy answers a Close");
}

/// Reconnects with the cookie, at once and for as long as it takes.
async fn come_back(state: &Mutex<State>, at: SocketAddr, ended: &Socket, how: Ended) -> Socket {
    let end = Instant::now();
    loop {
        let site = lock(state).site.clone();
        match Socket::open(at, &site, ended.cookie.as_deref()).await {
            Ok(socket) => {
                let mut state = lock(state);
                let from = std::mem::replace(&mut state.pod, socket.pod.clone());
                let to = socket.pod.clone();
                state.heard.ends.push(End { how, at: end, from, to, gap: end.elapsed() });
                return socket;
            }
            Err(refusal) => lock(state).heard.refusals.push(refusal),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
