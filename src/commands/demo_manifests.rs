//! The manifests of the demo.

use std::{fs, io, net::SocketAddr, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};

/// The namespace of the demo's objects.
pub(super) const NAMESPACE: &str = "demo";
/// The Secret with the demo's certificate.
pub(super) const CERTIFICATE: &str = "demo-tls";
/// The file with the route.
pub(super) const ROUTE_FILE: &str = "route.yaml";

const ROUTE: &str = "\
# Save a change to this file, and the next connection follows it. Open connections stay where they are.
apiVersion: switchyard.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: demo, namespace: demo}
spec:
  tls:
    certificateRefs: [{name: demo-tls}]
    insecurePolicy: Allow
  rules:
  - matches:
    - path: {type: PathPrefix, value: /}
    backendRefs:
    - {name: blue, port: 80}   # try: green
";

/// Writes the route, the Services with their endpoints, and the certificate.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(
    directory: &Path,
    backends: &[(&str, SocketAddr)],
    certificate: &DemoCertificate,
) -> io::Result<()> {
    fs::write(directory.join(ROUTE_FILE), ROUTE)?;
    for (name, address) in backends {
        fs::write(directory.join(format!("{name}.yaml")), service(name, *address))?;
    }
    fs::write(directory.join("certificate.yaml"), secret(certificate))
}

/// A self-signed certificate for the names of this machine, with its key; both as PEM.
pub(super) struct DemoCertificate {
    chain: String,
    key: String,
}

impl DemoCertificate {
    /// Generates a fresh one.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub(super) fn generate() -> Result<Self, rcgen::Error> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
        Ok(Self { chain: cert.pem(), key: signing_key.serialize_pem() })
    }
}

fn service(name: &str, address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  ports:
  - {{port: 80}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
- {{port: {port}}}
endpoints:
- addresses: [{ip}]
  conditions: {{ready: true}}
"
    )
}

fn secret(DemoCertificate { chain, key }: &DemoCertificate) -> String {
    format!(
        "\
apiVersion: v1
kind: Secret
metadata: {{name: {CERTIFICATE}, namespace: {NAMESPACE}}}
type: kubernetes.io/tls
data:
  tls.crt: {}
  tls.key: {}
",
        STANDARD.encode(chain),
        STANDARD.encode(key)
    )
}
