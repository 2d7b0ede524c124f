//! TLS settings of hostnames: plain values, compared by digest. The proxy prepares what a TLS handshake needs from
//! them.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Host, ObjectName};
use crate::choices::InsecurePolicy;

/// The TLS settings of one hostname, which its owner determines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTls {
    /// The route that the settings come from.
    pub owner: ObjectName,
    /// What happens to requests without TLS.
    pub insecure_policy: InsecurePolicy,
    /// What TLS handshakes use, or why none can succeed. An error never causes the hostname to be served in plaintext.
    pub identity: Result<Arc<TlsIdentity>, Arc<str>>,
}

/// Everything that determines how a TLS handshake proceeds. Identities with the same digest share a configuration,
/// including tickets; those with different digests never do, otherwise a session of one could resume into the other.
#[derive(Debug)]
pub struct TlsIdentity {
    /// The certificates to choose from, in the order in which the route lists them; never empty.
    pub certificates: Box<[Arc<Certificate>]>,
    digest: [u8; 32],
}

impl TlsIdentity {
    /// An identity with these certificates.
    #[must_use]
    pub fn new(certificates: Box<[Arc<Certificate>]>) -> Self {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for certificate in &certificates {
            hash.update(&certificate.digest);
        }
        let digest = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Self { certificates, digest }
    }

    /// The digest that distinguishes it from others.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl PartialEq for TlsIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TlsIdentity {}

/// A certificate chain with its key, which have been checked to match.
pub struct Certificate {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// The DNS names and addresses in the leaf's subjectAltName, in lower case.
    pub names: Vec<Box<str>>,
    /// When the leaf expires.
    pub not_after: SystemTime,
    /// A hash of the Secret data that it was read from.
    pub digest: [u8; 32],
}

impl Certificate {
    /// Whether a client that connects to `host` would accept its names: a wildcard stands for one label (RFC 9525
    /// §6.3).
    #[must_use]
    pub fn covers(&self, host: &Host<'_>) -> bool {
        let host = host.as_str().trim_matches(['[', ']']);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
            None => **name == *host,
        })
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Certificate {}

/// Does not print the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_certificate_covers_one_label() {
        let certificate = Certificate {
            chain: Vec::new(),
            key: PrivateKeyDer::Pkcs8(Vec::new().into()),
            names: ["example.com", "*.example.com", "127.0.0.1", "::1"].map(Box::from).to_vec(),
            not_after: SystemTime::UNIX_EPOCH,
            digest: [0; 32],
        };
        let covers = |host| certificate.covers(&Host::parse(host).unwrap());
        assert!(["example.com", "Chat.example.com", "127.0.0.1:443", "[::1]"].into_iter().all(covers));
        assert!(!["a.chat.example.com", "example.org", "com", "127.0.0.2"].into_iter().any(covers));
    }
}
