//! Echo servers, the proxy in front of them, and a program that checks them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    bridge::Bridge,
    shared::{
        process::{Process, START_DEADLINE},
        standalone::{self, Standalone},
        toolbox::Toolbox,
        verdict::Verdict,
    },
};

/// Time limit for a program; each of its cases has its own deadline.
const DEADLINE: Duration = Duration::from_secs(300);

/// A server to put behind the proxy.
#[derive(Clone, Copy)]
pub(crate) enum Server {
    /// Echoes, with Python's `websockets`.
    Websockets,
    /// Echoes, with npm's `ws`.
    Ws,
    /// Accepts compression, and reports the bytes it received.
    Raw,
    /// Sends and closes on command, and reports what it received and how it ended.
    Scripted,
}

/// One server, and the proxy in front of it. Dropping it stops everything.
pub(crate) struct Bed {
    server: String,
    bridge: Bridge,
    switchyard: Standalone,
    _running: Process,
}

impl Bed {
    pub(crate) fn start(tools: &Toolbox, server: Server) -> Self {
        let mut command = match server {
            Server::Websockets => tools.python("conformance/echo.py"),
            Server::Ws => tools.node("conformance/echo.js"),
            Server::Raw => tools.python("conformance/raw-backend.py"),
            Server::Scripted => tools.python("conformance/scripted.py"),
        };
        let running = Process::start("server", &mut command);
        let server = running.line_after("listening ", START_DEADLINE);
        let manifests = ROUTE.to_owned() + &standalone::service("server", std::slice::from_ref(&server));
        let switchyard = Standalone::serving(&manifests);
        let bridge = Bridge::start(&switchyard.https, &switchyard.authority());
        Self { server, bridge, switchyard, _running: running }
    }

    /// The server directly, and through the proxy, for a client without TLS.
    pub(crate) fn plan(&self) -> Value {
        let Self { server, bridge, switchyard, _running } = self;
        json!({
            "direct": format!("ws://127.0.0.1:{server}/"),
            "proxied": {
                "ws": format!("ws://localhost:{}/", switchyard.http),
                "wss": format!("ws://localhost:{}/", bridge.port()),
            },
        })
    }

    /// The server through the proxy, for a client with TLS.
    pub(crate) fn urls(&self) -> [String; 2] {
        let Standalone { http, https, .. } = &self.switchyard;
        [format!("ws://localhost:{http}/"), format!("wss://localhost:{https}/")]
    }

    /// Runs a program and reads its result.
    pub(crate) fn run(&self, tools: &Toolbox, program: &str, plan: &Value) -> Verdict {
        let mut command = tools.python(&format!("conformance/{program}"));
        command.env("SSL_CERT_FILE", self.switchyard.authority()).arg(plan.to_string());
        Verdict::of(program, &mut command, DEADLINE)
    }
}

const ROUTE: &str = "---
apiVersion: switchyard.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: conformance, namespace: shop}
spec:
  hostnames: [localhost]
  tls:
    certificateRefs:
    - name: tls
    insecurePolicy: Allow
  rules:
  - backendRefs:
    - {name: server, port: 80}
";
