//! Backends and clients of the tests.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures::{SinkExt, StreamExt};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
    },
};

use super::{block_on, spawn};

/// A backend on an address that EndpointSlices may contain. It greets every socket with its name, then echoes; plain
/// requests also get its name.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
}

impl Backend {
    /// Starts a backend on `192.0.2.<host>`, at a port chosen by the system.
    pub fn start(name: &str, host: u8) -> Self {
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), 0);
        let listener = block_on(TcpListener::bind(listen)).unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Self { name: name.to_owned(), address };
        let name = backend.name.clone();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name.clone()));
            }
        });
        backend
    }
}

async fn serve(mut stream: TcpStream, name: String) {
    let mut head = [0; 4096];
    let length = stream.peek(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
    if !head.contains("upgrade: websocket") {
        let _ = stream.read(&mut [0; 4096]).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}", name.len());
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let Ok(mut socket) = accept_async(stream).await else { return };
    let _ = socket.send(Message::text(name)).await;
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_text() || socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A client's open WebSocket.
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    /// The name of the backend that greeted it.
    pub backend: String,
}

impl Client {
    /// Connects through a proxy.
    ///
    /// # Errors
    /// The cause, such as the status of a response other than 101.
    pub fn connect(proxy: SocketAddr, host: &str, path: &str) -> Result<Self, String> {
        block_on(Self::open(proxy, host, path))
    }

    /// The same for async callers.
    ///
    /// # Errors
    /// The cause, such as the status of a response other than 101.
    pub async fn open(proxy: SocketAddr, host: &str, path: &str) -> Result<Self, String> {
        let request = format!("ws://{host}{path}").into_client_request().map_err(|error| error.to_string())?;
        Self::send(proxy, request).await.map(|(client, _)| client)
    }

    /// Connects with this cookie; also returns the one that is set.
    ///
    /// # Errors
    /// The cause, such as the status of a response other than 101.
    pub fn connect_with_cookie(
        proxy: SocketAddr,
        host: &str,
        cookie: Option<&str>,
    ) -> Result<(Self, Option<String>), String> {
        let mut request = format!("ws://{host}/").into_client_request().map_err(|error| error.to_string())?;
        if let Some(cookie) = cookie {
            request.headers_mut().insert("cookie", cookie.parse().expect("it is a cookie's text"));
        }
        let (client, answer) = block_on(Self::send(proxy, request))?;
        let set = answer.headers().get("set-cookie").and_then(|cookie| cookie.to_str().ok());
        let set = set.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        Ok((client, set))
    }

    async fn send(proxy: SocketAddr, request: Request) -> Result<(Self, Response), String> {
        let stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
        let (mut socket, answer) = client_async(request, stream).await.map_err(|error| error.to_string())?;
        match socket.next().await {
            Some(Ok(message)) => Ok((Self { socket, backend: message.to_string() }, answer)),
            other => Err(format!("no greeting: {other:?}")),
        }
    }

    /// Sends a text and returns the echo.
    ///
    /// # Errors
    /// If the socket is no longer open.
    pub fn echo(&mut self, text: &str) -> Result<String, String> {
        block_on(async {
            self.socket.send(Message::text(text)).await.map_err(|error| error.to_string())?;
            match self.socket.next().await {
                Some(Ok(message)) => Ok(message.to_string()),
                other => Err(format!("{other:?}")),
            }
        })
    }
}

/// Sends a plain GET and returns the whole response.
///
/// # Errors
/// If there is no connection or no response.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<String, String> {
    block_on(async {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
    .map_err(|error: std::io::Error| error.to_string())
}

/// The certificate that TLS clients get for a host.
///
/// # Errors
/// If the handshake fails.
pub fn certificate_sent(address: SocketAddr, host: &str) -> Result<Vec<u8>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    block_on(async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let sent = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        sent.map(|sent| sent.to_vec()).ok_or_else(|| "no certificate".to_owned())
    })
}

/// Accepts any certificate: the tests check it themselves.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
