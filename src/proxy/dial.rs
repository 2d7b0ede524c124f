//! Connecting to an endpoint.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::table::Endpoint;

/// Why no address of an endpoint gave a connection.
#[derive(Debug)]
pub(super) enum DialError {
    /// The last one did not answer in time.
    TimedOut,
    /// The last one refused, or cannot be reached.
    Failed,
}

/// Connects to the first address of an endpoint that accepts, those of IPv4 before those of IPv6. The limit is for
/// each attempt.
pub(super) async fn dial(endpoint: &Endpoint, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    let (v4, v6): (Vec<&SocketAddr>, Vec<_>) = endpoint.addresses.iter().partition(|address| address.is_ipv4());
    let mut last = DialError::Failed;
    for address in v4.into_iter().chain(v6) {
        last = match attempt(*address, limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => DialError::TimedOut,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.name, %address, %error, "endpoint not reached");
                DialError::Failed
            }
        };
    }
    Err(last)
}

async fn attempt(address: SocketAddr, limit: Option<Duration>) -> io::Result<TcpStream> {
    let connect = TcpStream::connect(address);
    let stream = match limit {
        Some(limit) => tokio::time::timeout(limit, connect).await??,
        None => connect.await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
