//! The tunnels that are open, so that they can be listed, and ended when the process stops.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::task::AtomicWaker;
use tokio::{sync::Notify, time::Instant};

use crate::{metrics::Direction, table::ObjectName};

/// An open tunnel, as others see it.
#[derive(Debug)]
pub struct TunnelHandle {
    /// Its number in this process.
    pub id: u64,
    /// The route that it belongs to.
    pub route: ObjectName,
    /// The rule of that route.
    pub rule: Arc<str>,
    /// The Service of its endpoint.
    pub service: ObjectName,
    /// The name of its endpoint.
    pub endpoint: Arc<str>,
    /// The address of its client.
    pub client: IpAddr,
    /// When it was opened.
    pub since: SystemTime,
    bytes: [AtomicU64; 2],
    frames: [AtomicU64; 2],
    ending: AtomicBool,
    waker: AtomicWaker,
}

impl TunnelHandle {
    /// Bytes passed on so far.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Ordering::Relaxed)
    }

    /// Frames passed on so far, as far as the peers keep the rules.
    #[must_use]
    pub fn frames(&self, direction: Direction) -> u64 {
        self.frames[direction as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, direction: Direction, bytes: u64, frames: u64) {
        self.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
        self.frames[direction as usize].fetch_add(frames, Ordering::Relaxed);
    }

    /// Ready once the tunnel is to end.
    pub(super) fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.ending.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// What a tunnel is known by.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct TunnelNames {
    pub route: ObjectName,
    pub rule: Arc<str>,
    pub service: ObjectName,
    pub endpoint: Arc<str>,
    pub client: IpAddr,
}

#[derive(Debug, Default)]
struct Open {
    handles: HashMap<u64, Arc<TunnelHandle>>,
    /// Whether those that open from now on are to end at once.
    ending: bool,
}

/// The open tunnels of a process.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: Mutex<Open>,
    next: AtomicU64,
    changed: Notify,
}

impl Tunnels {
    /// The tunnels that are open now, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<TunnelHandle>> {
        let mut open: Vec<_> = self.lock().handles.values().cloned().collect();
        open.sort_unstable_by_key(|tunnel| tunnel.id);
        open
    }

    /// How many are open now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().handles.len()
    }

    /// Waits until so many are open.
    pub async fn wait_for(&self, reached: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(self.count()) {
                return;
            }
            changed.await;
        }
    }

    /// Takes a tunnel in, until what is returned is dropped.
    pub(super) fn register(self: &Arc<Self>, names: TunnelNames) -> Registered {
        let TunnelNames { route, rule, service, endpoint, client } = names;
        let handle = Arc::new(TunnelHandle {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            route,
            rule,
            service,
            endpoint,
            client,
            since: SystemTime::now(),
            bytes: Default::default(),
            frames: Default::default(),
            ending: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let mut open = self.lock();
        if open.ending {
            handle.end();
        }
        open.handles.insert(handle.id, handle.clone());
        drop(open);
        self.changed.notify_waiters();
        Registered { tunnels: self.clone(), handle }
    }

    /// Ends all tunnels, each at a random moment of the window, so that clients do not come back all at once; those
    /// that open meanwhile end with the last, and those that open later at once.
    pub(in crate::proxy) async fn drain(&self, window: Duration) {
        let start = Instant::now();
        let moment = |_: &Arc<TunnelHandle>| window.mul_f64(fastrand::f64());
        let mut ends: Vec<_> = self.list().into_iter().map(|tunnel| (moment(&tunnel), tunnel)).collect();
        ends.sort_unstable_by_key(|(moment, _)| *moment);
        for (moment, tunnel) in ends {
            tokio::time::sleep_until(start + moment).await;
            tunnel.end();
        }
        self.end_all();
    }

    /// Ends all tunnels now, and from now on.
    pub(in crate::proxy) fn end_all(&self) {
        let mut open = self.lock();
        open.ending = true;
        open.handles.values().for_each(|tunnel| tunnel.end());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().expect("no holder panics")
    }
}

/// A tunnel's place among the open ones.
#[derive(Debug)]
pub(super) struct Registered {
    tunnels: Arc<Tunnels>,
    pub handle: Arc<TunnelHandle>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.tunnels.lock().handles.remove(&self.handle.id);
        self.tunnels.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn names() -> TunnelNames {
        let object = ObjectName::new("shop", "chat");
        TunnelNames {
            route: object.clone(),
            rule: "main".into(),
            service: object,
            endpoint: "chat-0".into(),
            client: Ipv4Addr::LOCALHOST.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn draining_spreads_the_ends_over_the_window() {
        let tunnels = Arc::new(Tunnels::default());
        let start = Instant::now();
        let ends = (0..200).map(|_| {
            let registered = tunnels.register(names());
            tokio::spawn(async move {
                std::future::poll_fn(|cx| registered.handle.poll_ending(cx)).await;
                start.elapsed().as_secs()
            })
        });
        let ends: Vec<_> = ends.collect();
        assert_eq!(tunnels.count(), 200);
        tunnels.drain(Duration::from_secs(60)).await;
        tunnels.wait_for(|open| open == 0).await;
        let ends: Vec<u64> = futures::future::join_all(ends).await.into_iter().map(Result::unwrap).collect();
        for third in [0..20, 20..40, 40..61] {
            let count = ends.iter().filter(|end| third.contains(*end)).count();
            assert!((30..110).contains(&count), "{count} of 200 ended in {third:?}");
        }
    }

    #[tokio::test]
    async fn tunnels_that_open_behind_the_drain_end_at_once() {
        let tunnels = Arc::new(Tunnels::default());
        tunnels.drain(Duration::ZERO).await;
        // None waits for the end of another.
        let late = [(); 2].map(|()| tunnels.register(names()));
        for registered in &late {
            let told = std::future::poll_fn(|cx| Poll::Ready(registered.handle.poll_ending(cx))).await;
            assert!(told.is_ready());
        }
    }

    #[test]
    fn a_tunnel_is_listed_while_it_is_registered() {
        let tunnels = Arc::new(Tunnels::default());
        let registered = tunnels.register(names());
        registered.handle.count(Direction::ToClient, 5, 1);
        assert_eq!(tunnels.list()[0].bytes(Direction::ToClient), 5);
        drop(registered);
        assert!(tunnels.list().is_empty());
    }
}
