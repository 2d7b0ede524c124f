//! The load: clients in threads of this process, and echo backends in separate processes.

mod client;
pub(crate) mod echo;
mod frame;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio::{
    runtime::LocalRuntime,
    sync::{Semaphore, watch},
    time::sleep_until,
};

pub(crate) use client::{Message, Plain, Target, Tunnel, tls};

/// Concurrent handshakes per thread.
const OPENING: usize = 32;
/// Time limit for opening all tunnels of a load.
const PATIENCE: Duration = Duration::from_secs(90);

/// The behaviour of each client.
#[derive(Clone, Copy)]
pub(crate) enum Pattern {
    /// Sends the next message when the last one has been echoed.
    Echo,
    /// Sends a message at this interval, or as soon as the last one has been echoed.
    Paced(Duration),
    /// Opens and closes repeatedly; with or without TLS resumption.
    Reconnect { resumed: bool },
    /// Opens, exchanges one message, and is silent. Reconnects on command.
    Hold,
    /// Sends frames as fast as possible, without any replies.
    Flood(Flood),
    /// Sends plain requests, each after the previous response.
    Get,
}

/// The content of a flood.
#[derive(Clone, Copy)]
pub(crate) enum Flood {
    /// Frames of 256 KiB.
    Large,
    /// Empty fragments.
    Tiny,
}

/// A load to start.
pub(crate) struct Plan {
    pub target: Target,
    pub pattern: Pattern,
    pub clients: usize,
    pub message: usize,
    pub threads: usize,
}

/// Commands to the clients.
#[derive(Clone, Copy, Default)]
struct Orders {
    is_recording: bool,
    generation: usize,
    is_over: bool,
}

/// The results while recording.
#[derive(Default)]
pub(crate) struct Stats {
    /// The duration of each unit of work.
    pub times: Vec<Duration>,
    /// Handshakes in which TLS was resumed.
    pub resumed: usize,
}

impl Stats {
    /// The duration in microseconds at this percentile.
    pub(crate) fn percentile(&mut self, percent: usize) -> f64 {
        self.times.sort_unstable();
        let rank = (self.times.len() * percent).div_ceil(100);
        self.times.get(rank.max(1) - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// A running load.
pub(crate) struct Load {
    orders: watch::Sender<Orders>,
    opened: Arc<AtomicUsize>,
    clients: usize,
    threads: Vec<JoinHandle<anyhow::Result<Stats>>>,
}

impl Load {
    /// Starts it, and waits until every client has a tunnel.
    pub(crate) fn start(plan: Plan) -> anyhow::Result<Self> {
        let (orders, received) = watch::channel(Orders::default());
        let opened = Arc::<AtomicUsize>::default();
        let plan = Arc::new(plan);
        let start = |thread| {
            let (plan, opened, received) = (Arc::clone(&plan), Arc::clone(&opened), received.clone());
            thread::spawn(move || clients(&plan, thread, &opened, &received))
        };
        let threads = (0..plan.threads).map(start).collect();
        let load = Self { orders, opened, clients: plan.clients, threads };
        load.wait(1)?;
        Ok(load)
    }

    fn wait(&self, times: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.opened.load(Ordering::Relaxed) < self.clients * times {
            ensure!(start.elapsed() < PATIENCE, "{} tunnels have opened", self.opened.load(Ordering::Relaxed));
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Ok(()); // The end says why.
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Starts recording.
    pub(crate) fn record(&self) {
        self.orders.send_modify(|orders| orders.is_recording = true);
    }

    /// Makes every holding client reconnect, and waits until all have.
    pub(crate) fn reconnect(&self) -> anyhow::Result<()> {
        self.orders.send_modify(|orders| orders.generation += 1);
        self.wait(self.orders.borrow().generation + 1)
    }

    /// Stops recording; the clients continue.
    pub(crate) fn pause(&self) {
        self.orders.send_modify(|orders| orders.is_recording = false);
    }

    /// Closes every tunnel, and returns the results.
    pub(crate) fn end(self) -> anyhow::Result<Stats> {
        self.orders.send_modify(|orders| orders.is_over = true);
        let mut all = Stats::default();
        for thread in self.threads {
            let stats = thread.join().expect("a client does not panic")?;
            all.times.extend(stats.times);
            all.resumed += stats.resumed;
        }
        Ok(all)
    }
}

/// A runtime for one thread, so that no client waits for another thread's lock.
pub(crate) fn runtime() -> anyhow::Result<LocalRuntime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?)
}

fn clients(
    plan: &Arc<Plan>,
    thread: usize,
    opened: &Arc<AtomicUsize>,
    orders: &watch::Receiver<Orders>,
) -> anyhow::Result<Stats> {
    runtime()?.block_on(async {
        let stats = Rc::<RefCell<Stats>>::default();
        let (opening, message) = (Rc::new(Semaphore::new(OPENING)), Rc::new(Message::of(plan.message)));
        let start = Instant::now();
        let clients: Vec<_> = (thread..plan.clients)
            .step_by(plan.threads)
            .map(|number| Client {
                plan: Arc::clone(plan),
                target: match plan.pattern {
                    Pattern::Reconnect { resumed: true } => plan.target.resuming(),
                    _ => plan.target.clone(),
                },
                start: start + spread(plan, number),
                message: Rc::clone(&message),
                opening: Rc::clone(&opening),
                opened: Arc::clone(opened),
                orders: orders.clone(),
                stats: Rc::clone(&stats),
                session: None,
            })
            .map(|client| tokio::task::spawn_local(client.run()))
            .collect();
        for client in clients {
            client.await.expect("a client does not panic")?;
        }
        Ok(stats.take())
    })
}

/// Paced clients are staggered.
fn spread(plan: &Plan, number: usize) -> Duration {
    match plan.pattern {
        Pattern::Paced(every) => every.mul_f64(number as f64 / plan.clients as f64),
        _ => Duration::ZERO,
    }
}

struct Client {
    plan: Arc<Plan>,
    target: Target,
    start: Instant,
    message: Rc<Message>,
    opening: Rc<Semaphore>,
    opened: Arc<AtomicUsize>,
    orders: watch::Receiver<Orders>,
    stats: Rc<RefCell<Stats>>,
    session: Option<Session>,
}

struct Session {
    cookie: String,
    backend: String,
}

impl Client {
    async fn run(mut self) -> anyhow::Result<()> {
        match self.plan.pattern {
            Pattern::Echo => self.echo().await,
            Pattern::Paced(every) => self.paced(every).await,
            Pattern::Reconnect { .. } => self.reconnect().await,
            Pattern::Hold => self.hold().await,
            Pattern::Flood(flood) => self.flood(flood).await,
            Pattern::Get => self.get().await,
        }
    }

    async fn echo(&mut self) -> anyhow::Result<()> {
        let mut tunnel = self.open().await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        while !self.is_over() {
            let start = Instant::now();
            tunnel.exchange(&self.message).await?;
            self.record(start);
        }
        tunnel.close().await;
        Ok(())
    }

    async fn paced(&mut self, every: Duration) -> anyhow::Result<()> {
        let mut tunnel = self.open().await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let mut due = self.start;
        while !self.is_over() {
            due += every;
            // A message delayed by the previous one counts from when it was due; otherwise, a late timer is not the
            // proxy's fault.
            let start = if due > Instant::now() {
                sleep_until(due.into()).await;
                Instant::now()
            } else {
                due
            };
            tunnel.exchange(&self.message).await?;
            self.record(start);
        }
        tunnel.close().await;
        Ok(())
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        while !self.is_over() {
            let start = Instant::now();
            let tunnel = self.open().await?;
            self.record(start);
            tunnel.close().await;
        }
        Ok(())
    }

    async fn flood(&mut self, flood: Flood) -> anyhow::Result<()> {
        let mut tunnel = self.open().await?;
        let frames = match flood {
            Flood::Large => frame::masked(&vec![0; 256 * 1024], [0x5a, 0xc3, 0x17, 0x88]),
            Flood::Tiny => {
                tunnel.send(&frame::first_fragment()).await?;
                frame::fragments(256 * 1024)
            }
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        while !self.is_over() {
            let start = Instant::now();
            tunnel.send(&frames).await?;
            self.record(start);
        }
        Ok(())
    }

    async fn get(&mut self) -> anyhow::Result<()> {
        let mut connection = Plain::open(&self.target, None).await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        while !self.is_over() {
            let start = Instant::now();
            connection.exchange().await?;
            self.record(start);
        }
        Ok(())
    }

    async fn hold(&mut self) -> anyhow::Result<()> {
        loop {
            let start = Instant::now();
            let mut tunnel = self.open().await?;
            tunnel.exchange(&self.message).await?;
            self.record(start);
            self.opened.fetch_add(1, Ordering::Relaxed);
            let generation = self.orders.borrow().generation;
            let orders = *self.orders.wait_for(|orders| orders.is_over || orders.generation > generation).await?;
            tunnel.close().await;
            if orders.is_over {
                return Ok(());
            }
        }
    }

    /// Opens a tunnel within the previous one's session.
    async fn open(&mut self) -> anyhow::Result<Tunnel> {
        let _permit = self.opening.acquire().await?;
        let cookie = self.session.as_ref().map(|session| session.cookie.as_str());
        let tunnel = Tunnel::open(&self.target, cookie).await?;
        if let Some(Session { backend, .. }) = &self.session {
            ensure!(*backend == tunnel.backend, "the session went to another backend");
        } else if let Some(cookie) = tunnel.cookie.clone() {
            self.session = Some(Session { cookie, backend: tunnel.backend.clone() });
        }
        if tunnel.is_resumed && self.orders.borrow().is_recording {
            self.stats.borrow_mut().resumed += 1;
        }
        Ok(tunnel)
    }

    fn is_over(&self) -> bool {
        self.orders.borrow().is_over
    }

    fn record(&self, start: Instant) {
        if self.orders.borrow().is_recording {
            self.stats.borrow_mut().times.push(start.elapsed());
        }
    }
}

/// The position of some bytes.
fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

/// A header field; its name in lower case.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (there, value) = line.split_once(':')?;
        there.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}
