//! A backend: answers the handshake, and echoes every message once it is complete. Under `/ws/sink` it discards all
//! input, and a request that is not a handshake gets as many bytes as given at the end of its path.

use std::net::SocketAddr;

use anyhow::Context;
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::frame::{self, Head};

const BACKLOG: u32 = 4096;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const SINK: &str = "GET /ws/sink ";
const CHUNK: usize = 256 * 1024;

/// Serves until the process is killed. The handshake's response contains the name.
pub(crate) fn run(address: SocketAddr, name: &str) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let name = name.to_owned();
            tokio::task::spawn_local(async move { serve(stream, &name).await.ok() });
        }
    })
}

async fn serve(mut stream: TcpStream, name: &str) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(1024);
    let end = loop {
        anyhow::ensure!(stream.read_buf(&mut buffer).await? > 0, "closed within the handshake");
        if let Some(end) = super::find(&buffer, END_OF_HEAD) {
            break end + END_OF_HEAD.len();
        }
    };
    let request = std::str::from_utf8(&buffer[..end])?.to_owned();
    buffer.advance(end);
    let Some(key) = super::field(&request, "sec-websocket-key") else { return answer(stream, buffer, request).await };
    stream.write_all(switch(key, name).as_bytes()).await?;
    if request.starts_with(SINK) {
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        return Ok(());
    }
    echo(stream, buffer).await
}

/// Answers plain requests, one after the other.
async fn answer(mut stream: TcpStream, mut buffer: BytesMut, mut request: String) -> anyhow::Result<()> {
    let body = vec![b'x'; CHUNK];
    loop {
        let path = request.split(' ').nth(1).context("no path")?;
        let mut left: usize = path.rsplit('/').next().unwrap_or_default().parse()?;
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes()).await?;
        while left > 0 {
            left -= stream.write(&body[..left.min(CHUNK)]).await?;
        }
        let end = loop {
            if let Some(end) = super::find(&buffer, END_OF_HEAD) {
                break end + END_OF_HEAD.len();
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        request = std::str::from_utf8(&buffer[..end])?.to_owned();
        buffer.advance(end);
    }
}

async fn echo(mut stream: TcpStream, mut buffer: BytesMut) -> anyhow::Result<()> {
    loop {
        let head = Head::parse(&buffer);
        let length = head.as_ref().map_or(1024, |head| head.length + head.payload);
        let Some(Head { length: start, payload, mask }) = head.filter(|_| buffer.len() >= length) else {
            buffer.reserve(length - buffer.len().min(length) + 1);
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let mask = mask.context("a client masks")?;
        frame::apply(mask, &mut buffer[start..start + payload]);
        // The head of the reply is shorter, because it has no mask: it goes right before the payload.
        let head = frame::head(payload);
        let first = start - head.len();
        buffer[first..start].copy_from_slice(&head);
        stream.write_all(&buffer[first..length]).await?;
        buffer.advance(length);
    }
}

fn switch(key: &str, name: &str) -> String {
    let accept = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nX-Backend: {name}\r\n\r\n",
        STANDARD.encode(accept)
    )
}
