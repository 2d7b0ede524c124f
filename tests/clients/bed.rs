//! Backends, the switchyard binary in front of them, and a client program that judges.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    certificates::Certificates,
    process::{Process, START_DEADLINE},
    toolbox::Toolbox,
};

const BACKENDS: usize = 3;
/// How long a client program may take; each of its checks has a deadline of its own.
const CLIENT_DEADLINE: Duration = Duration::from_secs(80);

/// A kind of backend, which is a Service with a path of its own.
#[derive(Clone, Copy)]
pub(crate) enum Service {
    Echo,
    SockJs,
    EngineIo,
    Events,
}

/// How a route spreads its sessions, and whether it keeps them.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Balancing {
    /// Three backends each in turn, and a cookie.
    Persistent,
    /// Three backends each in turn, and nothing that holds a session.
    RoundRobin,
}

/// A client program.
#[derive(Clone, Copy)]
pub(crate) enum Client {
    Node(&'static str),
    Python(&'static str),
}

/// All that runs for one test. Everything ends with it.
pub(crate) struct Bed {
    origins: Vec<String>,
    backends_per_service: usize,
    switchyard: Option<Process>,
    backends: Vec<Process>,
    /// The last to go: the binary watches it.
    folder: TempDir,
}

impl Bed {
    /// One backend and nothing in front of it.
    pub(crate) fn without_proxy(tools: &Toolbox, service: Service) -> Self {
        let (backend, port) = service.backend(tools, 1);
        Self {
            folder: TempDir::new().expect("a temporary folder can be made"),
            origins: vec![format!("http://localhost:{port}")],
            backends_per_service: 1,
            switchyard: None,
            backends: vec![backend],
        }
    }

    /// Three backends for each service, one route to all of them, and the binary that serves it.
    pub(crate) fn start(tools: &Toolbox, services: &[Service], balancing: Balancing) -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let certificates = Certificates::for_localhost();
        let mut manifests = secret(&certificates) + &route(services, balancing);
        let mut backends = Vec::new();
        for service in services {
            manifests += &service.manifest();
            for number in 1..=BACKENDS {
                let (backend, port) = service.backend(tools, number);
                backends.push(backend);
                manifests += &service.slice_manifest(number, &port);
            }
        }
        let directory = folder.path().join("manifests");
        fs::create_dir(&directory).expect("a temporary folder can be written");
        fs::write(directory.join("all.yaml"), manifests).expect("a temporary folder can be written");
        fs::write(folder.path().join("authority.pem"), certificates.authority).expect("as above");

        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.arg("standalone").arg("--manifests").arg(&directory).args(["--default-certificate", "shop/tls"]);
        command.args([
            "--http-listen",
            "127.0.0.1:0",
            "--https-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
        let switchyard = Process::start("switchyard", &mut command);
        let [http, https, admin] = listeners(&switchyard);
        wait_until_ready(&admin);
        Self {
            folder,
            origins: vec![format!("http://localhost:{http}"), format!("https://localhost:{https}")],
            backends_per_service: BACKENDS,
            switchyard: Some(switchyard),
            backends,
        }
    }

    /// Runs a client program to its verdict.
    pub(crate) fn run(&self, tools: &Toolbox, client: Client) -> Verdict {
        let (name, mut command) = match client {
            Client::Node(program) => (program, tools.node(program)),
            Client::Python(program) => (program, tools.python(program)),
        };
        let authority = self.authority();
        command.env("NODE_EXTRA_CA_CERTS", &authority).env("SSL_CERT_FILE", &authority);
        command.arg(json!({ "origins": self.origins, "backends": self.backends_per_service }).to_string());
        let client = Process::start(name, &mut command);
        let verdict = client.line_after("{", CLIENT_DEADLINE);
        serde_json::from_str(&format!("{{{verdict}")).expect("the programs print a verdict")
    }

    /// No backend has seen a request that it could not make sense of.
    pub(crate) fn has_no_complaints(mut self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    /// A backend has seen such a request.
    pub(crate) fn complains_of(mut self, what: &str) {
        let complaints = self.complaints();
        assert!(complaints.iter().any(|complaint| complaint.contains(what)), "{complaints:#?}");
    }

    /// What backends complained of. The proxy ends first: while they end one by one, it would try requests that are
    /// still open with the others.
    fn complaints(&mut self) -> Vec<String> {
        if let Some(switchyard) = &mut self.switchyard {
            switchyard.kill();
        }
        let said: Vec<_> = self.backends.iter_mut().map(Process::end).collect();
        said.iter().flat_map(|said| said.lines()).filter(|line| line.starts_with("complaint")).map(Into::into).collect()
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }
}

/// What a client program found.
#[derive(Deserialize)]
pub(crate) struct Verdict {
    passed: Vec<String>,
    failed: BTreeMap<String, String>,
}

impl Verdict {
    /// Every check passed, and there were some.
    pub(crate) fn passes(self) {
        let Self { passed, failed } = self;
        let mut report = String::new();
        for (check, why) in &failed {
            writeln!(report, "\n{check}:\n{why}").expect("strings can be written");
        }
        assert!(failed.is_empty(), "{report}\nand these passed: {passed:#?}");
        assert!(!passed.is_empty(), "nothing was checked");
    }

    /// Every check failed, and there were some.
    pub(crate) fn fails(self) {
        let Self { passed, failed } = self;
        assert!(passed.is_empty() && !failed.is_empty(), "these should have failed: {passed:#?}");
    }
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::SockJs => "sockjs",
            Self::EngineIo => "engine",
            Self::Events => "events",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Echo => "/ws",
            Self::SockJs => "/sockjs",
            Self::EngineIo => "/engine.io",
            Self::Events => "/events",
        }
    }

    /// Starts a backend of this kind; with its port.
    fn backend(self, tools: &Toolbox, number: usize) -> (Process, String) {
        let mut command = tools.node(&format!("{}-backend.js", self.name()));
        let backend = Process::start(&format!("{} {number}", self.name()), command.arg(format!("backend-{number}")));
        let port = backend.line_after("listening ", START_DEADLINE);
        (backend, port)
    }

    fn manifest(self) -> String {
        let name = self.name();
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  ports:
  - {{name: http, port: 80}}
"
        )
    }

    /// One pod; each has a slice of its own, since their ports differ.
    fn slice_manifest(self, number: usize, port: &str) -> String {
        let name = self.name();
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

    fn rule(self, balancing: Balancing) -> String {
        let (name, path) = (self.name(), self.path());
        let mut rule = format!(
            "  - name: {name}
    matches:
    - path: {{type: PathPrefix, value: {path}}}
    backendRefs:
    - {{name: {name}, port: 80}}
    loadBalancing: {{algorithm: RoundRobin}}
"
        );
        if balancing == Balancing::Persistent {
            rule += "    sessionPersistence: {type: Cookie}\n";
        }
        rule
    }
}

fn route(services: &[Service], balancing: Balancing) -> String {
    let rules: String = services.iter().map(|service| service.rule(balancing)).collect();
    format!(
        "---
apiVersion: switchyard.dev/v1alpha1
kind: WebSocketRoute
metadata: {{name: clients, namespace: shop}}
spec:
  hostnames: [localhost]
  tls:
    certificateRefs:
    - name: tls
    insecurePolicy: Allow
  rules:
{rules}"
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

/// The ports of the http, https and admin listeners, which may be told in any order.
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

/// Asks `/readyz` again and again: another process cannot be waited for in another way.
fn wait_until_ready(admin_port: &str) {
    let end = Instant::now() + START_DEADLINE;
    while !is_ready(admin_port) {
        assert!(Instant::now() < end, "switchyard does not become ready");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_ready(admin_port: &str) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{admin_port}"))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer: String| answer.starts_with("HTTP/1.1 200"))
}
