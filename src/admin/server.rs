//! Accepts connections and serves one exchange on each: a request and its response.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    AdminLimits,
    answers::Answers,
    seats::{Busy, Seats},
};

/// The maximum size of a request's head, including a browser's cookies for localhost.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take to close its side, and how much it may still send.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER: u64 = 64 * 1024;
/// How often the connection limit is logged.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Serves for ever.
pub(super) async fn run(listener: TcpListener, answers: Arc<Answers>, limits: AdminLimits) {
    let mut seats = Seats::new(limits.connections);
    let mut crowd = Crowd::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(address) = seats.make_room() {
                    crowd.closed(address, limits.connections);
                }
                let busy = Busy::default();
                let exchange = serve(answers.clone(), stream, peer, limits, busy.clone());
                let task = tokio::spawn(exchange).abort_handle();
                seats.take(peer.ip().to_canonical(), busy, task);
                // Lets this connection read a request that has already arrived before another one could replace it.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection on the admin port");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Logs connections that had to make room.
#[derive(Default)]
struct Crowd {
    warned: Option<Instant>,
}

impl Crowd {
    fn closed(&mut self, address: IpAddr, limit: usize) {
        let now = Instant::now();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARNING_INTERVAL) {
            self.warned = Some(now);
            warn!(%address, limit, "connection limit of the admin port reached; closing the oldest idle connections");
        }
    }
}

async fn serve(answers: Arc<Answers>, stream: TcpStream, peer: SocketAddr, limits: AdminLimits, busy: Busy) {
    match timeout(limits.exchange, exchange(&answers, stream, peer, limits, &busy)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, %peer, "a connection to the admin port ended early"),
        Err(_) => debug!(%peer, "a connection to the admin port took too long"),
    }
}

async fn exchange(
    answers: &Answers,
    stream: TcpStream,
    peer: SocketAddr,
    limits: AdminLimits,
    busy: &Busy,
) -> hyper::Result<()> {
    let service = service_fn(async |request| {
        busy.set(true);
        Ok::<_, Infallible>(answers.answer(&request, peer).await)
    });
    let mut server = http1::Builder::new();
    // Without a second request, one deadline covers everything a client can do.
    server.keep_alive(false).max_buf_size(MAX_HEAD).timer(TokioTimer::new()).header_read_timeout(limits.head);
    let parts = server.serve_connection(TokioIo::new(stream), service).without_shutdown().await?;
    busy.set(false);
    linger(parts.io.into_inner()).await;
    Ok(())
}

/// Closes a connection so that the response arrives: closing a socket with unread bytes resets the connection, which
/// destroys the part that the client has not read yet.
async fn linger(mut stream: TcpStream) {
    let close = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(MAX_LINGER), &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, close).await;
}
