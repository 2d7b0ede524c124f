//! Connecting to an endpoint.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use crate::{
    proxy::{
        request::{
            refusal::Refusal,
            routed::{Routed, uptime},
        },
        transport::stream::{self, Stream},
    },
    table::{Endpoint, InUse},
};

/// Why none of an endpoint's addresses could be connected to.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The last one did not respond in time.
    TimedOut,
    /// The last one refused, or is unreachable.
    Failed,
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::TimedOut => Self::ConnectTimeout,
            DialError::Failed => Self::Unreachable,
        }
    }
}

/// A dedicated connection to an endpoint.
pub(crate) struct Connected {
    pub endpoint: Arc<Endpoint>,
    pub in_use: InUse,
    pub backend: Stream,
}

/// Connects to the first endpoint that accepts a connection.
pub(crate) async fn connect(routed: &mut Routed) -> Result<Connected, Refusal> {
    let mut last = DialError::Failed;
    while let Some((endpoint, in_use)) = routed.pick() {
        match dial(&endpoint, routed.rule.policy.timeouts.backend_connect).await {
            Ok(backend) => return Ok(Connected { endpoint, in_use, backend }),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// Connects to the first address of an endpoint that accepts, IPv4 before IPv6. The limit applies to each attempt.
///
/// Records the result, so that an endpoint that is gone does not become the first choice of every request.
pub(crate) async fn dial(endpoint: &Endpoint, limit: Option<Duration>) -> Result<Stream, DialError> {
    let dialled = dial_addresses(endpoint, limit).await;
    match dialled {
        Ok(_) => endpoint.state.reached(),
        Err(_) => endpoint.state.unreached(uptime()),
    }
    dialled.map(Stream::from)
}

async fn dial_addresses(endpoint: &Endpoint, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    let (v4, v6): (Vec<&SocketAddr>, Vec<_>) = endpoint.addresses.iter().partition(|address| address.is_ipv4());
    let mut last = DialError::Failed;
    for address in v4.into_iter().chain(v6) {
        last = match attempt(*address, limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => DialError::TimedOut,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.name, %address, %error, "connection to endpoint failed");
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
    stream::tune(&stream)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::table::{EndpointId, ObjectName, Phase};

    fn endpoint(addresses: &[SocketAddr]) -> Endpoint {
        Endpoint {
            id: EndpointId::new(&ObjectName::new("shop", "chat"), 80, &"uid"),
            name: "chat-0".into(),
            addresses: addresses.into(),
            phase: Phase::Ready,
            state: Arc::default(),
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let live = listener.local_addr().unwrap();
        let stream = dial_addresses(&endpoint(&[refusing, live]), None).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!(stream.nodelay().unwrap());
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert!(matches!(dial(&endpoint(&[refusing]), None).await, Err(DialError::Failed)));
    }
}
