//! The connection limit for each client address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use switchyard::{proxy::Settings, table::RouteTable};
use tokio::net::TcpSocket;

use crate::{support::*, upgrade::open};

/// Loopback has many addresses, each of which is a client.
async fn client_from(last: u8, to: SocketAddr) -> Peer<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    Peer::new(soon(socket.connect(to)).await.unwrap())
}

fn limited(limit: u32) -> Settings {
    Settings { max_connections_per_client: limit, ..Settings::default() }
}

/// Whether a request that no route matches gets a response.
async fn is_served(client: &mut Peer<tokio::net::TcpStream>) -> bool {
    client.send("HEAD / HTTP/1.1\r\nHost: no.route.example\r\n\r\n").await;
    client.try_head().await.is_some_and(|head| head.status() == 404)
}

/// Whether the connection ends without a byte.
async fn is_refused(client: &mut Peer<tokio::net::TcpStream>) -> bool {
    client.rest().await.is_empty()
}

fn refused(harness: &Harness, count: u32) -> bool {
    harness.counted(&format!(r#"refusals_total{{namespace="",route="",reason="connections_per_client"}} {count}"#))
}

#[tokio::test]
async fn connections_over_the_limit_of_an_address_are_closed_at_once_and_counted() {
    let harness = Harness::start(RouteTable::default(), Settings { threads: 2, ..limited(2) });
    let mut first = client_from(1, harness.http).await;
    let mut second = client_from(1, harness.http).await;
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    // Nothing is read from the connection or sent on it, over TLS as over plaintext.
    for address in [harness.http, harness.https] {
        assert!(is_refused(&mut client_from(1, address).await).await);
    }
    assert!(refused(&harness, 2));
    let mut other = client_from(2, harness.http).await;
    assert!(is_served(&mut other).await, "another address has its own limit");
    drop(first);
    // The connection ends on another thread, some time later.
    while !is_served(&mut client_from(1, harness.http).await).await {}
}

#[tokio::test]
async fn a_tunnel_counts_until_it_ends() {
    let backend = RawBackend::bind().await;
    let harness = Harness::start(table(rule(&[backend.endpoint("a")])), limited(1));
    let (client, peer) = open(&harness, &backend).await;
    harness.tunnels(1).await;
    assert!(is_refused(&mut client_from(1, harness.http).await).await);
    assert!(refused(&harness, 1));
    drop((client, peer));
    harness.tunnels(0).await;
    // The socket closes shortly after the tunnel has ended.
    while !is_served(&mut client_from(1, harness.http).await).await {}
}

#[tokio::test]
async fn a_trusted_proxy_may_have_any_number_of_connections() {
    let trusted = IpAddr::from(Ipv4Addr::LOCALHOST).into();
    let settings = Settings { trusted_proxies: vec![trusted], ..limited(1) };
    let harness = Harness::start(RouteTable::default(), settings);
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = client_from(1, harness.http).await;
        assert!(is_served(&mut client).await);
        clients.push(client);
    }
    let mut other = client_from(2, harness.http).await;
    assert!(is_served(&mut other).await);
    assert!(is_refused(&mut client_from(2, harness.http).await).await);
}
