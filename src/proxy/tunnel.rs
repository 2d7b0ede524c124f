//! A tunnel: the bytes of one WebSocket connection, from its 101 to its end.
//!
//! It holds no table and nothing that pins one, since it may live for days.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{
    registry::{Registered, TunnelNames, Tunnels},
    relay::{Failure, Flow},
    stream::{self, ClientStream},
};
use crate::{
    observe::{
        Metrics,
        metrics::{Direction, TunnelClose},
    },
    table::{InUse, Timeouts},
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

/// How long a tunnel may live.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelLimits {
    idle: Option<Duration>,
    max_duration: Option<Duration>,
    half_closed: Duration,
    linger: Duration,
}

impl TunnelLimits {
    /// The limits of one tunnel. Its duration is shortened by up to a tenth, so that clients which came together do
    /// not have to come back together.
    pub(super) fn new(timeouts: &Timeouts, half_closed: Duration, linger: Duration) -> Self {
        let jitter = |duration: Duration| duration.mul_f64(1.0 - fastrand::f64() / 10.0);
        Self { idle: timeouts.idle, max_duration: timeouts.max_duration.map(jitter), half_closed, linger }
    }
}

/// Who ended a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// We.
    Proxy,
}

impl Closer {
    /// Its label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Proxy => "proxy",
        }
    }
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides closed; the closer was first.
    Closed,
    /// The closer's connection broke.
    Reset,
    /// No byte came for the rule's `timeouts.idle`.
    Idle,
    /// It lived for the rule's `timeouts.maxDuration`.
    MaxDuration,
    /// One side had closed, and the other sent nothing more without closing.
    HalfClosed,
    /// The process stops.
    Shutdown,
}

impl Cause {
    /// Its label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::MaxDuration => "max_duration",
            Self::HalfClosed => "half_closed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How a tunnel ended. Its metric and its line in the log come from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Who ended it.
    pub closer: Closer,
    /// Why.
    pub cause: Cause,
    /// From the 101 to the end.
    pub duration: Duration,
    /// Bytes from the client to the backend.
    pub bytes_to_backend: u64,
    /// Bytes from the backend to the client.
    pub bytes_to_client: u64,
}

impl fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.cause.as_str(), self.closer.as_str())
    }
}

/// A tunnel that is registered and counted, and that is to be run.
pub(super) struct Tunnel {
    client: ClientStream,
    backend: TcpStream,
    to_backend: Flow,
    to_client: Flow,
    clock: Clock,
    limits: TunnelLimits,
    accounts: Accounts,
}

/// Who has to know of it.
struct Accounts {
    registered: Registered,
    metrics: Arc<Metrics>,
    in_use: InUse,
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
        Self {
            client,
            backend,
            to_backend: Flow::starting_with(early),
            to_client: Flow::starting_with(&from_backend),
            clock: Clock::new(limits),
            limits,
            accounts: Accounts { registered, metrics, in_use },
        }
    }

    /// Passes bytes on until the end, and accounts for it.
    pub(super) async fn run(mut self) -> TunnelEnd {
        let (closer, cause) = poll_fn(|cx| self.poll(cx)).await;
        let Self { client, backend, clock, limits, accounts, .. } = self;
        let end = accounts.close(closer, cause, clock.opened.elapsed());
        if cause != Cause::Reset && cause != Cause::Closed {
            tokio::join!(stream::close(client, limits.linger), stream::close(backend, limits.linger));
        }
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
        // Who has closed need not take what is still sent; what it said before has to arrive all the same.
        let to_backend = tolerate(to_backend, &self.to_client);
        let to_client = tolerate(to_client, &self.to_backend);
        match (to_backend, to_client) {
            (Poll::Ready(Err(failure)), _) => return Poll::Ready(broken(&failure, Closer::Client, Closer::Backend)),
            (_, Poll::Ready(Err(failure))) => return Poll::Ready(broken(&failure, Closer::Backend, Closer::Client)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready((self.clock.first_end.unwrap_or(Closer::Proxy), Cause::Closed));
            }
            _ => {}
        }
        self.clock.poll(cx, moved).map(|cause| (Closer::Proxy, cause))
    }

    fn poll_to_backend(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<(), Failure>> {
        let Self { client, backend, to_backend, accounts, .. } = self;
        let mut count = |bytes| accounts.count(Direction::ToBackend, bytes, moved);
        to_backend.poll(cx, Pin::new(client), Pin::new(backend), &mut count)
    }

    fn poll_to_client(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<(), Failure>> {
        let Self { client, backend, to_client, accounts, .. } = self;
        let mut count = |bytes| accounts.count(Direction::ToClient, bytes, moved);
        to_client.poll(cx, Pin::new(backend), Pin::new(client), &mut count)
    }

    fn note_first_end(&mut self, side: Closer) {
        let flow = if side == Closer::Client { &self.to_backend } else { &self.to_client };
        if flow.has_ended() && self.clock.first_end.is_none() {
            self.clock.first_end = Some(side);
            // From here on, silence is counted.
            self.clock.last_byte = Instant::now();
        }
    }
}

fn tolerate(polled: Poll<Result<(), Failure>>, opposite: &Flow) -> Poll<Result<(), Failure>> {
    match polled {
        Poll::Ready(Err(Failure::Writer)) if opposite.has_ended() => Poll::Ready(Ok(())),
        polled => polled,
    }
}

fn broken(failure: &Failure, reader: Closer, writer: Closer) -> (Closer, Cause) {
    match failure {
        Failure::Reader => (reader, Cause::Reset),
        Failure::Writer => (writer, Cause::Reset),
    }
}

impl Accounts {
    fn count(&self, direction: Direction, bytes: usize, moved: &mut bool) {
        let bytes = bytes as u64;
        *moved |= bytes > 0;
        self.registered.handle.count(direction, bytes);
        self.metrics.bytes(direction, bytes);
    }

    fn close(self, closer: Closer, cause: Cause, duration: Duration) -> TunnelEnd {
        let Self { registered, metrics, in_use } = self;
        let handle = &registered.handle;
        let close = TunnelClose { closer: closer.as_str(), cause: cause.as_str(), duration };
        metrics.tunnel_closed(&handle.route, &handle.service, &handle.endpoint, close);
        let bytes = |direction| handle.bytes(direction);
        let (bytes_to_backend, bytes_to_client) = (bytes(Direction::ToBackend), bytes(Direction::ToClient));
        let end = TunnelEnd { closer, cause, duration, bytes_to_backend, bytes_to_client };
        log_close(&registered, &end);
        drop(in_use);
        end
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

/// The times of a tunnel: one timer for all limits, and none at all while there is no limit.
struct Clock {
    limits: TunnelLimits,
    opened: Instant,
    last_byte: Instant,
    first_end: Option<Closer>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    fn new(limits: TunnelLimits) -> Self {
        let now = Instant::now();
        Self { limits, opened: now, last_byte: now, first_end: None, timer: None }
    }

    /// Ready when a limit is reached.
    fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<Cause> {
        if moved && (self.limits.idle.is_some() || self.first_end.is_some()) {
            self.last_byte = Instant::now();
        }
        loop {
            let Some((deadline, cause)) = self.next() else { return Poll::Pending };
            // Bytes only ever move a deadline away, so a timer that rings early is set anew then, not at each byte.
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(cause);
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn next(&self) -> Option<(Instant, Cause)> {
        let half_closed = self.first_end.map(|_| (self.last_byte + self.limits.half_closed, Cause::HalfClosed));
        let idle = self.limits.idle.map(|idle| (self.last_byte + idle, Cause::Idle));
        let max = self.limits.max_duration.map(|max| (self.opened + max, Cause::MaxDuration));
        [half_closed, idle, max].into_iter().flatten().min_by_key(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(idle: Option<u64>, max: Option<u64>) -> Clock {
        let timeouts = Timeouts {
            idle: idle.map(Duration::from_secs),
            max_duration: max.map(Duration::from_secs),
            ..Timeouts::default()
        };
        Clock::new(TunnelLimits::new(&timeouts, Duration::from_secs(60), Duration::from_secs(1)))
    }

    async fn rings(clock: &mut Clock) -> (Cause, u64) {
        let start = clock.opened;
        let cause = poll_fn(|cx| clock.poll(cx, false)).await;
        (cause, start.elapsed().as_secs())
    }

    async fn still_silent(clock: &mut Clock, moved: bool) {
        let polled = poll_fn(|cx| Poll::Ready(clock.poll(cx, moved))).await;
        assert!(polled.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_no_timer_is_made_and_nothing_rings() {
        let mut clock = clock(None, None);
        still_silent(&mut clock, true).await;
        assert!(clock.timer.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_byte() {
        let mut clock = clock(Some(30), None);
        still_silent(&mut clock, true).await;
        tokio::time::advance(Duration::from_secs(20)).await;
        still_silent(&mut clock, true).await;
        assert_eq!(rings(&mut clock).await, (Cause::Idle, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_duration_is_shortened_by_up_to_a_tenth() {
        for _ in 0..20 {
            let (cause, after) = rings(&mut clock(None, Some(1000))).await;
            assert_eq!(cause, Cause::MaxDuration);
            assert!((900..=1000).contains(&after), "{after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_ends_after_a_minute_of_silence() {
        let mut clock = clock(None, None);
        clock.first_end = Some(Closer::Client);
        still_silent(&mut clock, false).await;
        tokio::time::advance(Duration::from_secs(50)).await;
        still_silent(&mut clock, true).await;
        assert_eq!(rings(&mut clock).await, (Cause::HalfClosed, 110));
    }
}
