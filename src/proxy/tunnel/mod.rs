//! A tunnel: the bytes of one WebSocket connection, from its 101 to its end.
//!
//! It holds no table and nothing that keeps one alive, since it may live for days. While nothing is in flight, it holds
//! no buffer either: `docs/performance.md` lists what it consists of.
//!
//! Each [`side`] is read into a buffer of the thread; [`frames`] finds the frame boundaries in it, and it is forwarded
//! to the other side within the same poll. [`pinger`] and [`clock`] determine what is due although nothing has arrived;
//! [`closing`] ends a tunnel that the proxy ends.

mod clock;
mod closing;
mod end;
mod ending;
pub mod frames;
mod pinger;
mod registry;
mod side;
mod turn;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

pub(super) use clock::TunnelLimits;
pub use end::{Cause, Closer, TunnelEnd};
pub use ending::{Ending, Selector};
pub(super) use registry::TunnelOrigin;
pub use registry::{TunnelHandle, Tunnels};

use self::{
    clock::Clock,
    closing::{Farewell, Heard},
    frames::{Extensions, Opcode, Sender},
    pinger::{Action, Pinger},
    registry::Registered,
    side::{Failure, Passed, SeenClose, Side, poll_pass},
};
use crate::{
    metrics::{Direction, Metrics, TunnelClose},
    proxy::transport::stream::{self, Stream},
    table::{InUse, Keepalive, Pings},
};

/// What is needed to open a tunnel once the client has its 101.
pub(super) struct Opening {
    pub backend: Stream,
    /// The extensions negotiated in the 101.
    pub extensions: Extensions,
    pub origin: TunnelOrigin,
    pub limits: TunnelLimits,
    pub keepalive: Keepalive,
    pub in_use: InUse,
}

/// A tunnel that is registered and counted, ready to run.
pub(super) struct Tunnel {
    client: Side,
    backend: Side,
    broken: Broken,
    clock: Clock,
    /// Created when there is something to wait for, and reset when it fires rather than at each byte.
    timer: Option<Pin<Box<Sleep>>>,
    first_close: Option<Closer>,
    accounts: Accounts,
}

/// The sides whose connections cannot be used any more.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    client: bool,
    backend: bool,
    /// How the tunnel ends because of that.
    end: Option<Outcome>,
}

/// Who ended a tunnel, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    closer: Closer,
    cause: Cause,
}

/// Everything that counts the tunnel, dropped in this order: once it is no longer listed, it is not counted anywhere.
struct Accounts {
    _in_use: InUse,
    metrics: Arc<Metrics>,
    registered: Registered,
    opened: Instant,
    closed: bool,
}

fn pinger(pings: Option<Pings>, now: Instant) -> Option<Box<Pinger>> {
    let mut first = [0; 8];
    let pings = pings?;
    // Random, so that no peer can claim to have been pinged.
    aws_lc_rs::rand::fill(&mut first).ok()?;
    Some(Box::new(Pinger::new(pings, u64::from_be_bytes(first), now)))
}

impl Tunnel {
    /// Opens a tunnel: from here on it is listed and counted, before anything runs it.
    pub(super) fn open(tunnels: &Arc<Tunnels>, metrics: Arc<Metrics>, client: Stream, opening: Opening) -> Self {
        let Opening { backend, extensions, origin, limits, keepalive, in_use } = opening;
        metrics.tunnel_opened(&origin.route, &origin.service, &origin.endpoint);
        let registered = tunnels.register(origin);
        log_open(&registered);
        let now = Instant::now();
        Self {
            client: Side::new(client, Sender::Client, extensions, pinger(keepalive.client, now)),
            backend: Side::new(backend, Sender::Server, extensions, pinger(keepalive.backend, now)),
            broken: Broken::default(),
            clock: Clock::new(limits, now),
            timer: None,
            first_close: None,
            accounts: Accounts { _in_use: in_use, metrics, registered, opened: now, closed: false },
        }
    }

    /// Forwards bytes until the end, and records it.
    pub(super) fn run(self) -> Running {
        Running::Passing(self)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Poll::Ready(Ending { cause, .. }) = self.accounts.registered.handle.poll_ending(cx) {
            return Poll::Ready(Outcome { closer: Closer::Proxy, cause });
        }
        let now = Instant::now();
        let to_client = self.poll_direction(cx, Direction::ToClient, now);
        let to_backend = self.poll_direction(cx, Direction::ToBackend, now);
        if self.is_over(to_backend, to_client) {
            return Poll::Ready(self.broken.end.filter(|_| !self.said_goodbye()).unwrap_or_else(|| self.closed()));
        }
        self.poll_times(cx, now)
    }

    /// Whether nothing is left to do: what a side sent before it broke must still reach the other. After a complete
    /// closing handshake, the server's end is enough (RFC 6455 §7.1.1).
    fn is_over(&self, to_backend: Poll<()>, to_client: Poll<()>) -> bool {
        if self.said_goodbye() && self.backend.has_ended() && to_client.is_ready() {
            return true;
        }
        (self.broken.backend || to_backend.is_ready()) && (self.broken.client || to_client.is_ready())
    }

    /// Whether the closing handshake is complete. It then does not matter how the connections end.
    fn said_goodbye(&self) -> bool {
        self.client.close.is_some() && self.backend.close.is_some()
    }

    fn closed(&self) -> Outcome {
        let closer = self.first_close.or(self.clock.first_end).unwrap_or(Closer::Proxy);
        Outcome { closer, cause: Cause::Closed }
    }

    /// Ready when a direction has ended.
    fn poll_direction(&mut self, cx: &mut Context<'_>, direction: Direction, now: Instant) -> Poll<()> {
        let mut passed = Passed::default();
        let (talking, listening) = match direction {
            Direction::ToBackend => (Closer::Client, Closer::Backend),
            Direction::ToClient => (Closer::Backend, Closer::Client),
        };
        let polled = loop {
            let (talker, listener) = match direction {
                Direction::ToBackend => (&mut self.client, &mut self.backend),
                Direction::ToClient => (&mut self.backend, &mut self.client),
            };
            match poll_pass(cx, talker, listener, &mut passed) {
                Poll::Ready(Err(Failure::Talker)) => self.note_break(talking, Cause::Reset, now),
                Poll::Ready(Err(Failure::Listener)) => {
                    // A side that has closed need not accept what is still sent.
                    let cause = if listener.has_ended() { Cause::Closed } else { Cause::Reset };
                    self.note_break(listening, cause, now);
                }
                Poll::Ready(Ok(())) => break Poll::Ready(()),
                Poll::Pending => break Poll::Pending,
            }
        };
        if passed.bytes > 0 {
            self.clock.note_bytes(now);
            self.accounts.count(direction, passed);
        }
        let talker = if direction == Direction::ToBackend { &self.client } else { &self.backend };
        if talker.has_ended() {
            self.clock.note_end(talking, now);
        }
        if talker.close.is_some() {
            self.first_close.get_or_insert(talking);
        }
        polled
    }

    /// Records that a side cannot be used any more, which also starts the time limit for what the other must still
    /// accept.
    fn note_break(&mut self, side: Closer, cause: Cause, now: Instant) {
        self.clock.note_end(side, now);
        let end = if cause == Cause::Closed { self.closed() } else { Outcome { closer: side, cause } };
        self.broken.end.get_or_insert(end);
        *(if side == Closer::Client { &mut self.broken.client } else { &mut self.broken.backend }) = true;
    }

    /// Does what is due although no byte arrived. Ready if that is the end.
    fn poll_times(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Poll<Outcome> {
        loop {
            let limit = self.clock.next();
            if let Some((_, cause)) = limit.filter(|(deadline, _)| *deadline <= now) {
                // What was still to be forwarded after a break was not accepted in time: the break is the cause.
                return Poll::Ready(self.broken.end.unwrap_or(Outcome { closer: Closer::Proxy, cause }));
            }
            let given_up = |closer| Poll::Ready(Outcome { closer, cause: Cause::PingTimeout });
            let Pinged::Wait(client) = ping(cx, now, &mut self.client, &self.backend) else {
                return given_up(Closer::Client);
            };
            let Pinged::Wait(backend) = ping(cx, now, &mut self.backend, &self.client) else {
                return given_up(Closer::Backend);
            };
            let limit = limit.map(|(deadline, _)| deadline);
            let Some(deadline) = [limit, client, backend].into_iter().flatten().min() else { return Poll::Pending };
            // Bytes only ever postpone a deadline, so a timer that fires early is reset then, not at each byte.
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(deadline);
            now = Instant::now();
        }
    }

    async fn finish(mut self, mut outcome: Outcome) -> TunnelEnd {
        let ending = self.accounts.registered.handle.ending();
        let farewell = Farewell::of(outcome, ending);
        let mut heard = Heard::default();
        if let Some(farewell) = farewell {
            heard = self.say(farewell).await;
            if heard.cut() && outcome.closer == Closer::Proxy {
                outcome.cause = Cause::Stalled;
            }
        }
        let code = self.first_said().map_or(heard.code, |close| close.code);
        let Self { client, backend, broken, clock, accounts, .. } = self;
        let end = accounts.close(outcome, code);
        // Even if the other side has broken: otherwise, what this one has not read yet could be lost.
        let close_client = async {
            if !(broken.client || heard.client_cut || client.is_done()) {
                stream::close(client.stream, clock.limits.linger).await;
            }
        };
        let close_backend = async {
            if !(broken.backend || heard.backend_cut || backend.is_done()) {
                let mut backend = backend.stream;
                if farewell.is_some() {
                    // The server closes first (RFC 6455 §7.1.1).
                    stream::await_end(&mut backend, clock.limits.linger).await;
                }
                stream::close(backend, clock.limits.linger).await;
            }
        };
        tokio::join!(close_client, close_backend);
        end
    }

    /// The first Close of a peer that was forwarded.
    fn first_said(&self) -> Option<SeenClose> {
        if self.first_close? == Closer::Client { self.client.close } else { self.backend.close }
    }
}

/// A running tunnel. Written by hand, since an `async fn` stores its argument twice.
#[expect(clippy::large_enum_variant, reason = "it nearly always is the large one, in a task of its own")]
pub(super) enum Running {
    Passing(Tunnel),
    /// Boxed, so that the end takes no space before it comes.
    Finishing(Pin<Box<dyn Future<Output = TunnelEnd> + Send>>),
    Over,
}

impl Future for Running {
    type Output = TunnelEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TunnelEnd> {
        if let Self::Passing(tunnel) = &mut *self {
            let outcome = ready!(tunnel.poll(cx));
            let Self::Passing(tunnel) = std::mem::replace(&mut *self, Self::Over) else { unreachable!() };
            *self = Self::Finishing(Box::pin(tunnel.finish(outcome)));
        }
        match &mut *self {
            Self::Finishing(finishing) => finishing.as_mut().poll(cx),
            Self::Passing(_) | Self::Over => unreachable!("polled behind its end"),
        }
    }
}

/// The result of checking on a side.
enum Pinged {
    /// Check again at this instant, or when something happens.
    Wait(Option<Instant>),
    /// It is gone.
    Gone,
}

/// Pings a side if a ping is due. A side that has closed cannot answer.
fn ping(cx: &mut Context<'_>, now: Instant, side: &mut Side, other: &Side) -> Pinged {
    if side.close.is_some() || side.has_ended() {
        return Pinged::Wait(None);
    }
    let Some(mut pinger) = side.pinger.take() else { return Pinged::Wait(None) };
    if std::mem::take(&mut side.alive) {
        pinger.hear(now);
    }
    let all_sent = side.stream.unsent() == 0;
    let may_ping = all_sent && other.close.is_none() && side.takes_control_frames(other);
    let mut action = pinger.act(now, may_ping, all_sent);
    if let Action::Ping(payload) = action {
        side.send_control(cx, Opcode::Ping, &payload);
        // Registers to be woken if the socket has not accepted all of it.
        let _ = side.poll_sent(cx);
        action = pinger.act(now, false, side.stream.unsent() == 0);
    }
    side.pinger = Some(pinger);
    match action {
        Action::Wait(until) => Pinged::Wait(until),
        Action::Ping(_) => Pinged::Wait(None),
        Action::GiveUp => Pinged::Gone,
    }
}

impl Accounts {
    fn count(&self, direction: Direction, passed: Passed) {
        self.registered.handle.count(direction, passed.bytes, passed.frames);
        self.metrics.passed(direction, passed.bytes, passed.frames);
    }

    fn close(mut self, outcome: Outcome, code: Option<u16>) -> TunnelEnd {
        self.settle(outcome, code)
    }

    fn settle(&mut self, Outcome { closer, cause }: Outcome, code: Option<u16>) -> TunnelEnd {
        self.closed = true;
        let (handle, duration) = (&self.registered.handle, self.opened.elapsed());
        let close = TunnelClose { closer: closer.as_str(), cause: cause.as_str(), duration };
        self.metrics.tunnel_closed(&handle.route, &handle.endpoint, close);
        let end = TunnelEnd {
            closer,
            cause,
            code,
            duration,
            bytes_to_backend: handle.bytes(Direction::ToBackend),
            bytes_to_client: handle.bytes(Direction::ToClient),
            frames_to_backend: handle.frames(Direction::ToBackend),
            frames_to_client: handle.frames(Direction::ToClient),
        };
        log_close(&self.registered, &end);
        end
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        // The tunnel was never run to its end: its task was dropped with the runtime.
        if !self.closed {
            self.settle(Outcome { closer: Closer::Proxy, cause: Cause::Shutdown }, None);
        }
    }
}

fn log_open(registered: &Registered) {
    let tunnel = &registered.handle;
    tracing::info!(
        tunnel = tunnel.id,
        route = %tunnel.route.name,
        rule = %tunnel.rule,
        endpoint = %tunnel.endpoint.name,
        client = %tunnel.client,
        "tunnel opened"
    );
}

fn log_close(registered: &Registered, end: &TunnelEnd) {
    let tunnel = &registered.handle;
    tracing::info!(
        tunnel = tunnel.id,
        route = %tunnel.route.name,
        rule = %tunnel.rule,
        endpoint = %tunnel.endpoint.name,
        client = %tunnel.client,
        closer = end.closer.as_str(),
        cause = end.cause.as_str(),
        code = end.code,
        duration_seconds = end.duration.as_secs_f64(),
        bytes_to_backend = end.bytes_to_backend,
        bytes_to_client = end.bytes_to_client,
        frames_to_backend = end.frames_to_backend,
        frames_to_client = end.frames_to_client,
        "tunnel closed"
    );
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        proxy::Settings,
        table::{EndpointState, ObjectName, Timeouts},
    };

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (connected, accepted) = tokio::join!(connect, listener.accept());
        (connected.unwrap(), accepted.unwrap().0)
    }

    fn opening(backend: TcpStream, early: &[u8]) -> Opening {
        let mut backend = Stream::from(backend);
        backend.unread(early);
        let object = ObjectName::new("shop", "chat");
        let origin = TunnelOrigin {
            route: object.clone().into(),
            rule: "main".into(),
            service: object,
            endpoint: registry::tests::endpoint("chat-0"),
            client: Ipv4Addr::LOCALHOST.into(),
        };
        let limits = TunnelLimits::new(&Timeouts::default(), &Settings::default());
        Opening {
            backend,
            extensions: Extensions::None,
            origin,
            limits,
            keepalive: Keepalive::default(),
            in_use: Arc::new(EndpointState::default()).enter(),
        }
    }

    #[tokio::test]
    async fn what_the_backend_said_before_it_reset_arrives_although_the_client_still_talks() {
        let ((mut client, accepted), (dialled, backend)) = (connected().await, connected().await);
        // More than the sockets hold, so that the proxy still holds some when the backend is gone.
        let early = vec![7; 32 << 20];
        let (length, opening) = (early.len(), opening(dialled, &early));
        let (tunnels, metrics) = (Arc::default(), Arc::default());
        let mut accepted = Stream::from(accepted);
        accepted.unread(b"talk");
        let tunnel = Tunnel::open(&tunnels, metrics, accepted, opening);
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
        let client = Stream::from(accepted);
        let tunnel = Tunnel::open(&tunnels, metrics.clone(), client, opening(dialled, b""));
        assert!(open());
        drop(tunnel);
        assert!(!open() && !metrics.encode().contains("endpoint=\"chat-0\""));
        assert_eq!(tunnels.count(), 0);
    }

    #[test]
    fn a_tunnel_is_small() {
        let size = size_of::<Running>();
        assert!(size <= 640, "{size} bytes");
    }
}
