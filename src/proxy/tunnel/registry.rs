//! The open tunnels, so that they can be listed, and ended from outside.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::task::AtomicWaker;
use tokio::{
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::Instant,
};

use super::ending::{Ending, Selector};
use crate::{
    metrics::Direction,
    table::{Endpoint, ObjectName, RouteState, TableChange},
};

/// An open tunnel, as seen from outside.
#[derive(Debug)]
pub struct TunnelHandle {
    /// Its number in this process.
    pub id: u64,
    /// The route that it belongs to.
    pub route: Arc<RouteState>,
    /// The rule of that route.
    pub rule: Arc<str>,
    /// The Service of its endpoint.
    pub service: ObjectName,
    /// Its endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The address of its client.
    pub client: IpAddr,
    /// When it was opened.
    pub since: SystemTime,
    bytes: [AtomicU64; 2],
    frames: [AtomicU64; 2],
    /// Why it is being ended, once it is.
    ending: OnceLock<Ending>,
    waker: AtomicWaker,
}

impl TunnelHandle {
    /// Bytes forwarded so far.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Ordering::Relaxed)
    }

    /// Frames forwarded so far, up to a protocol violation by a peer.
    #[must_use]
    pub fn frames(&self, direction: Direction) -> u64 {
        self.frames[direction as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, direction: Direction, bytes: u64, frames: u64) {
        self.bytes[direction as usize].fetch_add(bytes, Ordering::Relaxed);
        self.frames[direction as usize].fetch_add(frames, Ordering::Relaxed);
    }

    /// Ready once the tunnel is being ended.
    pub(super) fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.waker.register(cx.waker());
        self.ending().map_or(Poll::Pending, Poll::Ready)
    }

    /// Why the tunnel is being ended, if it is.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending.get().copied()
    }

    /// Ends the tunnel, unless it is ending already.
    fn end(&self, ending: Ending) {
        if self.ending.set(ending).is_ok() {
            self.waker.wake();
        }
    }
}

/// The two ends of a tunnel, and its route.
#[derive(Clone, Debug)]
pub(crate) struct TunnelOrigin {
    pub route: Arc<RouteState>,
    pub rule: Arc<str>,
    pub service: ObjectName,
    pub endpoint: Arc<Endpoint>,
    pub client: IpAddr,
}

#[derive(Debug, Default)]
struct Open {
    handles: HashMap<u64, Arc<TunnelHandle>>,
    /// Why tunnels that open from now on end at once, if they do.
    ending: Option<Ending>,
}

/// The open tunnels of a process.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: Mutex<Open>,
    next: AtomicU64,
    changed: Notify,
    /// Who is told about new tables.
    listeners: Mutex<Vec<UnboundedSender<Arc<TableChange>>>>,
}

impl Tunnels {
    /// The tunnels that are open now, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<TunnelHandle>> {
        let mut open: Vec<_> = self.lock().handles.values().cloned().collect();
        open.sort_unstable_by_key(|tunnel| tunnel.id);
        open
    }

    /// The number of open tunnels.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().handles.len()
    }

    /// Waits until the number of open tunnels satisfies `reached`.
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

    /// Announces that a new table is served. `change` is called only if there are listeners.
    pub fn table_changed(&self, change: impl FnOnce() -> TableChange) {
        let mut listeners = self.listeners.lock().expect("no holder panics");
        listeners.retain(|listener| !listener.is_closed());
        if listeners.is_empty() {
            return;
        }
        let change = Arc::new(change());
        for listener in &*listeners {
            // A listener that has just closed needs no message.
            let _ = listener.send(change.clone());
        }
    }

    /// Subscribes to changes of the table.
    pub fn table_changes(&self) -> UnboundedReceiver<Arc<TableChange>> {
        let (sender, receiver) = unbounded_channel();
        self.listeners.lock().expect("no holder panics").push(sender);
        receiver
    }

    /// Registers a tunnel until the result is dropped.
    pub(super) fn register(self: &Arc<Self>, origin: TunnelOrigin) -> Registered {
        let TunnelOrigin { route, rule, service, endpoint, client } = origin;
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
            ending: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        let mut open = self.lock();
        if let Some(ending) = open.ending {
            handle.end(ending);
        }
        open.handles.insert(handle.id, handle.clone());
        drop(open);
        self.changed.notify_waiters();
        Registered { tunnels: self.clone(), handle }
    }

    /// Ends tunnels, spread evenly over a time and in no particular order, so that their clients do not all reconnect
    /// at once. Every tunnel that is ended by neither its peers nor its own limits ends in this way. Tunnels that open
    /// meanwhile are not affected.
    ///
    /// Returns how many were told to end, which takes a moment longer.
    pub async fn end(&self, selector: &Selector, spread: Duration, ending: Ending) -> usize {
        let mut selected = self.list();
        selected.retain(|tunnel| selector.selects(tunnel));
        fastrand::shuffle(&mut selected);
        let (start, count) = (Instant::now(), selected.len());
        let share = f64::from(u32::try_from(count).unwrap_or(u32::MAX)).recip();
        for (place, tunnel) in (1_u32..).zip(selected) {
            tokio::time::sleep_until(start + spread.mul_f64(share * f64::from(place))).await;
            tunnel.end(ending);
        }
        count
    }

    /// Ends all tunnels over a time, and after that all new ones at once.
    pub(crate) async fn drain(&self, window: Duration, ending: Ending) {
        self.end(&Selector::All, window, ending).await;
        let mut open = self.lock();
        open.ending = Some(ending);
        open.handles.values().for_each(|tunnel| tunnel.end(ending));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().expect("no holder panics")
    }
}

/// A tunnel's registration.
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
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        proxy::tunnel::Cause,
        table::{EndpointId, Phase},
    };

    pub(in crate::proxy::tunnel) fn endpoint(name: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            id: EndpointId::new(&ObjectName::new("shop", "chat"), 80, &name),
            name: name.into(),
            addresses: Box::new([([127, 0, 0, 1], 80).into()]),
            phase: Phase::Ready,
            state: Arc::default(),
        })
    }

    fn origin() -> TunnelOrigin {
        let object = ObjectName::new("shop", "chat");
        TunnelOrigin {
            route: object.clone().into(),
            rule: "main".into(),
            service: object,
            endpoint: endpoint("chat-0"),
            client: Ipv4Addr::LOCALHOST.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_are_spread_evenly() {
        let tunnels = Arc::new(Tunnels::default());
        let start = Instant::now();
        let ends = (0..200).map(|_| {
            let registered = tunnels.register(origin());
            tokio::spawn(async move {
                std::future::poll_fn(|cx| registered.handle.poll_ending(cx)).await;
                start.elapsed().as_secs()
            })
        });
        let ends: Vec<_> = ends.collect();
        assert_eq!(tunnels.count(), 200);
        assert_eq!(tunnels.end(&Selector::All, Duration::from_secs(50), Ending::SHUTDOWN).await, 200);
        tunnels.wait_for(|open| open == 0).await;
        let ends: Vec<u64> = futures::future::join_all(ends).await.into_iter().map(Result::unwrap).collect();
        for second in 0..50 {
            let count = ends.iter().filter(|end| **end == second).count();
            assert!(count <= 5, "{count} of 200 in second {second}, 4 on average");
        }
    }

    #[tokio::test]
    async fn only_the_selected_tunnels_end_and_the_first_ending_counts() {
        let tunnels = Arc::new(Tunnels::default());
        let registered = ["chat-0", "chat-1"].map(|name| {
            let rule = Arc::from(if name == "chat-0" { "main" } else { "other" });
            tunnels.register(TunnelOrigin { endpoint: endpoint(name), rule, ..origin() })
        });
        let [first, second] = registered.each_ref().map(|registered| registered.handle.clone());
        let gone = Ending { cause: Cause::Idle, code: 1001, reason: "gone" };
        let rule = |name: &str| Selector::Rule { route: first.route.name.clone(), rule: name.into() };
        let none = [
            Selector::Tunnel(7),
            Selector::Route(ObjectName::new("shop", "other")),
            rule("none"),
            Selector::Endpoint(EndpointId::new(&ObjectName::new("shop", "chat"), 80, &"chat-2")),
            Selector::Client([192, 0, 2, 1].into()),
        ];
        for selector in &none {
            assert_eq!(tunnels.end(selector, Duration::ZERO, gone).await, 0, "{selector:?}");
        }
        for selector in [Selector::Tunnel(first.id), rule("main"), Selector::Endpoint(first.endpoint.id.clone())] {
            assert_eq!(tunnels.end(&selector, Duration::ZERO, gone).await, 1, "{selector:?}");
        }
        assert_eq!((first.ending(), second.ending()), (Some(gone), None));
        for selector in [Selector::All, Selector::Route(first.route.name.clone()), Selector::Client(first.client)] {
            assert_eq!(tunnels.end(&selector, Duration::ZERO, Ending::SHUTDOWN).await, 2, "{selector:?}");
        }
        assert_eq!((first.ending(), second.ending()), (Some(gone), Some(Ending::SHUTDOWN)));
    }

    #[tokio::test]
    async fn tunnels_that_open_behind_the_drain_end_at_once() {
        let tunnels = Arc::new(Tunnels::default());
        tunnels.drain(Duration::ZERO, Ending::SHUTDOWN).await;
        // None waits for the end of another.
        let late = [(); 2].map(|()| tunnels.register(origin()));
        for registered in &late {
            let told = std::future::poll_fn(|cx| Poll::Ready(registered.handle.poll_ending(cx))).await;
            assert!(told.is_ready());
        }
    }

    #[tokio::test]
    async fn tunnels_of_an_endpoint_that_drains_can_be_ended_when_the_table_says_so() {
        let tunnels = Arc::new(Tunnels::default());
        tunnels.table_changed(|| unreachable!("nobody listens"));
        let mut changes = tunnels.table_changes();
        let registered =
            ["chat-0", "chat-1"].map(|name| tunnels.register(TunnelOrigin { endpoint: endpoint(name), ..origin() }));
        let draining = vec![registered[0].handle.endpoint.id.clone()];
        tunnels.table_changed(|| TableChange { endpoints_draining: draining, ..TableChange::default() });
        for endpoint in &changes.recv().await.unwrap().endpoints_draining {
            tunnels.end(&Selector::Endpoint(endpoint.clone()), Duration::ZERO, Ending::SHUTDOWN).await;
        }
        let ending = registered.each_ref().map(|registered| registered.handle.ending().is_some());
        assert_eq!(ending, [true, false]);
        drop(changes);
        tunnels.table_changed(|| unreachable!("nobody listens any more"));
    }

    #[test]
    fn a_tunnel_is_listed_while_it_is_registered() {
        let tunnels = Arc::new(Tunnels::default());
        let registered = tunnels.register(origin());
        registered.handle.count(Direction::ToClient, 5, 1);
        assert_eq!(tunnels.list()[0].bytes(Direction::ToClient), 5);
        drop(registered);
        assert!(tunnels.list().is_empty());
    }
}
