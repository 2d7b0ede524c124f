//! TLS for clients without it: plain connections in, TLS connections out, and every kind of end passed on.
//!
//! An end with `close_notify` becomes a FIN, in each direction independently; a reset, or an end without
//! `close_notify`, becomes a reset. So a client sees through it what the proxy did.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use socket2::SockRef;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
};
use tokio_rustls::TlsConnector;

/// A running bridge. Dropping it ends it with all its connections.
pub(crate) struct Bridge {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Bridge {
    /// Starts one to the port of a TLS server at `localhost`, whose certificate is signed by `authority` (a PEM file).
    pub(crate) fn start(port: &str, authority: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(authority).expect("the authority is of our own making");
        roots.add(authority).expect("as above");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let server = format!("127.0.0.1:{port}");

        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server.clone(), connector.clone()));
            }
        });
        Self { address, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// One connection, until it ends.
async fn carry(mut client: TcpStream, server: String, connector: TlsConnector) {
    let server = TcpStream::connect(server).await.expect("the server listens");
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("it is connected");
    }
    let name = ServerName::try_from("localhost").expect("localhost is a name");
    let mut server = connector.connect(name, server).await.expect("the server speaks TLS and is trusted");
    if copy_bidirectional(&mut client, &mut server).await.is_err() {
        for stream in [&client, server.get_ref().0] {
            // Fails if the other side has already reset it.
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
        }
    }
}
