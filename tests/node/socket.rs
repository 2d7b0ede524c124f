//! A client's WebSocket over TLS, like a browser's: it verifies the certificate, keeps the cookie, and knows how the
//! socket closed.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{ClientRequestBuilder, Message, protocol::CloseFrame},
};

/// Time limit for anything on a socket, on a machine busy with rolling pods.
const PATIENCE: Duration = Duration::from_secs(10);

/// The host to request, and the CA that the client trusts.
#[derive(Clone)]
pub(crate) struct Site {
    host: String,
    trust: Arc<ClientConfig>,
}

impl Site {
    /// A host whose certificate is signed by this CA (PEM) and no other.
    pub(crate) fn new(host: &str, authority: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { host: host.into(), trust: trust.into() }
    }
}

/// An open socket.
pub(crate) struct Socket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    /// The pod that greeted it.
    pub(crate) pod: String,
    /// The session cookie for reconnecting: the one that was set, or else the one that was sent.
    pub(crate) cookie: Option<String>,
}

/// How a socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By a Close frame.
    Closed {
        /// Its code (RFC 6455 §7.4).
        code: u16,
        /// Its reason.
        reason: String,
    },
    /// Without a Close frame, which clients report as 1006.
    Lost(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code, reason } => write!(f, "{code} {reason:?}"),
            Self::Lost(why) => write!(f, "1006 ({why})"),
        }
    }
}

impl Socket {
    /// Opens a socket to an address, and waits for the greeting.
    ///
    /// # Errors
    /// The cause, such as the status of a response other than 101.
    pub(crate) async fn open(at: SocketAddr, site: &Site, cookie: Option<&str>) -> Result<Self, String> {
        let opened = timeout(PATIENCE, Self::try_open(at, site, cookie)).await;
        opened.unwrap_or_else(|_| Err(format!("no greeting within {PATIENCE:?}")))
    }

    async fn try_open(at: SocketAddr, site: &Site, cookie: Option<&str>) -> Result<Self, String> {
        let stream = TcpStream::connect(at).await.map_err(|error| format!("{at}: {error}"))?;
        let name = ServerName::try_from(site.host.clone()).expect("a host's name");
        let connector = TlsConnector::from(Arc::clone(&site.trust));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        let mut request = ClientRequestBuilder::new(format!("wss://{}/", site.host).parse().expect("a URL"));
        if let Some(cookie) = cookie {
            request = request.with_header("cookie", cookie);
        }
        let (mut stream, response) =
            client_async(request, stream).await.map_err(|error| format!("handshake: {error}"))?;
        let set = response.headers().get("set-cookie").and_then(|field| field.to_str().ok());
        let set = set.and_then(|field| field.split(';').next()).map(str::to_owned);
        match stream.next().await {
            Some(Ok(message)) if message.is_text() => {
                Ok(Self { stream, pod: message.to_string(), cookie: set.or_else(|| cookie.map(str::to_owned)) })
            }
            other => Err(format!("no greeting: {other:?}")),
        }
    }

    /// Sends a text and waits for its echo.
    ///
    /// # Errors
    /// How the socket ended instead.
    pub(crate) async fn echo(&mut self, text: &str) -> Result<(), Ended> {
        // A socket that has just been closed cannot be written to, but reading it reveals the cause.
        let sent = self.stream.send(Message::text(text)).await;
        match self.next().await {
            Ok(message) if sent.is_ok() && message == Message::text(text) => Ok(()),
            Ok(message) => Err(Ended::Lost(format!("sent {text:?} ({sent:?}), got {message:?}"))),
            Err(ended) => Err(ended),
        }
    }

    /// Closes the socket from this side, and waits for the response.
    pub(crate) async fn close(mut self) -> Result<(), Ended> {
        self.stream.close(None).await.map_err(|error| Ended::Lost(error.to_string()))?;
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(Ended::Closed { .. }) => return Ok(()),
                Err(lost) => return Err(lost),
            }
        }
    }

    async fn next(&mut self) -> Result<Message, Ended> {
        loop {
            let message = timeout(PATIENCE, self.stream.next()).await;
            let message = message.map_err(|_| Ended::Lost(format!("nothing within {PATIENCE:?}")))?;
            match message {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    let ended = ended_by(frame);
                    // Responds to the Close, so that the other side can finish cleanly.
                    while timeout(PATIENCE, self.stream.next()).await.is_ok_and(|next| matches!(next, Some(Ok(_)))) {}
                    return Err(ended);
                }
                Some(Ok(message)) => return Ok(message),
                Some(Err(error)) => return Err(Ended::Lost(error.to_string())),
                None => return Err(Ended::Lost("end of stream".into())),
            }
        }
    }
}

fn ended_by(frame: Option<CloseFrame>) -> Ended {
    // A Close frame without a code is reported as 1005.
    frame.map_or(Ended::Closed { code: 1005, reason: String::new() }, |frame| Ended::Closed {
        code: frame.code.into(),
        reason: frame.reason.to_string(),
    })
}
