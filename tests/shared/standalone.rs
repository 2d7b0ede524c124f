//! The switchyard binary in front of backends on loopback: a directory of manifests, and ports chosen by the system.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use super::{
    certificates::Certificates,
    plain,
    process::{Process, START_DEADLINE},
};

/// The running binary. Dropping it stops everything.
pub(crate) struct Standalone {
    /// The port for `ws://localhost`.
    pub(crate) http: String,
    /// The port for `wss://localhost`.
    pub(crate) https: String,
    process: Process,
    /// Dropped last, because the binary watches it.
    folder: TempDir,
}

impl Standalone {
    /// Serves these manifests, plus the Secret `shop/tls` with a certificate for `localhost`.
    pub(crate) fn serving(manifests: &str) -> Self {
        Self::serving_with(manifests, &[])
    }

    /// The same, with more arguments.
    pub(crate) fn serving_with(manifests: &str, more: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder can be created");
        let certificates = Certificates::for_localhost();
        let directory = folder.path().join("manifests");
        fs::create_dir(&directory).expect("a temporary folder can be written");
        fs::write(directory.join("all.yaml"), secret(&certificates) + manifests).expect("as above");
        fs::write(folder.path().join("authority.pem"), certificates.authority).expect("as above");

        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.arg("standalone").arg("--manifests").arg(&directory).args(["--default-certificate", "shop/tls"]);
        command.args(["--http-listen=127.0.0.1:0", "--https-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        command.args(more);
        let process = Process::start("switchyard", &mut command);
        let [http, https, admin] = listeners(&process);
        wait_until_ready(&admin);
        Self { http, https, process, folder }
    }

    /// The PEM file with the CA that clients must trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// The Service `shop/NAME` with port 80, and a pod behind each of these loopback ports.
pub(crate) fn service(name: &str, ports: &[String]) -> String {
    let mut manifests = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  ports:
  - {{name: http, port: 80}}
"
    );
    for (number, port) in (1..).zip(ports) {
        write!(manifests, "{}", slice(name, number, port)).expect("strings can be written");
    }
    manifests
}

/// One pod; each has its own slice, because their ports differ.
fn slice(name: &str, number: usize, port: &str) -> String {
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-{number}
  namespace: shop
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
- {{name: http, port: {port}, protocol: TCP}}
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true, serving: true, terminating: false}}
  targetRef: {{kind: Pod, name: {name}-{number}, namespace: shop, uid: {name}-uid-{number}}}
"
    )
}

fn secret(Certificates { chain, key, authority: _ }: &Certificates) -> String {
    let (chain, key) = (STANDARD.encode(chain), STANDARD.encode(key));
    format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: tls, namespace: shop}}
type: kubernetes.io/tls
data:
  tls.crt: {chain}
  tls.key: {key}
"
    )
}

/// The ports of the http, https and admin listeners, which may be printed in any order.
fn listeners(switchyard: &Process) -> [String; 3] {
    let mut told = BTreeMap::new();
    while told.len() < 3 {
        let line = switchyard.line_after("listening ", START_DEADLINE);
        let (name, address) = line.split_once(' ').expect("a listener has a name and an address");
        let (_, port) = address.rsplit_once(':').expect("an address has a port");
        told.insert(name.to_owned(), port.to_owned());
    }
    ["http", "https", "admin"].map(|name| told.remove(name).unwrap_or_else(|| panic!("no {name} listener")))
}

/// Polls `/readyz`: another process cannot be waited for in any other way.
fn wait_until_ready(admin_port: &str) {
    let end = Instant::now() + START_DEADLINE;
    while !is_ready(admin_port) {
        assert!(Instant::now() < end, "switchyard does not become ready");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_ready(admin_port: &str) -> bool {
    let answer = plain::get(format!("127.0.0.1:{admin_port}"), "localhost", "/readyz", "");
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
