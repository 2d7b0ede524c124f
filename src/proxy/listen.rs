//! Listeners: bound by the caller, accepting until the process stops.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    Phase, Shared, connection, reached,
    stream::{self, Stream},
    tls::{self, Peer},
    workers::Workers,
};

const BACKLOG: i32 = 4096;
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is spoken at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in plaintext.
    Http,
    /// HTTP over TLS.
    Https,
}

/// A bound socket and what is spoken there.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// What is spoken there.
    pub scheme: Scheme,
}

/// Binds an address; one of IPv6 takes IPv4 as well. Where there is no IPv6, `[::]` falls back to `0.0.0.0`. Must be
/// called within a runtime.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_as_is(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            bind_as_is((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own in std.
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(97)
}

fn bind_as_is(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Inherited by what is accepted, which saves five system calls for each.
    stream::tune(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts the connections of a listener, and hands each to a thread that serves it.
pub(super) struct Accept {
    listener: Listener,
    workers: Arc<Workers>,
    max_connections: usize,
}

impl Accept {
    pub(super) fn new(listener: Listener, workers: Arc<Workers>, max_connections: usize) -> Self {
        Self { listener, workers, max_connections }
    }

    /// Accepts until the process stops. No error ends it: at the limit of file descriptors, say, it waits a little and
    /// tries again.
    pub(super) async fn run(self, mut phase: watch::Receiver<Phase>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Stopping) => return,
                () = self.room() => {}
            }
            let accepted = tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Stopping) => return,
                accepted = accept(&self.listener.socket) => accepted,
            };
            match accepted {
                Ok((socket, address)) => {
                    pause = SHORTEST_PAUSE;
                    let scheme = self.listener.scheme;
                    self.workers.serve(|proxy| serve(proxy, socket, address, scheme));
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits until another connection may be served. At the limit nothing is accepted: clients wait in the kernel's
    /// queue, and file descriptors are left for backends, for the admin port and for what is read from files.
    async fn room(&self) {
        if self.workers.connections() < self.max_connections {
            return;
        }
        tracing::warn!(limit = self.max_connections, "no more connections are accepted until some have ended");
        while self.workers.connections() >= self.max_connections {
            tokio::time::sleep(SHORTEST_PAUSE).await;
        }
    }
}

/// An accepted socket that no runtime watches yet.
async fn accept(listener: &TcpListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let (socket, address) = listener.accept().await?;
    Ok((socket.into_std()?, address))
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve(proxy: Arc<Shared>, socket: std::net::TcpStream, address: SocketAddr, scheme: Scheme) {
    let Ok(socket) = TcpStream::from_std(socket).inspect_err(|error| tracing::warn!(%error, "cannot serve")) else {
        return;
    };
    // A listener for both versions sees addresses of version 4 mapped into version 6.
    let address = address.ip().to_canonical();
    match scheme {
        Scheme::Http => connection::serve(proxy, Stream::from(socket), Peer { address, tls: None }).await,
        Scheme::Https => {
            if let Some((stream, tls)) = tls::accept(&proxy, socket).await {
                connection::serve(proxy, stream, Peer { address, tls: Some(tls) }).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[tokio::test]
    async fn an_unspecified_address_of_version_6_takes_version_4_as_well() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let (connected, accepted) = tokio::join!(connect, listener.accept());
        connected.unwrap();
        assert_eq!(accepted.unwrap().1.ip().to_canonical(), Ipv4Addr::LOCALHOST);
    }

    #[tokio::test]
    async fn an_address_in_use_is_told() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let again = bind(listener.local_addr().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_the_lack_of_ipv6_falls_back() {
        assert!(lacks_ipv6(&io::Error::from_raw_os_error(97)));
        assert!(lacks_ipv6(&io::ErrorKind::AddrNotAvailable.into()));
        assert!(!lacks_ipv6(&io::ErrorKind::AddrInUse.into()));
    }
}
