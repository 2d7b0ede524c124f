//! Backends and clients of the tests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async, tungstenite::Message};

use super::{block_on, spawn};

/// A backend on an address that EndpointSlices may hold. It greets every socket with its name, then echoes; plain
/// requests are answered with its name too.
#[derive(Clone, Debug)]
pub struct Backend {
    /// What it calls itself.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Backend {
    /// Starts a backend on `192.0.2.<host>`, at a port of the system's choice.
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
    /// Says what went wrong, such as the status of an answer that is not 101.
    pub fn connect(proxy: SocketAddr, host: &str, path: &str) -> Result<Self, String> {
        block_on(Self::open(proxy, host, path))
    }

    /// The same for async callers.
    ///
    /// # Errors
    /// Says what went wrong, such as the status of an answer that is not 101.
    pub async fn open(proxy: SocketAddr, host: &str, path: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
        let url = format!("ws://{host}{path}");
        let (mut socket, _) = client_async(url, stream).await.map_err(|error| error.to_string())?;
        match socket.next().await {
            Some(Ok(message)) => Ok(Self { socket, backend: message.to_string() }),
            other => Err(format!("no greeting: {other:?}")),
        }
    }

    /// Sends a text and gives back what comes back.
    ///
    /// # Errors
    /// When the socket is no longer open.
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
