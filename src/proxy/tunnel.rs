//! A tunnel: the bytes of one WebSocket connection, from its 101 to its end.
//!
//! It holds no table and nothing that pins one, since it may live for days.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use super::{
    clock::{Clock, TunnelLimits},
    end::{Cause, Closer, TunnelEnd},
    registry::{Registered, TunnelNames, Tunnels},
    relay::{Failure, Flow},
    stream::{self, ClientStream},
};
use crate::{
    observe::{Direction, Metrics, TunnelClose},
    table::InUse,
};

/// What a tunnel is opened with once the client has its 101.
#[derive(Debug)]
pub(super) struct Opening {
    pub backend: TcpStream,
    /// What the backend sent right after its 101.
    pub early: bytes::Bytes,
    pub names: TunnelNames,
    pub limits: TunnelLimits,
    pub in_use: InUse,
}

/// A tunnel that is registered and counted, and that is to be run.
pub(super) struct Tunnel {
    client: ClientStream,
    backend: TcpStream,
    to_backend: Flow,
    to_client: Flow,
    broken: Broken,
    clock: Clock,
    /// How long its connections may take to close.
    linger: Duration,
    accounts: Accounts,
}

/// The sides whose connections are of no more use.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    client: bool,
    backend: bool,
    /// What that makes of the end.
    end: Option<(Closer, Cause)>,
}

/// Who has to know of it, dropped in this order: when it is listed no more, it is counted nowhere.
struct Accounts {
    _in_use: InUse,
    metrics: Arc<Metrics>,
    registered: Registered,
    opened: Instant,
    closed: bool,
}

impl Tunnel {
    /// Opens a tunnel: from here on it is listed and counted, before anything runs it.
    pub(super) fn open(
        tunnels: &Arc<Tunnels>,
        metrics: Arc<Metrics>,
        client: ClientStream,
        early: &[u8],
        opening: Opening,
    ) -> Self {
        let Opening { backend, early: from_backend, names, limits, in_use } = opening;
        metrics.tunnel_opened(&names.route, &names.service, &names.endpoint);
        let registered = tunnels.register(names);
        log_open(&registered);
        let clock = Clock::new(limits);
        Self {
            client,
            backend,
            to_backend: Flow::starting_with(early),
            to_client: Flow::starting_with(&from_backend),
            broken: Broken::default(),
            linger: limits.linger,
            accounts: Accounts { _in_use: in_use, metrics, registered, opened: clock.opened, closed: false },
            clock,
        }
    }

    /// Passes bytes on until the end, and accounts for it.
    pub(super) async fn run(mut self) -> TunnelEnd {
        let (closer, cause) = poll_fn(|cx| self.poll(cx)).await;
        // Boxed, so that the end takes no room before it comes.
        Box::pin(self.finish(closer, cause)).await
    }

    async fn finish(self, closer: Closer, cause: Cause) -> TunnelEnd {
        let client_done = self.broken.client || (self.to_backend.has_ended() && self.to_client.is_closed());
        let backend_done = self.broken.backend || (self.to_client.has_ended() && self.to_backend.is_closed());
        let Self { client, backend, linger, accounts, .. } = self;
        let end = accounts.close(closer, cause);
        // Also where the other side has broken: else what this one has not read yet could be lost.
        let close_client = async move {
            if !client_done {
                stream::close(client, linger).await;
            }
        };
        let close_backend = async move {
            if !backend_done {
                stream::close(backend, linger).await;
            }
        };
        tokio::join!(close_client, close_backend);
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Closer, Cause)> {
        if self.accounts.registered.handle.poll_ending(cx).is_ready() {
            return Poll::Ready((Closer::Proxy, Cause::Shutdown));
        }
        let mut moved = false;
        let to_client = self.poll_to_client(cx, &mut moved);
        self.note_first_end(Closer::Backend);
        let to_backend = self.poll_to_backend(cx, &mut moved);
        self.note_first_end(Closer::Client);
        if self.is_over(to_backend, to_client) {
            return Poll::Ready(self.broken.end.unwrap_or_else(|| self.closed()));
        }
        // What still had to be passed on after a break was not taken in time: the break is the cause all the same.
        self.clock.poll(cx, moved).map(|cause| self.broken.end.unwrap_or((Closer::Proxy, cause)))
    }

    /// Whether nothing is left to do: what a side said before it broke has to arrive at the other.
    fn is_over(&self, to_backend: Poll<()>, to_client: Poll<()>) -> bool {
        (self.broken.backend || to_backend.is_ready()) && (self.broken.client || to_client.is_ready())
    }

    fn closed(&self) -> (Closer, Cause) {
        (self.clock.first_end.unwrap_or(Closer::Proxy), Cause::Closed)
    }

    fn poll_to_backend(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<()> {
        loop {
            let Self { client, backend, to_backend, accounts, .. } = self;
            let mut count = |bytes| accounts.count(Direction::ToBackend, bytes, moved);
            match ready!(to_backend.poll(cx, Pin::new(client), Pin::new(backend), &mut count)) {
                Ok(()) => return Poll::Ready(()),
                Err(Failure::Reader) => self.note_break(Closer::Client, Cause::Reset),
                Err(Failure::Writer) => self.note_break(Closer::Backend, cause_of_deafness(&self.to_client)),
            }
        }
    }

    fn poll_to_client(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<()> {
        loop {
            let Self { client, backend, to_client, accounts, .. } = self;
            let mut count = |bytes| accounts.count(Direction::ToClient, bytes, moved);
            match ready!(to_client.poll(cx, Pin::new(backend), Pin::new(client), &mut count)) {
                Ok(()) => return Poll::Ready(()),
                Err(Failure::Reader) => self.note_break(Closer::Backend, Cause::Reset),
                Err(Failure::Writer) => self.note_break(Closer::Client, cause_of_deafness(&self.to_backend)),
            }
        }
    }

    /// One side is of no more use, which also starts the time that the other has to take what was said before.
    fn note_break(&mut self, side: Closer, cause: Cause) {
        self.clock.note_end(side);
        let end = if cause == Cause::Closed { self.closed() } else { (side, cause) };
        self.broken.end.get_or_insert(end);
        *(if side == Closer::Client { &mut self.broken.client } else { &mut self.broken.backend }) = true;
    }

    fn note_first_end(&mut self, side: Closer) {
        let flow = if side == Closer::Client { &self.to_backend } else { &self.to_client };
        if flow.has_ended() {
            self.clock.note_end(side);
        }
    }
}

/// What it means that a side takes nothing: who has closed need not take what is still sent. `said` is what it says.
fn cause_of_deafness(said: &Flow) -> Cause {
    if said.has_ended() { Cause::Closed } else { Cause::Reset }
}

impl Accounts {
    fn count(&self, direction: Direction, bytes: usize, moved: &mut bool) {
        let bytes = bytes as u64;
        *moved |= bytes > 0;
        self.registered.handle.count(direction, bytes);
        self.metrics.bytes(direction, bytes);
    }

    fn close(mut self, closer: Closer, cause: Cause) -> TunnelEnd {
        self.settle(closer, cause)
    }

    fn settle(&mut self, closer: Closer, cause: Cause) -> TunnelEnd {
        self.closed = true;
        let (handle, duration) = (&self.registered.handle, self.opened.elapsed());
        let close = TunnelClose { closer: closer.as_str(), cause: cause.as_str(), duration };
        self.metrics.tunnel_closed(&handle.route, &handle.service, &handle.endpoint, close);
        let bytes = |direction| handle.bytes(direction);
        let (bytes_to_backend, bytes_to_client) = (bytes(Direction::ToBackend), bytes(Direction::ToClient));
        let end = TunnelEnd { closer, cause, duration, bytes_to_backend, bytes_to_client };
        log_close(&self.registered, &end);
        end
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        // A tunnel that was never run to its end: its task went with the runtime.
        if !self.closed {
            self.settle(Closer::Proxy, Cause::Shutdown);
        }
    }
}

fn log_open(registered: &Registered) {
    let tunnel = &registered.handle;
    tracing::info!(
        tunnel = tunnel.id,
        route = %tunnel.route,
        rule = %tunnel.rule,
        endpoint = %tunnel.endpoint,
        client = %tunnel.client,
        "tunnel opened"
    );
}

fn log_close(registered: &Registered, end: &TunnelEnd) {
    let tunnel = &registered.handle;
    tracing::info!(
        tunnel = tunnel.id,
        route = %tunnel.route,
        rule = %tunnel.rule,
        endpoint = %tunnel.endpoint,
        client = %tunnel.client,
        closer = end.closer.as_str(),
        cause = end.cause.as_str(),
        duration_seconds = end.duration.as_secs_f64(),
        bytes_to_backend = end.bytes_to_backend,
        bytes_to_client = end.bytes_to_client,
        "tunnel closed"
    );
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::table::{EndpointState, ObjectName, Timeouts};

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (connected, accepted) = tokio::join!(connect, listener.accept());
        (connected.unwrap(), accepted.unwrap().0)
    }

    fn opening(backend: TcpStream, early: Vec<u8>) -> Opening {
        let object = ObjectName::new("shop", "chat");
        let names = TunnelNames {
            route: object.clone(),
            rule: "main".into(),
            service: object,
            endpoint: "chat-0".into(),
            client: Ipv4Addr::LOCALHOST.into(),
        };
        let seconds = Duration::from_secs;
        let limits = TunnelLimits::new(&Timeouts::default(), seconds(60), seconds(1));
        Opening { backend, early: early.into(), names, limits, in_use: Arc::new(EndpointState::default()).enter() }
    }

    #[tokio::test]
    async fn what_the_backend_said_before_it_reset_arrives_although_the_client_still_talks() {
        let ((mut client, accepted), (dialled, backend)) = (connected().await, connected().await);
        // More than the sockets hold, so that some is still ours when the backend is gone.
        let early = vec![7; 32 << 20];
        let (length, opening) = (early.len(), opening(dialled, early));
        let (tunnels, metrics) = (Arc::default(), Arc::default());
        let tunnel = Tunnel::open(&tunnels, metrics, ClientStream::Plain(accepted), b"talk", opening);
        backend.set_zero_linger().unwrap();
        drop(backend);
        client.write_all(&vec![1; 100_000]).await.unwrap();
        let tunnel = tokio::spawn(tunnel.run());
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert!(received.len() == length, "{} of {length} bytes", received.len());
        drop(client);
        let end = tunnel.await.unwrap();
        assert_eq!((end.closer, end.cause), (Closer::Backend, Cause::Reset));
    }

    #[tokio::test]
    async fn a_tunnel_that_is_dropped_is_no_longer_counted() {
        let ((_client, accepted), (dialled, _backend)) = (connected().await, connected().await);
        let (tunnels, metrics) = (Arc::default(), Arc::<Metrics>::default());
        let open = || metrics.encode().contains(r#"tunnels_open{namespace="shop",route="chat"} 1"#);
        let client = ClientStream::Plain(accepted);
        let tunnel = Tunnel::open(&tunnels, metrics.clone(), client, b"", opening(dialled, Vec::new()));
        assert!(open());
        drop(tunnel);
        assert!(!open() && !metrics.encode().contains("endpoint=\"chat-0\""));
        assert_eq!(tunnels.count(), 0);
    }

    #[test]
    fn a_tunnel_is_small() {
        fn size<T: Future>(_: impl FnOnce(Tunnel) -> T) -> usize {
            size_of::<T>()
        }
        assert!(size(Tunnel::run) <= 768, "{} bytes", size(Tunnel::run));
    }
}
