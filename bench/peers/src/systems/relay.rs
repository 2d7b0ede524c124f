//! The reference: two threads that forward bytes between a client and a backend. They do not know HTTP; clients are
//! distributed over the backends in turn. No proxy can be expected to use much less.

use std::{
    collections::HashMap,
    fs, io,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::aws_lc_rs::{Ticketer, default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use socket2::{Domain, Socket, Type};

use super::{Ability, BACKENDS, Backend, Certificate, HTTP, HTTPS, System};

const THREADS: usize = 2;
const BACKLOG: i32 = 4096;
const BUFFER: usize = 64 * 1024;
const EVENTS: usize = 256;
/// Above this, reading from the other side pauses until some of it has been sent.
const PENDING: usize = 64 * 1024;

pub(crate) struct Relay(pub PathBuf);

impl System for Relay {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn can(&self, ability: Ability) -> bool {
        ability != Ability::Change
    }

    fn program(&self) -> Option<&Path> {
        Some(&self.0)
    }

    fn version(&self) -> anyhow::Result<String> {
        Ok("without HTTP".into())
    }

    fn configure(&self, _: &Path, _: &Certificate, _: Backend) -> io::Result<()> {
        Ok(())
    }

    fn arguments(&self, command: &mut Command) {
        command.arg("relay");
    }
}

/// Relays with the certificate in the current folder, until the process is killed.
pub(crate) fn run() -> anyhow::Result<()> {
    let chain = CertificateDer::from_pem_slice(&fs::read("chain.pem")?)?;
    let key = PrivateKeyDer::from_pem_slice(&fs::read("key.pem")?)?;
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)?;
    config.ticketer = Ticketer::new()?;
    let config = Arc::new(config);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let config = Arc::clone(&config);
            thread::spawn(move || Worker::new(config)?.run())
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().expect("a worker does not panic"))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Each thread has its own listener, and the kernel distributes clients over them.
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

const TOKEN_HTTP: u64 = 0;
const TOKEN_HTTPS: u64 = 1;
const FIRST_TUNNEL: u64 = 2;

struct Worker {
    config: Arc<ServerConfig>,
    poll: rustix::fd::OwnedFd,
    http: TcpListener,
    https: TcpListener,
    tunnels: HashMap<u64, Tunnel>,
    next: u64,
    buffer: Box<[u8]>,
}

struct Tunnel {
    client: Side,
    backend: Side,
    tls: Option<Box<ServerConnection>>,
}

struct Side {
    socket: TcpStream,
    token: u64,
    /// Data that this side has not accepted yet.
    pending: Vec<u8>,
    interest: EventFlags,
}

impl Side {
    fn new(socket: TcpStream, token: u64, poll: impl AsFd) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        epoll::add(poll, &socket, EventData::new_u64(token), EventFlags::IN)?;
        Ok(Self { socket, token, pending: Vec::new(), interest: EventFlags::IN })
    }

    /// Writes what it can, and keeps the rest.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.pending.is_empty() && !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.pending.extend(bytes);
        Ok(())
    }

    fn send_pending(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.send(&pending)
    }

    fn watch(&mut self, interest: EventFlags, poll: impl AsFd) -> io::Result<()> {
        if interest != self.interest {
            epoll::modify(poll, &self.socket, EventData::new_u64(self.token), interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}

impl Worker {
    fn new(config: Arc<ServerConfig>) -> anyhow::Result<Self> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let (http, https) = (listen(HTTP)?, listen(HTTPS)?);
        epoll::add(&poll, &http, EventData::new_u64(TOKEN_HTTP), EventFlags::IN)?;
        epoll::add(&poll, &https, EventData::new_u64(TOKEN_HTTPS), EventFlags::IN)?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { config, poll, http, https, tunnels: HashMap::new(), next: FIRST_TUNNEL, buffer })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None)?;
            for event in &events {
                match event.data.u64() {
                    TOKEN_HTTP => self.accept(None)?,
                    TOKEN_HTTPS => self.accept(Some(Arc::clone(&self.config)))?,
                    token => self.move_bytes(token, event.flags),
                }
            }
        }
    }

    fn accept(&mut self, tls: Option<Arc<ServerConfig>>) -> anyhow::Result<()> {
        let listener = if tls.is_some() { &self.https } else { &self.http };
        // Loopback connects at once; blocking for it is cheaper than another state.
        let Ok((client, _)) = listener.accept() else { return Ok(()) };
        let turn = usize::try_from(self.next / 2).expect("it counts connections") % BACKENDS.len();
        let backend = TcpStream::connect(BACKENDS[turn].1)?;
        let mut tls = tls.map(ServerConnection::new).transpose()?;
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None); // The backend is not read while the client takes nothing.
        }
        let client = Side::new(client, self.next, &self.poll)?;
        let backend = Side::new(backend, self.next + 1, &self.poll)?;
        self.tunnels.insert(self.next, Tunnel { client, backend, tls: tls.map(Box::new) });
        self.next += 2;
        Ok(())
    }

    /// Handles the readiness of a side. Clients have even tokens, their backends the next one.
    fn move_bytes(&mut self, token: u64, ready: EventFlags) {
        let key = token & !1;
        // It may have ended in this round of events.
        let Some(tunnel) = self.tunnels.get_mut(&key) else { return };
        let moved = tunnel.step(token == key, ready, &mut self.buffer);
        let watched = moved.and_then(|goes_on| tunnel.watch(&self.poll).map(|()| goes_on));
        if !watched.unwrap_or(false) {
            self.tunnels.remove(&key);
        }
    }
}

impl Tunnel {
    /// Whether the tunnel continues.
    fn step(&mut self, is_client: bool, ready: EventFlags, buffer: &mut [u8]) -> io::Result<bool> {
        let side = if is_client { &mut self.client } else { &mut self.backend };
        if ready.contains(EventFlags::OUT) {
            side.send_pending()?;
        }
        if !ready.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(true);
        }
        match (&mut self.tls, is_client) {
            (Some(_), true) => self.decrypt(buffer),
            (Some(_), false) => self.encrypt(buffer),
            (None, true) => copy(&mut self.client, &mut self.backend, buffer),
            (None, false) => copy(&mut self.backend, &mut self.client, buffer),
        }
    }

    fn decrypt(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let tls = self.tls.as_mut().expect("called for TLS only");
        match tls.read_tls(&mut self.client.socket) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        let goes_on = loop {
            match tls.reader().read(buffer) {
                Ok(0) => break false,
                Ok(read) => self.backend.send(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) => return Err(error),
            }
        };
        self.flush()?;
        Ok(goes_on)
    }

    fn encrypt(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let tls = self.tls.as_mut().expect("called for TLS only");
        match self.backend.socket.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => tls.writer().write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        self.flush()?;
        Ok(true)
    }

    /// Sends TLS output to the client, and keeps what the client does not accept.
    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.client.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Registers for the next events: a side is read while the other one accepts data.
    fn watch(&mut self, poll: impl AsFd) -> io::Result<()> {
        self.flush()?;
        let is_waiting = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let interest = |takes_more: bool, has_more: bool| {
            let read = if takes_more { EventFlags::IN } else { EventFlags::empty() };
            if has_more { read | EventFlags::OUT } else { read }
        };
        let for_client = is_waiting || !self.client.pending.is_empty();
        let for_backend = !self.backend.pending.is_empty();
        self.client.watch(interest(self.backend.pending.len() < PENDING, for_client), &poll)?;
        self.backend.watch(interest(!for_client, for_backend), &poll)
    }
}

/// Whether there may be more.
fn copy(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> io::Result<bool> {
    match from.socket.read(buffer) {
        Ok(0) => Ok(false),
        Ok(read) => to.send(&buffer[..read]).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}
