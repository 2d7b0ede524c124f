//! The echo server of the demo: echoes WebSocket messages, and answers plain requests with a page to try it.

use std::{convert::Infallible, future::ready, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use tracing::debug;

const PAGE: &str = include_str!("demo.html");

/// Starts an echo server on a free loopback port; it ends with the runtime.
///
/// # Errors
/// If no port can be bound.
pub(super) async fn start(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http1::Builder::new()
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(move |request| ready(Ok::<_, Infallible>(answer(name, request)))),
                )
                .with_upgrades();
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "a connection to the echo server ended early");
                }
            });
        }
    });
    Ok(address)
}

fn answer(name: &'static str, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = match request.headers().get("sec-websocket-key").cloned() {
        None => page(name),
        Some(key) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(upgraded) => echo(name, upgraded).await,
                    Err(error) => debug!(%error, "an upgrade to the echo server failed"),
                }
            });
            accept(&key)
        }
    };
    response.headers_mut().insert("x-backend", HeaderValue::from_static(name));
    response
}

fn accept(key: &HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is a field value");
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}

fn page(name: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(PAGE.replace("{{backend}}", name)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// Echoes every message; the response to `who` is the server's name.
async fn echo(name: &str, upgraded: hyper::upgrade::Upgraded) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let who: Arc<str> = name.into();
    while let Some(Ok(message)) = socket.next().await {
        let reply = match message {
            Message::Text(text) if text.as_str() == "who" => Message::text(who.to_string()),
            message @ (Message::Text(_) | Message::Binary(_)) => message,
            // The library responds to pings and closes when it is polled.
            _ => continue,
        };
        if let Err(error) = socket.send(reply).await {
            debug!(%error, "a socket of the echo server ended early");
            return;
        }
    }
}
