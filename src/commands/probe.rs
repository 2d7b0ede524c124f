//! `switchyard probe`: one request to each URL, as a client would send it, for images without a shell.

use std::{fmt, path::Path, process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::any_certificate::AnyCertificate;
use crate::{app, args::ProbeArguments, compile::without_byte_order_mark};

/// Tries every URL and reports each result.
///
/// # Errors
/// If the certificates to trust cannot be read.
pub(super) fn run(arguments: &ProbeArguments) -> anyhow::Result<ExitCode> {
    let (tls, runtime) = (tls(arguments)?, app::runtime()?);
    let mut code = ExitCode::SUCCESS;
    for url in &arguments.urls {
        let start = Instant::now();
        let probed = runtime.block_on(async {
            let probed = tokio::time::timeout(arguments.timeout, probe(url, arguments, tls.clone()));
            probed.await.unwrap_or_else(|_| Err(anyhow!("no response within --timeout")))
        });
        let milliseconds = start.elapsed().as_millis();
        match probed {
            Ok(answer) => println!("{url}: {answer} after {milliseconds} ms"),
            Err(error) => {
                println!("{url}: failed after {milliseconds} ms: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The response of a server.
struct ProbeAnswer {
    status: StatusCode,
    location: Option<HeaderValue>,
}

impl fmt::Display for ProbeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        self.location
            .as_ref()
            .map_or(Ok(()), |location| write!(f, " to {}", String::from_utf8_lossy(location.as_bytes())))
    }
}

trait ProbeStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ProbeStream for T {}

async fn probe(url: &Uri, arguments: &ProbeArguments, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<ProbeAnswer> {
    let scheme = url.scheme_str().unwrap_or_default();
    let (is_secure, is_upgrade) = (["https", "wss"].contains(&scheme), ["ws", "wss"].contains(&scheme));
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address = arguments.connect_to.clone().unwrap_or_else(|| {
        let port = url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    });
    let stream = TcpStream::connect(&address).await.with_context(|| format!("cannot connect to {address}"))?;
    let stream: Box<dyn ProbeStream> = match tls.filter(|_| is_secure) {
        None => Box::new(stream),
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).context("not a valid name for a certificate")?;
            Box::new(TlsConnector::from(tls).connect(name, stream).await.context("TLS handshake failed")?)
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime; the request reports its errors.
    tokio::spawn(connection.with_upgrades());
    let key = is_upgrade.then(generate_key);
    let response = sender.send_request(request(url, key.as_deref())?).await.context("no response")?;
    judge(&response, arguments, key.as_deref())
}

fn request(url: &Uri, key: Option<&str>) -> anyhow::Result<Request<Empty<Bytes>>> {
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("switchyard-probe/", env!("CARGO_PKG_VERSION")));
    if let Some(key) = key {
        let fields = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, key),
        ];
        request = fields.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    }
    Ok(request.body(Empty::new())?)
}

/// Whether a response is as expected: any status with --any-status, otherwise --expect-status, otherwise 101 for a
/// WebSocket and anything below 500 for HTTP. A 101 must also belong to the handshake.
fn judge(response: &Response<Incoming>, arguments: &ProbeArguments, key: Option<&str>) -> anyhow::Result<ProbeAnswer> {
    let status = response.status();
    match arguments.expect_status.or(key.map(|_| 101)) {
        _ if arguments.any_status => {}
        Some(wanted) => ensure!(status == wanted, "expected status {wanted}, got {status}"),
        None => ensure!(status.as_u16() < 500, "{status}"),
    }
    if let Some(key) = key.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        let is_ours = accept.is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
        ensure!(is_ours, "{status}, but its Sec-WebSocket-Accept does not belong to the handshake");
    }
    Ok(ProbeAnswer { status, location: response.headers().get(header::LOCATION).cloned() })
}

/// TLS settings, if any URL needs them: an image may have no CA certificates at all.
fn tls(arguments: &ProbeArguments) -> anyhow::Result<Option<Arc<ClientConfig>>> {
    if !arguments.urls.iter().any(|url| ["https", "wss"].contains(&url.scheme_str().unwrap_or_default())) {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &arguments.ca_file {
        Some(file) => builder.with_root_certificates(authorities(file)?),
        None if arguments.insecure => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        None => builder
            .with_platform_verifier()
            .context("no CA certificates on this system; set --ca-file or --insecure")?,
    };
    Ok(Some(Arc::new(builder.with_no_client_auth())))
}

fn authorities(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(file).with_context(|| format!("--ca-file {}", file.display()))?;
    let certificates = CertificateDer::pem_slice_iter(without_byte_order_mark(&pem)).collect::<Result<Vec<_>, _>>();
    for certificate in certificates.with_context(|| format!("--ca-file {}", file.display()))? {
        roots.add(certificate).with_context(|| format!("--ca-file {}", file.display()))?;
    }
    ensure!(!roots.is_empty(), "--ca-file {}: contains no certificate", file.display());
    Ok(roots)
}
