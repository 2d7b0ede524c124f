//! A proxy in this process, with a table built by hand, and raw peers on both sides of it.
#![allow(unreachable_pub, reason = "pub marks what other modules use")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName};
use switchyard::{
    metrics::Metrics,
    proxy::{Listener, Proxy, Scheme, Settings, Tunnels, listen::bind},
    table::{
        Algorithm, Backend, Certificate, CurrentTable, Endpoint, EndpointId, EndpointState, HostPattern, HostTls,
        InsecurePolicy, Keepalive, ObjectName, PathPattern, Persistence, Phase, Policy, RouteTable, Rule, Secure,
        SessionKeys, TlsIdentity, WeightedBackend,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

pub const HOST: &str = "chat.example.com";
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// No wait in any test takes longer, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(15);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("must happen in time")
}

/// A client's handshake with additional fields, each with its line end.
pub fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

pub fn switching(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n{more}\r\n"
    )
}

pub fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n")
}

pub fn service() -> ObjectName {
    ObjectName::new("shop", "chat")
}

pub fn endpoint(name: &str, address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: EndpointId::new(&service(), 80, &name),
        name: name.into(),
        addresses: Box::new([address]),
        phase: Phase::Ready,
        state: Arc::new(EndpointState::default()),
    })
}

pub fn backend_of(endpoints: &[Arc<Endpoint>]) -> Arc<Backend> {
    Arc::new(Backend { service: service(), port: 80, endpoints: endpoints.into(), turn: Arc::default() })
}

/// A rule that tries its endpoints in turn.
pub fn rule(endpoints: &[Arc<Endpoint>]) -> Rule {
    Rule {
        route: ObjectName::new("shop", "chat").into(),
        name: "main".into(),
        fault: None,
        backends: Box::new([WeightedBackend { weight: 1, target: Ok(backend_of(endpoints)) }]),
        policy: Policy {
            algorithm: Algorithm::RoundRobin,
            keepalive: Keepalive { client: None, backend: None },
            ..Policy::default()
        },
    }
}

pub fn persistence() -> Persistence {
    Persistence {
        scope: "shop/chat/main".into(),
        cookie: "sticky".into(),
        attributes: "; Path=/; HttpOnly".into(),
        secure: Secure::Auto,
        max_age: None,
    }
}

pub fn table(rule: Rule) -> RouteTable {
    let mut table = RouteTable::default();
    table.claim(&HostPattern::parse(HOST), &PathPattern::prefix("/"), Arc::new(rule));
    table
}

/// A self-signed certificate for these names.
pub fn certificate(names: &[&str]) -> (Arc<Certificate>, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let chain = made.cert.der().clone();
    let certificate = Certificate {
        chain: vec![chain.clone()],
        key: made.signing_key.serialize_der().try_into().unwrap(),
        names: names.into_iter().map(Into::into).collect(),
        not_after: SystemTime::now() + Duration::from_secs(3600),
        digest: aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &chain).as_ref().try_into().unwrap(),
    };
    (Arc::new(certificate), chain)
}

pub fn identity(certificate: &Arc<Certificate>) -> Arc<TlsIdentity> {
    Arc::new(TlsIdentity::new(Box::new([certificate.clone()])))
}

pub fn host_tls(identity: Result<Arc<TlsIdentity>, Arc<str>>, insecure_policy: InsecurePolicy) -> Arc<HostTls> {
    Arc::new(HostTls { owner: ObjectName::new("shop", "chat"), insecure_policy, identity })
}

/// A proxy that runs until it is dropped or stopped.
pub struct Harness {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub table: Arc<CurrentTable>,
    pub keys: Arc<ArcSwap<SessionKeys>>,
    pub metrics: Arc<Metrics>,
    pub tunnels: Arc<Tunnels>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<std::io::Result<()>>>,
}

impl Harness {
    pub fn with_rule(rule: Rule) -> Self {
        Self::with_table(table(rule))
    }

    pub fn with_table(table: RouteTable) -> Self {
        Self::start(table, Settings::default())
    }

    pub fn start(table: RouteTable, settings: Settings) -> Self {
        let current = Arc::new(CurrentTable::default());
        current.publish(Arc::new(table));
        let proxy = Proxy {
            table: current,
            session_keys: Arc::new(ArcSwap::from_pointee(SessionKeys::random())),
            settings: Settings { linger_timeout: Duration::from_millis(300), ..settings },
            metrics: Arc::default(),
            tunnels: Arc::default(),
        };
        let sockets = [(); 2].map(|()| bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap());
        let [http, https] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let listeners = sockets.into_iter().zip([Scheme::Http, Scheme::Https]);
        let listeners = listeners.map(|(socket, scheme)| Listener { socket, scheme }).collect();
        let (stop, stopped) = oneshot::channel();
        let Proxy { table, session_keys, metrics, tunnels, .. } = proxy.clone();
        let running = tokio::spawn(proxy.run(listeners, async {
            let _ = stopped.await;
        }));
        Self { http, https, table, keys: session_keys, metrics, tunnels, stop: Some(stop), running: Some(running) }
    }

    /// Begins the graceful stop.
    pub fn stop(&mut self) {
        self.stop.take().expect("it is stopped once").send(()).unwrap();
    }

    pub async fn stopped(&mut self) {
        soon(self.running.take().expect("it is waited for once")).await.unwrap().unwrap();
    }

    pub async fn client(&self) -> Peer<TcpStream> {
        Peer::connect(self.http).await
    }

    /// A client that has sent this request, and the response to it.
    pub async fn ask(&self, request: &str) -> (Peer<TcpStream>, Head) {
        let mut client = self.client().await;
        client.send(request).await;
        let head = client.head().await;
        (client, head)
    }

    pub async fn tunnels(&self, count: usize) {
        soon(self.tunnels.wait_for(|open| open == count)).await;
    }

    /// Whether the metrics contain this line.
    pub fn counted(&self, line: &str) -> bool {
        let line = format!("switchyard_{line}");
        self.metrics.encode().lines().any(|there| there == line)
    }
}

/// A backend whose responses the test determines.
pub struct RawBackend {
    listener: TcpListener,
    pub address: SocketAddr,
    /// Unique among all backends.
    pub name: String,
}

static BACKENDS: AtomicU32 = AtomicU32::new(0);

impl RawBackend {
    pub async fn bind() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = format!("backend-{}", BACKENDS.fetch_add(1, Ordering::Relaxed));
        Self { listener, address, name }
    }

    /// Its endpoint, with its own name.
    pub fn own_endpoint(&self) -> Arc<Endpoint> {
        self.endpoint(&self.name)
    }

    pub fn endpoint(&self, name: &str) -> Arc<Endpoint> {
        endpoint(name, self.address)
    }

    pub async fn accept(&self) -> Peer<TcpStream> {
        Peer::new(soon(self.listener.accept()).await.unwrap().0)
    }

    /// Accepts, reads a head, and answers it.
    pub async fn answer(&self, answer: &str) -> (Peer<TcpStream>, Head) {
        let mut peer = self.accept().await;
        let head = peer.head().await;
        peer.send(answer).await;
        (peer, head)
    }

    /// Answers all requests on all connections with what `respond` returns for their heads, until it is dropped.
    pub fn serve(self, respond: impl Fn(&Head) -> String + Send + Sync + 'static) -> Served {
        let respond = Arc::new(respond);
        let address = self.address;
        let accept = async move {
            loop {
                let Ok((stream, _)) = self.listener.accept().await else { return };
                let (mut peer, respond) = (Peer::new(stream), respond.clone());
                tokio::spawn(async move {
                    while let Some(head) = peer.try_head().await {
                        peer.send(&respond(&head)).await;
                    }
                });
            }
        };
        Served { address, task: tokio::spawn(accept) }
    }
}

pub struct Served {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where connection attempts are neither accepted nor refused, while the rest is kept.
pub async fn silent() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    // The kernel accepts a few by itself.
    while let Ok(taken) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(taken.unwrap());
    }
    (address, socket, waiting)
}

/// An address where nothing listens.
pub async fn refusing() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// A head as received, without its empty line.
#[derive(Clone, Debug)]
pub struct Head(pub String);

impl Head {
    pub fn first(&self) -> &str {
        self.0.lines().next().unwrap()
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.first().split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.0.lines().skip(1).map(|line| line.split_once(": ").unwrap_or((line, "")));
        fields.filter(|(there, _)| there.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} occurs more than once in {}", self.0);
        all.first().copied()
    }
}

/// One end of a connection, with a buffer of received bytes.
pub struct Peer<S> {
    pub stream: S,
    buffer: Vec<u8>,
}

impl Peer<TcpStream> {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // If the peer has closed, reading reports it.
        let _ = soon(self.stream.write_all(bytes.as_ref())).await;
        let _ = soon(self.stream.flush()).await;
    }

    pub async fn finish(&mut self) {
        let _ = soon(self.stream.shutdown()).await;
    }

    async fn more(&mut self) -> bool {
        self.buffer.reserve(64 * 1024);
        soon(self.stream.read_buf(&mut self.buffer)).await.is_ok_and(|count| count > 0)
    }

    /// The next head, or `None` if the peer has closed.
    pub async fn try_head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).take(end).collect();
                return Some(Head(String::from_utf8(head).unwrap()));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub async fn head(&mut self) -> Head {
        self.try_head().await.expect("a head comes before the end")
    }

    /// The next `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await, "the end came after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..count).collect()
    }

    pub async fn expect(&mut self, text: &str) {
        let bytes = self.bytes(text.len()).await;
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Bytes that have been received but not asked for yet.
    pub fn buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The body of a response with a length.
    pub async fn body(&mut self, head: &Head) -> String {
        let length = head.field("content-length").map_or(0, |length| length.parse().unwrap());
        String::from_utf8(self.bytes(length).await).unwrap()
    }
}

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// A frame as it was on the wire, with its payload unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its first byte: FIN, reserved bits and opcode.
    pub first: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

/// A frame as a client sends it.
pub fn from_client(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    wire(first, Some([0x5a, 1, 0xfe, 0x33]), payload.as_ref())
}

/// A frame as a server sends it.
pub fn from_server(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    wire(first, None, payload.as_ref())
}

fn wire(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    let masked = if key.is_some() { 0x80 } else { 0 };
    match payload.len() {
        short @ ..126 => frame.push(masked | u8::try_from(short).unwrap()),
        medium @ ..65536 => {
            frame.push(masked + 126);
            frame.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            frame.push(masked + 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The payload of a Close.
pub fn reason(code: u16, text: &str) -> Vec<u8> {
    [&code.to_be_bytes(), text.as_bytes()].concat()
}

impl Frame {
    /// The status code of a Close.
    pub fn code(&self) -> Option<u16> {
        assert_eq!(self.first, CLOSE, "{self:?}");
        self.payload.first_chunk().copied().map(u16::from_be_bytes)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// The next frame, or `None` if the peer has closed after the last one.
    pub async fn try_frame(&mut self) -> Option<Frame> {
        if self.buffer.is_empty() && !self.more().await {
            return None;
        }
        let [first, second] = self.bytes(2).await[..] else { unreachable!() };
        let length = match second & 0x7f {
            126 => usize::from(u16::from_be_bytes(self.bytes(2).await.try_into().unwrap())),
            127 => usize::try_from(u64::from_be_bytes(self.bytes(8).await.try_into().unwrap())).unwrap(),
            short => usize::from(short),
        };
        let masked = second & 0x80 != 0;
        let key = if masked { self.bytes(4).await } else { vec![0; 4] };
        let payload = self.bytes(length).await.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        Some(Frame { first, masked, payload })
    }

    pub async fn frame(&mut self) -> Frame {
        self.try_frame().await.expect("a frame comes before the end")
    }

    /// Reads a frame that must be this one.
    pub async fn expect_frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let frame = self.frame().await;
        assert_eq!((frame.first, frame.payload.as_slice()), (first, payload.as_ref()));
    }

    /// As a client: reads an unmasked Close with this code and a reason, and answers it.
    pub async fn answer_close_as_client(&mut self, code: u16) {
        let close = self.frame().await;
        assert_eq!((close.code(), close.masked, close.payload.len() > 2), (Some(code), false, true), "{close:?}");
        self.send(from_client(CLOSE, &close.payload)).await;
    }

    /// As a backend: reads a masked Close with this code and a reason, and answers it.
    pub async fn answer_close_as_backend(&mut self, code: u16) {
        let close = self.frame().await;
        assert_eq!((close.code(), close.masked, close.payload.len() > 2), (Some(code), true, true), "{close:?}");
        self.send(from_server(CLOSE, &close.payload)).await;
    }
}

/// The metric line that counts ends of tunnels.
pub fn closed(closer: &str, cause: &str, count: u32) -> String {
    format!(r#"closes_total{{namespace="shop",route="chat",closer="{closer}",cause="{cause}"}} {count}"#)
}

/// The log of the process since the first call, kept in memory.
#[derive(Clone, Default)]
pub struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    /// Of all tests together, since the threads of a proxy log too.
    pub fn capture() -> Self {
        static LOG: LazyLock<Log> = LazyLock::new(|| {
            let log = Log::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_env_filter("switchyard=trace")
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            log
        });
        LOG.clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines about the end of tunnels to this backend's own endpoint.
    pub fn ends(&self, backend: &RawBackend) -> Vec<String> {
        let endpoint = format!(" endpoint={} ", backend.name);
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains("tunnel closed") && line.contains(&endpoint));
        lines.map(ToOwned::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The configuration of a TLS client that trusts these certificates.
pub fn tls_client(trusted: &[CertificateDer<'static>]) -> Arc<rustls::ClientConfig> {
    tls_client_of(rustls::DEFAULT_VERSIONS, trusted)
}

/// The same, for these versions of TLS.
pub fn tls_client_of(
    versions: &[&'static rustls::SupportedProtocolVersion],
    trusted: &[CertificateDer<'static>],
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

pub type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

pub async fn connect_tls(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
) -> std::io::Result<Peer<TlsStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = soon(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream)).await?;
    Ok(Peer::new(stream))
}
