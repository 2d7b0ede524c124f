//! A tunnel: the bytes of one WebSocket connection, from its 101 to its end.
//!
//! It holds no table and nothing that pins one, since it may live for days.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::net::TcpStream;

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
        // Boxed, so that the end takes no room before it comes.
        Box::pin(self.finish(closer, cause)).await
    }

    async fn finish(self, closer: Closer, cause: Cause) -> TunnelEnd {
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
        if flow.has_ended() {
            self.clock.note_end(side);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_small() {
        fn size<T: Future>(_: impl FnOnce(Tunnel) -> T) -> usize {
            size_of::<T>()
        }
        assert!(size(Tunnel::run) <= 768, "{} bytes", size(Tunnel::run));
    }
}
