//! A certificate for a host and the CA that signed it, as PEM.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// The content of a TLS Secret, and the CA for clients.
pub(crate) struct Certificates {
    pub(crate) authority: String,
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Certificates {
    /// Fresh ones for `localhost`, for this test only.
    pub(crate) fn for_localhost() -> Self {
        Self::for_host("localhost")
    }

    /// Fresh ones, for this test only.
    pub(crate) fn for_host(host: &str) -> Self {
        let mut authority = CertificateParams::new([]).expect("an empty list of names is valid");
        // An explicit name: rcgen gives all the same, and a leaf with its issuer's name looks self-signed.
        authority.distinguished_name.push(DnType::CommonName, "client tests");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate().expect("the system provides random bytes");
        let authority_pem = authority.self_signed(&authority_key).expect("the key is ours").pem();

        let mut leaf = CertificateParams::new([host.to_owned()]).expect("the name is valid");
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("the system provides random bytes");
        let issuer = Issuer::new(authority, authority_key);
        let chain = leaf.signed_by(&key, &issuer).expect("the keys are ours").pem();
        Self { authority: authority_pem, chain, key: key.serialize_pem() }
    }
}
