//! The other end of a connection, in memory: a rustls client, and one that follows no rules. Only for tests and
//! fuzzing, which access it through the modules around it.

use std::{
    io::{Read, Write},
    sync::{Arc, OnceLock},
};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedCipherSuite,
    crypto::aws_lc_rs::{cipher_suite, default_provider},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

use super::Records;

/// Every cipher suite that records may use.
pub(in crate::proxy) static SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The configuration of both ends of connections with one suite.
#[derive(Clone)]
pub(in crate::proxy) struct Ends {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

const NAME: &str = "chat.example.com";

impl Ends {
    pub(in crate::proxy) fn new(suite: SupportedCipherSuite) -> Self {
        static CERTIFICATE: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
        let (certificate, key) = CERTIFICATE.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
            (made.cert.der().clone(), made.signing_key.serialize_der())
        });
        let mut provider = default_provider();
        provider.cipher_suites = vec![suite];
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        client.enable_secret_extraction = true;
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = PrivateKeyDer::try_from(key.clone()).unwrap();
        let server = server.unwrap().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
        let mut server = server.unwrap();
        server.enable_secret_extraction = true;
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    pub(in crate::proxy) fn client(&self) -> ClientConnection {
        let mut client = ClientConnection::new(self.client.clone(), NAME.try_into().unwrap()).unwrap();
        client.set_buffer_limit(None);
        client
    }

    /// A client and the proxy's end, after their handshake.
    pub(in crate::proxy) fn connect(&self) -> (ClientConnection, Records) {
        let mut client = self.client();
        let mut server = UnbufferedServerConnection::new(self.server.clone()).unwrap();
        let (mut to_server, mut to_client, mut room) = (Vec::new(), Vec::new(), vec![0; 1 << 16]);
        let mut over = false;
        while !over {
            let UnbufferedStatus { discard, state } = server.process_tls_records(&mut to_server);
            let mut blocked = false;
            match state.unwrap() {
                ConnectionState::EncodeTlsData(mut message) => {
                    let length = message.encode(&mut room).unwrap();
                    to_client.extend(&room[..length]);
                }
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::BlockedHandshake => blocked = true,
                ConnectionState::WriteTraffic(_) => over = true,
                state => panic!("{state:?}"),
            }
            to_server.drain(..discard);
            if blocked || over {
                hear(&mut client, &std::mem::take(&mut to_client)).unwrap();
                to_server.extend(wire(&mut client));
            }
        }
        (client, Records::take_over(server).unwrap())
    }
}

/// The bytes that a client has to send.
pub(in crate::proxy) fn wire(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

/// The records with which a client sends this payload.
pub(in crate::proxy) fn say(client: &mut ClientConnection, payload: &[u8]) -> Vec<u8> {
    client.writer().write_all(payload).unwrap();
    wire(client)
}

/// The payload that a client reads from these records.
pub(in crate::proxy) fn hear(client: &mut ClientConnection, mut wire: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut heard = Vec::new();
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        let waiting = client.process_new_packets()?.plaintext_bytes_to_read();
        let start = heard.len();
        heard.resize(start + waiting, 0);
        client.reader().read_exact(&mut heard[start..]).unwrap();
    }
    Ok(heard)
}

/// Has a client's keys, and puts arbitrary content into records.
pub(in crate::proxy) struct Forger {
    aead: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    pub is_tls13: bool,
    is_gcm: bool,
}

impl Forger {
    pub(in crate::proxy) fn new(client: ClientConnection) -> Self {
        let is_tls13 = client.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => panic!("no suite of ours"),
        };
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        let is_gcm = *algorithm != CHACHA20_POLY1305;
        Self { aead, iv: iv.as_ref().try_into().unwrap(), sequence, is_tls13, is_gcm }
    }

    /// A record with this content, in TLS 1.3 followed by `padding` zeros.
    pub(in crate::proxy) fn record(&mut self, content: u8, payload: &[u8], padding: usize) -> Vec<u8> {
        let mut body = payload.to_vec();
        if !self.is_tls13 {
            return self.seal(content, body);
        }
        body.push(content);
        body.resize(body.len() + padding, 0);
        self.seal(23, body)
    }

    /// A record with this body.
    pub(in crate::proxy) fn seal(&mut self, outer: u8, mut body: Vec<u8>) -> Vec<u8> {
        let number = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number);
        nonce.iter_mut().zip(self.iv).for_each(|(byte, iv)| *byte ^= iv);
        let explicit = if self.is_gcm && !self.is_tls13 { nonce[4..].to_vec() } else { Vec::new() };
        let header = |length: usize| [&[outer, 3, 3][..], &u16::try_from(length).unwrap().to_be_bytes()].concat();
        let sealed = header(explicit.len() + body.len() + 16);
        let additional = if self.is_tls13 { sealed.clone() } else { [&number[..], &header(body.len())].concat() };
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.aead.seal_in_place_append_tag(nonce, Aad::from(additional), &mut body).unwrap();
        [sealed, explicit, body].concat()
    }
}
