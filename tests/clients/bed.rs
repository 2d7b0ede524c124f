//! Backends, the switchyard binary in front of them, and a client program that checks them.

use std::time::Duration;

use serde_json::json;

use crate::shared::{
    process::{Process, START_DEADLINE},
    standalone::{self, Standalone},
    toolbox::Toolbox,
    verdict::Verdict,
};

const BACKENDS: usize = 3;
/// Time limit for a client program; each of its checks has its own deadline.
const CLIENT_DEADLINE: Duration = Duration::from_secs(80);

/// A kind of backend: a Service with its own path.
#[derive(Clone, Copy)]
pub(crate) enum Service {
    Echo,
    SockJs,
    EngineIo,
    Events,
}

/// How a route distributes sessions, and whether it keeps them.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Balancing {
    /// Three backends in turn, with a cookie.
    Persistent,
    /// Three backends in turn, without session persistence.
    RoundRobin,
}

/// A client program.
#[derive(Clone, Copy)]
pub(crate) enum Client {
    Node(&'static str),
    Python(&'static str),
}

/// Everything that runs for one test. Dropping it stops everything.
pub(crate) struct Bed {
    origins: Vec<String>,
    backends_per_service: usize,
    switchyard: Option<Standalone>,
    backends: Vec<Process>,
}

impl Bed {
    /// One backend without a proxy.
    pub(crate) fn without_proxy(tools: &Toolbox, service: Service) -> Self {
        let (backend, port) = service.backend(tools, 1);
        Self {
            origins: vec![format!("http://localhost:{port}")],
            backends_per_service: 1,
            switchyard: None,
            backends: vec![backend],
        }
    }

    /// Three backends for each service, one route to all of them, and the binary that serves it.
    pub(crate) fn start(tools: &Toolbox, services: &[Service], balancing: Balancing) -> Self {
        let mut manifests = route(services, balancing);
        let mut backends = Vec::new();
        for service in services {
            let (running, ports): (Vec<_>, Vec<_>) =
                (1..=BACKENDS).map(|number| service.backend(tools, number)).unzip();
            manifests += &standalone::service(service.name(), &ports);
            backends.extend(running);
        }
        let switchyard = Standalone::serving(&manifests);
        let Standalone { http, https, .. } = &switchyard;
        Self {
            origins: vec![format!("http://localhost:{http}"), format!("https://localhost:{https}")],
            backends_per_service: BACKENDS,
            switchyard: Some(switchyard),
            backends,
        }
    }

    /// Runs a client program and reads its result.
    pub(crate) fn run(&self, tools: &Toolbox, client: Client) -> Verdict {
        let (name, mut command) = match client {
            Client::Node(program) => (program, tools.node(&format!("clients/node/{program}"))),
            Client::Python(program) => (program, tools.python(&format!("clients/python/{program}"))),
        };
        if let Some(switchyard) = &self.switchyard {
            let authority = switchyard.authority();
            command.env("NODE_EXTRA_CA_CERTS", &authority).env("SSL_CERT_FILE", &authority);
        }
        command.arg(json!({ "origins": self.origins, "backends": self.backends_per_service }).to_string());
        Verdict::of(name, &mut command, CLIENT_DEADLINE)
    }

    /// Asserts that no backend has seen a request it could not handle.
    pub(crate) fn has_no_complaints(mut self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    /// Asserts that a backend has seen such a request.
    pub(crate) fn complains_of(mut self, what: &str) {
        let complaints = self.complaints();
        assert!(complaints.iter().any(|complaint| complaint.contains(what)), "{complaints:#?}");
    }

    /// The complaints of the backends. The proxy stops first: otherwise, while they stop one by one, it would retry
    /// open requests on the others.
    fn complaints(&mut self) -> Vec<String> {
        if let Some(switchyard) = &mut self.switchyard {
            switchyard.kill();
        }
        let said: Vec<_> = self.backends.iter_mut().map(Process::end).collect();
        said.iter().flat_map(|said| said.lines()).filter(|line| line.starts_with("complaint")).map(Into::into).collect()
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

    /// Starts a backend of this kind; returns it with its port.
    fn backend(self, tools: &Toolbox, number: usize) -> (Process, String) {
        let mut command = tools.node(&format!("clients/node/{}-backend.js", self.name()));
        let backend = Process::start(&format!("{} {number}", self.name()), command.arg(format!("backend-{number}")));
        let port = backend.line_after("listening ", START_DEADLINE);
        (backend, port)
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
