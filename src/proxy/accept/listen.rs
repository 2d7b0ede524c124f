//! Listeners: bound by the caller, accepting until the process stops.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{Acceptor, tls};
use crate::proxy::{
    bounds::clients::Seat,
    http::connection,
    request::peer::Peer,
    shared::{ServingPhase, Shared, reached},
    transport::stream::{self, Stream},
};

const BACKLOG: i32 = 4096;
/// How many bytes the kernel queues for a client beyond those in flight. This bounds the memory for a client that does
/// not read, and makes the progress of a slow reader visible: without it, a socket becomes writable only when a third
/// of its send buffer is free, which may be more than a megabyte.
const UNSENT_IN_KERNEL: u32 = 128 * 1024;
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in plaintext.
    Http,
    /// HTTP over TLS.
    Https,
}

/// A bound socket and its protocol.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// The protocol.
    pub scheme: Scheme,
}

/// Binds an address; an IPv6 address accepts IPv4 as well. Without IPv6 support, `[::]` falls back to `0.0.0.0`. Must
/// be called within a runtime.
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_as_is(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            bind_as_is((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // std has no error kind for EAFNOSUPPORT.
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(97)
}

fn bind_as_is(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    // Set after binding, so that an address in use by another process is an error and is not shared with it.
    socket.set_reuse_port(true)?;
    listening(socket)
}

impl Listener {
    /// Another socket for the same address and protocol, for another thread. The kernel distributes connections among
    /// them.
    pub(crate) fn another(&self) -> io::Result<Self> {
        let address = self.socket.local_addr()?;
        let socket = unbound(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(Self { socket: listening(socket)?, scheme: self.scheme })
    }

    /// Registers the socket with the current runtime.
    pub(crate) fn move_here(self) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::from_std(self.socket.into_std()?)?, scheme: self.scheme })
    }
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Inherited by accepted sockets, which saves five system calls for each.
    stream::tune(&socket)?;
    // A sandbox's kernel may not support this option, which is not essential.
    let _ = socket.set_tcp_notsent_lowat(UNSENT_IN_KERNEL);
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the process stops, and serves them on this thread. No error ends the loop: if file
/// descriptors have run out, for example, it pauses and tries again.
pub(crate) async fn accept(acceptor: Arc<Acceptor>, listener: Listener) {
    let mut phase = acceptor.shared.phase.clone();
    let mut pause = SHORTEST_PAUSE;
    loop {
        tokio::select! {
            biased;
            () = reached(&mut phase, ServingPhase::Stopping) => return,
            () = room(&acceptor.shared) => {}
        }
        let accepted = tokio::select! {
            biased;
            () = reached(&mut phase, ServingPhase::Stopping) => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                pause = SHORTEST_PAUSE;
                admit(&acceptor, socket, address, listener.scheme);
            }
            Err(error) if affects_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accept failed; retrying");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Waits until another connection may be served. At the limit, nothing is accepted: clients wait in the kernel's queue,
/// and file descriptors remain available for backends, the admin port and files. A thread that is already waiting for a
/// connection when the limit is reached still accepts one.
async fn room(proxy: &Shared) {
    if proxy.tasks.len() < proxy.settings.max_connections {
        return;
    }
    tracing::warn!(limit = proxy.settings.max_connections, "connection limit reached; not accepting new connections");
    while proxy.tasks.len() >= proxy.settings.max_connections {
        tokio::time::sleep(SHORTEST_PAUSE).await;
    }
}

fn affects_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves a connection, or closes it at once if its address has too many.
fn admit(acceptor: &Arc<Acceptor>, socket: TcpStream, address: SocketAddr, scheme: Scheme) {
    // A dual-stack listener sees IPv4 addresses mapped into IPv6.
    let address = address.ip().to_canonical();
    // A trusted proxy may carry any number of clients.
    let Acceptor { shared, clients, .. } = &**acceptor;
    let seat = (!shared.settings.trusts(address)).then(|| clients.enter(address, shared.tasks.len()));
    if let Ok(seat) = seat.transpose() {
        spawn(acceptor, socket, address, scheme, seat);
    } else {
        shared.metrics.refusal(None, "connections_per_client");
        clients.log_refusal(address);
    }
}

fn spawn(acceptor: &Arc<Acceptor>, socket: TcpStream, address: IpAddr, scheme: Scheme, seat: Option<Seat>) {
    let (tasks, cut, acceptor) = (acceptor.shared.tasks.clone(), acceptor.cut.clone(), acceptor.clone());
    // Boxed, since a runtime moves a task when it is spawned and when it ends.
    tasks.spawn(cut.run_until_cancelled_owned(Box::pin(serve(acceptor, socket, address, scheme, seat))));
}

async fn serve(acceptor: Arc<Acceptor>, socket: TcpStream, address: IpAddr, scheme: Scheme, seat: Option<Seat>) {
    let (stream, tls) = match scheme {
        Scheme::Http => (Stream::from(socket), None),
        Scheme::Https => match Box::pin(tls::accept(&acceptor, socket)).await {
            Some((stream, tls)) => (stream, Some(tls)),
            None => return,
        },
    };
    let (shared, pool) = (acceptor.shared.clone(), acceptor.pool.clone());
    drop(acceptor);
    connection::serve(shared, pool, stream.seated(seat), Peer { address, tls }).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[tokio::test]
    async fn an_unspecified_ipv6_address_accepts_ipv4_as_well() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let (connected, accepted) = tokio::join!(connect, listener.accept());
        connected.unwrap();
        assert_eq!(accepted.unwrap().1.ip().to_canonical(), Ipv4Addr::LOCALHOST);
    }

    #[tokio::test]
    async fn accepted_sockets_have_the_options_of_their_listener() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (_connected, accepted) = tokio::join!(connect, listener.accept());
        let accepted = accepted.unwrap().0;
        let socket = socket2::SockRef::from(&accepted);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_IN_KERNEL);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let again = bind(listener.local_addr().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn sockets_of_one_listener_share_an_address_that_no_other_gets() {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let first = Listener { socket, scheme: Scheme::Http };
        let second = first.another().unwrap();
        assert_eq!(second.socket.local_addr().unwrap(), address);
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_the_lack_of_ipv6_falls_back() {
        assert!(lacks_ipv6(&io::Error::from_raw_os_error(97)));
        assert!(lacks_ipv6(&io::ErrorKind::AddrNotAvailable.into()));
        assert!(!lacks_ipv6(&io::ErrorKind::AddrInUse.into()));
    }
}
