//! A client: opens a tunnel like a browser, and exchanges messages through it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider, kx_group::X25519},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{field, find, frame};
use crate::systems::HOST;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Longer than anything takes here, so that a run ends if something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where to connect.
#[derive(Clone)]
pub(crate) struct Target {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    pub path: &'static str,
}

impl Target {
    /// The same, for one client that resumes its sessions. Several would take each other's last ticket.
    pub(crate) fn resuming(&self) -> Self {
        let resuming = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.resumption = Resumption::in_memory_sessions(1);
            Arc::new(config)
        };
        Self { tls: self.tls.as_ref().map(resuming), ..self.clone() }
    }
}

/// The clients' TLS settings: one version, one suite, one group, so that all systems do the same work.
pub(crate) fn tls(chain: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let mut provider = default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![X25519];
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.as_bytes())?)?;
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config.into())
}

/// A message, as sent and as echoed.
pub(crate) struct Message {
    sent: Vec<u8>,
    back: Vec<u8>,
}

impl Message {
    /// A message of this many bytes.
    pub(crate) fn of(length: usize) -> Self {
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
        let sent = frame::masked(&payload, [0x5a, 0xc3, 0x17, 0x88]);
        Self { sent, back: [frame::head(length), payload].concat() }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection for plain requests.
pub(crate) struct Plain {
    stream: Box<dyn Stream>,
    request: String,
    buffer: Vec<u8>,
}

impl Plain {
    /// Connects, optionally with a receive buffer of this many bytes.
    pub(crate) async fn open(target: &Target, receive: Option<u32>) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        receive.map(|bytes| socket.set_recv_buffer_size(bytes)).transpose()?;
        let socket = timeout(PATIENCE, socket.connect(target.address)).await.context("no connection in time")??;
        let stream: Box<dyn Stream> = match &target.tls {
            None => Box::new(socket),
            Some(config) => {
                let name = ServerName::try_from(HOST)?;
                Box::new(timeout(PATIENCE, TlsConnector::from(Arc::clone(config)).connect(name, socket)).await??)
            }
        };
        let request = format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", target.path);
        Ok(Self { stream, request, buffer: vec![0; 64 * 1024] })
    }

    /// Sends a request without reading the response.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(self.request.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads this much of a response, and no more.
    pub(crate) async fn sip(&mut self, bytes: usize) -> anyhow::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let most = left.min(self.buffer.len());
            let read =
                timeout(PATIENCE, self.stream.read(&mut self.buffer[..most])).await.context("nothing comes")??;
            ensure!(read > 0, "closed within the response");
            left -= read;
        }
        Ok(())
    }

    /// Sends a request, and reads its response.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<()> {
        timeout(PATIENCE, self.ask_and_read()).await.context("no response in time")?
    }

    async fn ask_and_read(&mut self) -> anyhow::Result<()> {
        self.ask().await?;
        let mut filled = 0;
        let end = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(read > 0, "closed within the head");
            filled += read;
            if let Some(end) = find(&self.buffer[..filled], b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end])?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "no success: {head}");
        let length: usize = field(head, "content-length").context("no length")?.parse()?;
        let mut left = length - (filled - end);
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).await?;
            ensure!(read > 0 && read <= left, "another length");
            left -= read;
        }
        Ok(())
    }
}

/// An open tunnel.
pub(crate) struct Tunnel {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    is_checked: bool,
    /// The name of its backend, as reported by the backend.
    pub backend: String,
    /// The session cookie, if a new one was set.
    pub cookie: Option<String>,
    /// Whether TLS was resumed.
    pub is_resumed: bool,
}

impl Tunnel {
    /// Connects, and switches protocols.
    pub(crate) async fn open(target: &Target, cookie: Option<&str>) -> anyhow::Result<Self> {
        timeout(PATIENCE, Self::connect(target, cookie)).await.context("no tunnel in time")?
    }

    async fn connect(target: &Target, cookie: Option<&str>) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(target.address).await?;
        socket.set_nodelay(true)?;
        let Some(config) = &target.tls else { return Self::switch(Box::new(socket), target, cookie).await };
        let name = ServerName::try_from(HOST)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, socket).await?;
        let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let tunnel = Self::switch(Box::new(stream), target, cookie).await?;
        Ok(Self { is_resumed, ..tunnel })
    }

    async fn switch(mut stream: Box<dyn Stream>, target: &Target, cookie: Option<&str>) -> anyhow::Result<Self> {
        let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Origin: https://{HOST}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n\
             Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\n{cookie}\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            target.path
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let (mut buffer, mut filled) = (vec![0; 2048], 0);
        let end = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "closed within the handshake: {}", String::from_utf8_lossy(&buffer[..filled]));
            filled += read;
            if let Some(end) = find(&buffer[..filled], b"\r\n\r\n") {
                break end + 4;
            }
        };
        ensure!(end == filled, "more than a head");
        let head = std::str::from_utf8(&buffer[..end])?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "no switch: {head}");
        ensure!(field(head, "sec-websocket-accept") == Some(ACCEPT), "another's switch: {head}");
        let cookie = field(head, "set-cookie").and_then(|cookie| Some(cookie.split_once(';')?.0.to_owned()));
        let backend = field(head, "x-backend").context("no backend's name")?.to_owned();
        Ok(Self { stream, buffer: Vec::new(), is_checked: false, backend, cookie, is_resumed: false })
    }

    /// Sends a message, and waits for the echo.
    pub(crate) async fn exchange(&mut self, message: &Message) -> anyhow::Result<()> {
        timeout(PATIENCE, self.send_and_receive(message)).await.context("no answer in time")?
    }

    async fn send_and_receive(&mut self, message: &Message) -> anyhow::Result<()> {
        self.stream.write_all(&message.sent).await?;
        self.stream.flush().await?;
        self.buffer.resize(message.back.len(), 0);
        self.stream.read_exact(&mut self.buffer).await?;
        // The first one is compared completely; for the others only what is cheap.
        let looked_at = if self.is_checked { 2 } else { message.back.len() };
        if self.buffer[..looked_at] != message.back[..looked_at] {
            bail!("another message came back");
        }
        self.is_checked = true;
        Ok(())
    }

    /// Sends these bytes, to which nobody replies.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.context("nothing is taken")??;
        Ok(self.stream.flush().await?)
    }

    /// Sends a Close, and waits for the other side's.
    pub(crate) async fn close(mut self) {
        // Simultaneously closed by the other side also counts as closed.
        self.stream.shutdown().await.ok();
        let mut rest = [0; 64];
        while timeout(PATIENCE, self.stream.read(&mut rest)).await.is_ok_and(|read| read.is_ok_and(|read| read > 0)) {}
    }
}
