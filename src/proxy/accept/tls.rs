//! TLS with clients: selecting the certificate.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use rustls::{
    ServerConfig, SignatureScheme,
    crypto::aws_lc_rs::{self, Ticketer},
    server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache},
    sign::CertifiedKey,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::Acceptor;
use crate::{
    proxy::{
        request::peer::TlsPeer,
        transport::{
            handshake,
            stream::{self, Stream},
        },
    },
    table::{Certificate, Host, TlsIdentity},
};

/// The number of sessions stored for TLS 1.2 clients without tickets.
const STORED_SESSIONS: usize = 1024;
/// Alerts (RFC 8446 §6.2).
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// Performs the TLS handshake with a client; `None` if it fails.
pub(crate) async fn accept(acceptor: &Acceptor, socket: TcpStream) -> Option<(Stream, TlsPeer)> {
    let limit = acceptor.shared.settings.tls_handshake_timeout;
    let accepted =
        tokio::time::timeout(limit, perform_handshake(acceptor, socket)).await.unwrap_or(Err(TlsFailure::TimedOut));
    match accepted {
        Ok((stream, peer)) => {
            acceptor.shared.metrics.tls_handshake("ok", stream.tls_version());
            Some((stream, peer))
        }
        Err(failure) => {
            tracing::debug!(%failure, "TLS handshake failed");
            acceptor.shared.metrics.tls_handshake(failure.label(), "unknown");
            failure.alert(acceptor.shared.settings.linger_timeout).await;
            None
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum TlsFailure {
    #[error("the handshake timed out")]
    TimedOut,
    #[error("no certificate for the name")]
    UnknownName(TcpStream),
    #[error("the certificate cannot be used")]
    Unusable(TcpStream),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl TlsFailure {
    fn label(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::UnknownName(_) => "unrecognized_name",
            Self::Unusable(_) => "unusable_certificate",
            Self::Io(_) => "failed",
        }
    }

    /// Sends an alert if rustls has not: a fatal one in plaintext, since no keys have been negotiated (RFC 8446 §6).
    async fn alert(self, patience: Duration) {
        let (mut socket, description) = match self {
            Self::UnknownName(socket) => (socket, UNRECOGNIZED_NAME),
            Self::Unusable(socket) => (socket, INTERNAL_ERROR),
            Self::TimedOut | Self::Io(_) => return,
        };
        if socket.write_all(&[0x15, 3, 3, 0, 2, 2, description]).await.is_ok() {
            stream::close(socket, patience).await;
        }
    }
}

/// Why no certificate can be sent.
#[derive(Clone, Copy, Debug)]
enum NoCertificate {
    UnknownName,
    Unusable,
}

async fn perform_handshake(acceptor: &Acceptor, socket: TcpStream) -> Result<(Stream, TlsPeer), TlsFailure> {
    let (started, accepted) = handshake::start(socket).await?;
    let chosen = choose(acceptor, &accepted.client_hello());
    drop(accepted);
    match chosen {
        Ok((prepared, peer)) => Ok((started.finish(prepared.config.clone()).await?, peer)),
        Err(NoCertificate::UnknownName) => Err(TlsFailure::UnknownName(started.socket)),
        Err(NoCertificate::Unusable) => Err(TlsFailure::Unusable(started.socket)),
    }
}

fn choose(acceptor: &Acceptor, hello: &ClientHello<'_>) -> Result<(Arc<Prepared>, TlsPeer), NoCertificate> {
    let name = hello.server_name().and_then(|name| Host::from_name(name).ok());
    let table = acceptor.shared.table.load();
    if let Some(name) = &name
        && let Some(tls) = table.tls(name)
    {
        let identity = tls.identity.as_ref().map_err(|_| NoCertificate::Unusable)?;
        let name = name.clone().into_owned();
        return Ok((acceptor.identities.prepared(identity).ok_or(NoCertificate::Unusable)?, TlsPeer::Named(name)));
    }
    let identity = table.default_identity().ok_or(NoCertificate::UnknownName)?;
    let prepared = acceptor.identities.prepared(identity).ok_or(NoCertificate::Unusable)?;
    let sent = prepared.certificates.pick(name.as_ref(), hello.signature_schemes()).0.clone();
    Ok((prepared, TlsPeer::Default { sent, named: name.is_some() }))
}

/// The prepared TLS configuration of each [`TlsIdentity`]. Tickets and stored sessions are never shared, otherwise a
/// session of one identity could resume into another.
#[derive(Debug, Default)]
pub(crate) struct Identities(Mutex<HashMap<[u8; 32], PreparedEntry>>);

/// A prepared configuration, and a reference that shows whether any table still contains its identity.
type PreparedEntry = (Weak<TlsIdentity>, Arc<Prepared>);

#[derive(Debug)]
pub(crate) struct Prepared {
    config: Arc<ServerConfig>,
    certificates: Arc<KeyedCertificates>,
}

impl Identities {
    /// The configuration of an identity, prepared if absent. Preparing one drops those whose identities are gone.
    fn prepared(&self, identity: &Arc<TlsIdentity>) -> Option<Arc<Prepared>> {
        let mut prepared = self.0.lock().expect("no holder panics");
        if let Some((owner, prepared)) = prepared.get_mut(identity.digest()) {
            if owner.strong_count() == 0 {
                *owner = Arc::downgrade(identity);
            }
            return Some(prepared.clone());
        }
        let made =
            Arc::new(prepare(identity).inspect_err(|error| tracing::warn!(%error, "certificate cannot be used")).ok()?);
        prepared.retain(|_, (owner, _)| owner.strong_count() > 0);
        prepared.insert(*identity.digest(), (Arc::downgrade(identity), made.clone()));
        Some(made)
    }
}

fn prepare(identity: &TlsIdentity) -> Result<Prepared, rustls::Error> {
    let keyed = identity.certificates.iter().map(|certificate| {
        let key = aws_lc_rs::sign::any_supported_type(&certificate.key)?;
        Ok((certificate.clone(), Arc::new(CertifiedKey::new(certificate.chain.clone(), key))))
    });
    let certificates = Arc::new(KeyedCertificates(keyed.collect::<Result<_, rustls::Error>>()?));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    // A reconnecting client needs one, and then gets the next.
    config.send_tls13_tickets = 1;
    // For `records`, which continues with the keys of the handshake.
    config.enable_secret_extraction = true;
    config.session_storage = ServerSessionMemoryCache::new(STORED_SESSIONS);
    Ok(Prepared { config: Arc::new(config), certificates })
}

/// The certificates of an identity with their keys; never empty.
struct KeyedCertificates(Box<[(Arc<Certificate>, Arc<CertifiedKey>)]>);

impl KeyedCertificates {
    /// The first certificate that covers the name and whose key the client can verify; otherwise the first that it can
    /// verify; otherwise the first.
    fn pick(&self, name: Option<&Host<'_>>, schemes: &[SignatureScheme]) -> &(Arc<Certificate>, Arc<CertifiedKey>) {
        let usable = |(_, key): &&(_, Arc<CertifiedKey>)| key.key.choose_scheme(schemes).is_some();
        let covering = |(certificate, _): &&(Arc<Certificate>, _)| name.is_some_and(|name| certificate.covers(name));
        let usable_ones = || self.0.iter().filter(usable);
        usable_ones().find(covering).or_else(|| usable_ones().next()).unwrap_or(&self.0[0])
    }
}

impl ResolvesServerCert for KeyedCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| Host::from_name(name).ok());
        Some(self.pick(name.as_ref(), hello.signature_schemes()).1.clone())
    }
}

/// Does not print keys.
impl fmt::Debug for KeyedCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(certificate, _)| certificate)).finish()
    }
}
