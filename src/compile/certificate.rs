//! Secrets of type `kubernetes.io/tls`, read into certificates that a handshake can use.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::ByteString;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::table::{Certificate, ObjectName, TlsIdentity};

use super::{ClusterView, SecretObject, TLS_SECRET_TYPE, without_byte_order_mark};

type Digest = [u8; 32];

/// The certificates read in this build and the last, by the data that they were read from: reading a key costs more
/// than the rest of a route.
#[derive(Debug, Default)]
pub(super) struct CertificateMemory {
    before: ReadCertificates,
    now: ReadCertificates,
}

#[derive(Debug, Default)]
struct ReadCertificates {
    certificates: HashMap<Digest, Result<Arc<Certificate>, Arc<str>>>,
    identities: HashMap<Digest, Arc<TlsIdentity>>,
}

impl CertificateMemory {
    /// The certificate in a Secret.
    ///
    /// # Errors
    /// If the Secret or a usable certificate is missing.
    pub(super) fn read(&mut self, view: &ClusterView, name: &ObjectName) -> Result<Arc<Certificate>, Arc<str>> {
        let absent = || format!("there is no Secret {name} of type {TLS_SECRET_TYPE}");
        let secret = view.secrets.get(name).ok_or_else(absent)?;
        let (chain, key) = data(secret).map_err(|fault| format!("Secret {name}: {fault}"))?;
        let digest = digest(chain, key);
        let Self { before, now } = self;
        let read = || parse(chain, key, digest).map(Arc::new).map_err(Arc::from);
        let before = &mut before.certificates;
        let certificate = now.certificates.entry(digest).or_insert_with(|| before.remove(&digest).unwrap_or_else(read));
        certificate.clone().map_err(|fault| format!("Secret {name}: {fault}").into())
    }

    /// The identity with these certificates: the same object as in the last build, by which the proxy recognises that
    /// its prepared configuration, including clients' tickets, is still valid.
    pub(super) fn identity(&mut self, certificates: &[Arc<Certificate>]) -> Arc<TlsIdentity> {
        let identity = TlsIdentity::new(certificates.into());
        let Self { before, now } = self;
        let same = now.identities.entry(*identity.digest());
        same.or_insert_with(|| before.identities.remove(identity.digest()).unwrap_or_else(|| Arc::new(identity)))
            .clone()
    }

    /// Ends a build: forgets certificates that were not read during it.
    pub(super) fn end_build(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

fn data<'a>(secret: &'a SecretObject) -> Result<(&'a [u8], &'a [u8]), String> {
    let type_ = secret.type_.as_deref().unwrap_or("Opaque");
    if type_ != TLS_SECRET_TYPE {
        return Err(format!("must be of type {TLS_SECRET_TYPE}, got {type_}"));
    }
    let value = |name: &str, value: Option<&'a ByteString>| match value {
        Some(ByteString(bytes)) if !bytes.is_empty() => Ok(without_byte_order_mark(bytes)),
        Some(_) => Err(format!("{name} is empty")),
        None => Err(format!("{name} is missing")),
    };
    Ok((value("tls.crt", secret.data.certificate.as_ref())?, value("tls.key", secret.data.key.as_ref())?))
}

fn digest(chain: &[u8], key: &[u8]) -> Digest {
    let mut hash = ::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256);
    hash.update(&(chain.len() as u64).to_be_bytes());
    hash.update(chain);
    hash.update(key);
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn parse(chain: &[u8], key: &[u8], digest: Digest) -> Result<Certificate, String> {
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("tls.crt is not valid PEM: {error}"))?;
    let leaf = chain.first().ok_or("tls.crt contains no certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key contains no private key: {error}"))?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| format!("tls.crt contains no X.509 certificate: {error}"))?;
    let (names, not_after) = (names(&parsed), time(parsed.validity().not_after.timestamp()));
    // Checks that TLS can use the key, and that it belongs to the certificate.
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &aws_lc_rs::default_provider()).map_err(
        |error| match error {
            rustls::Error::InconsistentKeys(_) => "tls.key is not the key of the certificate in tls.crt".to_owned(),
            rustls::Error::InvalidCertificate(error) => format!("tls.crt cannot be used: {error:?}"),
            error => format!("tls.key cannot be used: {error}"),
        },
    )?;
    Ok(Certificate { chain, key, names, not_after, digest })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|extension| &extension.value.general_names);
    names.into_iter().flatten().filter_map(general_name).collect()
}

fn general_name(name: &GeneralName<'_>) -> Option<Box<str>> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()?;
            Some(address.to_string().into())
        }
        _ => None,
    }
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
