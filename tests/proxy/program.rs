//! The program as a user runs it: the demo, a directory of manifests, signals, exit codes.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Instant,
};

use futures::{SinkExt, StreamExt};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::shared::{
    plain,
    process::{Process, START_DEADLINE},
};

fn switchyard(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(arguments);
    command
}

/// A running program and its listeners.
struct Running {
    process: Process,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    /// Removes what the program leaves behind when it is killed.
    _temporary: tempfile::TempDir,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = switchyard(arguments);
        command.env("TMPDIR", temporary.path());
        command.args(["--http-listen=127.0.0.1:0", "--https-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        let process = Process::start("switchyard", &mut command);
        let address = |name: &str| process.line_after(&format!("listening {name} "), START_DEADLINE).parse().unwrap();
        let (http, https, admin) = (address("http"), address("https"), address("admin"));
        Self { process, http, https, admin, _temporary: temporary }
    }

    fn standalone(manifests: &Path, more: &[&str]) -> Self {
        let manifests = manifests.to_str().unwrap();
        Self::start(&[&["standalone", "--manifests", manifests], more].concat())
    }

    /// Waits until the response is as wanted.
    fn wait_until_served(&self, wanted: impl Fn(&str) -> bool) {
        until("it serves what is wanted", || wanted(&get(self.http, "")));
    }
}

/// Polls until the condition holds: another process follows files, without reporting when.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + START_DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// The whole response to a plain request.
fn get(address: SocketAddr, fields: &str) -> String {
    get_path(address, "/", fields)
}

fn get_path(address: SocketAddr, path: &str, fields: &str) -> String {
    get_from("localhost", address, path, fields)
}

/// The same, for another host.
fn get_from(host: &str, address: SocketAddr, path: &str, fields: &str) -> String {
    plain::get(address, host, path, fields).unwrap()
}

/// The value of a field in the head of a response.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let fields = answer.lines().skip(1).take_while(|line| !line.is_empty());
    let mut fields = fields.filter_map(|line| line.split_once(": "));
    fields.find_map(|(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
}

async fn echoes<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    text: &str,
) -> String {
    socket.send(Message::text(text)).await.unwrap();
    socket.next().await.unwrap().unwrap().into_text().unwrap().to_string()
}

/// The certificate in the demo's directory.
fn demo_certificate(directory: &Path) -> CertificateDer<'static> {
    let text = fs::read_to_string(directory.join("certificate.yaml")).unwrap();
    let encoded = text.lines().find_map(|line| line.trim().strip_prefix("tls.crt: ")).unwrap();
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap();
    CertificateDer::from_pem_slice(&pem).unwrap()
}

fn trusting(certificate: CertificateDer<'static>) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_serves_ws_and_wss_and_follows_its_file_while_an_open_socket_stays() {
    let running = Running::start(&["demo"]);
    let file = PathBuf::from(running.process.line_after("  /", START_DEADLINE));
    let file = Path::new("/").join(file);
    let stream = tokio::net::TcpStream::connect(running.http).await.unwrap();
    let (mut open, _) = client_async(format!("ws://{}/", running.http), stream).await.unwrap();
    assert_eq!(echoes(&mut open, "who").await, "blue");

    let stream = tokio::net::TcpStream::connect(running.https).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = trusting(demo_certificate(file.parent().unwrap())).connect(name, stream).await.unwrap();
    let (mut secure, _) = client_async(format!("wss://localhost:{}/", running.https.port()), stream).await.unwrap();
    assert_eq!(echoes(&mut secure, "hello").await, "hello");

    let text = fs::read_to_string(&file).unwrap();
    // Like an editor: a second file, renamed over the first.
    let edited = file.with_extension("tmp");
    fs::write(&edited, text.replace("name: blue", "name: green")).unwrap();
    fs::rename(&edited, &file).unwrap();
    running.wait_until_served(|answer| answer.contains("x-backend: green"));
    assert_eq!(echoes(&mut open, "who").await, "blue");
    assert_eq!(echoes(&mut secure, "who").await, "blue");
}

const MANIFESTS: &str = "\
apiVersion: switchyard.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: chat}
spec:
  rules:
  - backendRefs: [{name: chat, port: 80}]
    sessionPersistence: {cookie: {name: sid}}
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {ports: [{port: 80}]}
";

/// A directory with a route to backends that answer every request with their name.
fn manifests(backends: &[&'static str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut text = MANIFESTS.to_owned();
    for name in backends {
        let port = answering(name).port();
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: chat}}}}\n\
             addressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
        )
        .expect("writing to a String cannot fail");
    }
    fs::write(directory.path().join("all.yaml"), text).unwrap();
    directory
}

fn answering(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    address
}

#[test]
fn two_processes_with_one_key_file_hold_each_others_sessions() {
    let directory = manifests(&["one", "two", "three"]);
    let keys = tempfile::NamedTempFile::new().unwrap();
    fs::write(&keys, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").unwrap();
    let flag = format!("--session-key-file={}", keys.path().display());
    let (first, second) =
        (Running::standalone(directory.path(), &[&flag]), Running::standalone(directory.path(), &[&flag]));
    let answer = get(first.http, "");
    let cookie = field(&answer, "set-cookie").unwrap_or_else(|| panic!("no cookie: {answer}"));
    let sent = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let name = answer.rsplit("\r\n").next().unwrap();
    for _ in 0..10 {
        let answer = get(second.http, &sent);
        assert!(answer.ends_with(name) && field(&answer, "set-cookie").is_none(), "{answer}");
    }
}

#[test]
fn a_broken_file_is_reported_with_its_line_and_the_rest_is_served() {
    let directory = manifests(&["one"]);
    fs::write(
        directory.path().join("broken.yaml"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec:\n  porst: []\n",
    )
    .unwrap();
    let running = Running::standalone(directory.path(), &[]);
    assert!(get(running.http, "").ends_with("one"));
    let told = get_path(running.admin, "/api/v1/routes", "");
    assert!(told.contains("broken.yaml:5: spec.porst: "), "{told}");
    fs::write(directory.path().join("all.yaml"), "").unwrap();
    running.wait_until_served(|answer| answer.starts_with("HTTP/1.1 404 "));
}

#[test]
fn the_admin_port_serves_liveness_readiness_routes_and_metrics() {
    let directory = manifests(&["one"]);
    let running = Running::standalone(directory.path(), &[]);
    get(running.http, "");
    assert!(get_path(running.admin, "/livez", "").starts_with("HTTP/1.1 200 "));
    assert!(get_path(running.admin, "/readyz", "").starts_with("HTTP/1.1 200 "));
    let metrics = get_path(running.admin, "/metrics", "");
    for metric in [
        "switchyard_table_generation 1",
        "switchyard_table_routes 1",
        "switchyard_requests_total{namespace=\"default\",route=\"chat\",code=\"200\"} 1",
    ] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    let routes = get_path(running.admin, "/api/v1/routes", "");
    let (_, body) = routes.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["generation"], 1);
    assert_eq!(body["routes"][0]["conditions"][0]["type"], "Accepted");
    assert_eq!(body["routes"][0]["rules"][0]["backends"][0]["endpoints"][0]["state"], "Ready");
    assert!(get_path(running.http, "/api/v1/routes", "").ends_with("one"), "never on the public port");
}

#[test]
fn the_api_is_for_this_machine_alone_without_a_file_of_tokens() {
    let directory = manifests(&["one"]);
    let running = Running::standalone(directory.path(), &[]);
    let refused = get_from("10.0.0.1", running.admin, "/api/v1/routes", "Authorization: Bearer anything\r\n");
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("use kubectl port-forward"), "{refused}");
    assert!(get_from("10.0.0.1", running.admin, "/metrics", "").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_bearer_token_opens_the_api_from_anywhere_as_long_as_the_file_has_it() {
    let directory = manifests(&["one"]);
    let tokens = tempfile::NamedTempFile::new().unwrap();
    fs::write(&tokens, "first-first-first-first\n").unwrap();
    let flag = format!("--admin-token-file={}", tokens.path().display());
    let running = Running::standalone(directory.path(), &[&flag]);
    get(running.http, "");
    let get = |fields: &str| get_from("10.0.0.1", running.admin, "/api/v1/routes", fields);
    let with = |token: &str| get(&format!("Authorization: Bearer {token}-{token}-{token}-{token}\r\n"));

    let refused = get("");
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert_eq!(field(&refused, "www-authenticate"), Some(r#"Bearer realm="switchyard""#));
    let refused = with("other");
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert_eq!(field(&refused, "www-authenticate"), Some(r#"Bearer realm="switchyard", error="invalid_token""#));
    assert!(with("first").contains(r#""generation": 1"#));
    assert!(get_path(running.admin, "/api/v1/routes", "").starts_with("HTTP/1.1 200 "), "loopback needs no token");

    fs::write(&tokens, "other-other-other-other\n").unwrap();
    until("the new token opens", || with("other").starts_with("HTTP/1.1 200 "));
    assert!(with("first").starts_with("HTTP/1.1 401 "), "the old one is gone");
    fs::write(&tokens, "").unwrap();
    until("no token opens", || with("other").starts_with("HTTP/1.1 401 "));
}

/// Manifests of one route, in the namespace `default`, for one host.
fn manifests_for(host: &str) -> tempfile::TempDir {
    let directory = manifests(&["one"]);
    let file = directory.path().join("all.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let named = text.replacen("spec:\n", &format!("spec:\n  hostnames: [{host}]\n"), 1);
    assert!(named.contains(host), "{text}");
    fs::write(file, named).unwrap();
    directory
}

#[test]
fn a_change_of_the_list_of_owners_reroutes() {
    let directory = manifests_for("bank.test");
    let owners = tempfile::NamedTempFile::new().unwrap();
    fs::write(&owners, "{}\n").unwrap();
    let flag = format!("--hostname-owners={}", owners.path().display());
    let running = Running::standalone(directory.path(), &[&flag]);
    let served = || get_from("bank.test", running.http, "/", "");
    assert!(served().ends_with("one"));
    fs::write(&owners, "\u{feff}bank: [bank.test]\n").unwrap();
    until("the hostname is bank's", || served().starts_with("HTTP/1.1 404 "));
    let routes = get_path(running.admin, "/api/v1/routes", "");
    assert!(routes.contains("reserved for namespace bank"), "{routes}");
    fs::write(&owners, "default: [bank.test]\n").unwrap();
    until("the hostname is its own", || served().ends_with("one"));
}

#[test]
fn check_judges_by_the_list_of_owners() {
    let directory = manifests_for("bank.test");
    let owners = tempfile::NamedTempFile::new().unwrap();
    let check = |list: &str, more: &[&str]| {
        fs::write(&owners, list).unwrap();
        let (path, flag) =
            (directory.path().to_str().unwrap(), format!("--hostname-owners={}", owners.path().display()));
        let Output { status, stdout, stderr } = switchyard(&[&["check", path, &flag], more].concat()).output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    };
    let (code, said) = check("bank: [bank.test]\n", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("spec.hostnames[0]: hostname bank.test is reserved for namespace bank"), "{said}");
    assert_eq!(check("default: [bank.test]\n", &[]).0, Some(0));
    assert_eq!(check("bank: [bank.test]\n", &["--allow-shared-hostnames"]).0, Some(0));
    let (code, said) = check("bank: [bank.test, 7]\n", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--hostname-owners ") && said.contains("line 1: bank[1]: must be a hostname"), "{said}");
}

#[test]
fn a_backend_may_be_anywhere_on_loopback_but_at_the_admin_port() {
    let directory = manifests(&["one"]);
    let running = Running::standalone(directory.path(), &[]);
    let file = directory.path().join("all.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let (before, after) = text.rsplit_once("ports: [{port: ").unwrap();
    let (_, after) = after.split_once('}').unwrap();
    fs::write(&file, format!("{before}ports: [{{port: {}}}{after}", running.admin.port())).unwrap();
    running.wait_until_served(|answer| answer.starts_with("HTTP/1.1 503 "));
    let routes = get_path(running.admin, "/api/v1/routes", "");
    assert!(routes.contains("127.0.0.1 (the proxy's admin port)"), "{routes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_lists_open_tunnels_by_route_and_endpoint() {
    let running = Running::start(&["demo"]);
    running.process.line_after("  /", START_DEADLINE);
    let list = |query: &str| {
        let answer = get_path(running.admin, &format!("/api/v1/tunnels{query}"), "");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    };
    assert_eq!(list(""), serde_json::json!({ "total": 0, "tunnels": [] }));
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let stream = tokio::net::TcpStream::connect(running.http).await.unwrap();
        let (mut socket, _) = client_async(format!("ws://{}/", running.http), stream).await.unwrap();
        assert_eq!(echoes(&mut socket, "hello").await, "hello");
        sockets.push(socket);
    }
    let listed = list("?route=demo/demo&limit=1");
    assert_eq!(listed["total"], 2);
    assert_eq!(listed["tunnels"].as_array().unwrap().len(), 1);
    let oldest = &listed["tunnels"][0];
    assert_eq!((&oldest["route"], &oldest["service"]), (&"demo/demo".into(), &"demo/blue".into()));
    assert_eq!(oldest["client"], "127.0.0.1");
    // Two bytes of header, four of mask and the text. Bytes to the client are counted once they have been written,
    // which may be after the client has read them.
    assert_eq!(oldest["bytes"]["toBackend"], 11);
    assert!(oldest["bytes"]["toClient"].is_u64());
    let endpoint = oldest["endpoint"].as_str().unwrap();
    assert_eq!(list(&format!("?endpoint={endpoint}"))["total"], 2);
    assert_eq!(list("?route=demo/other")["total"], 0);
    let refused = get_path(running.admin, "/api/v1/tunnels?route=demo", "");
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("route must be namespace/name"), "{refused}");
    assert!(get_path(running.http, "/api/v1/tunnels", "").contains("x-backend"), "never on the public port");
}

fn signal(name: &str, process: &Process) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_first_signal_stops_gracefully_and_the_second_at_once() {
    let directory = manifests(&["one"]);
    let mut quick = Running::standalone(directory.path(), &[]);
    get(quick.http, "");
    signal("TERM", &quick.process);
    assert_eq!(quick.process.exit_code(), Some(0));

    let mut slow = Running::standalone(directory.path(), &["--shutdown-delay=1h"]);
    get(slow.http, "");
    signal("INT", &slow.process);
    let end = Instant::now() + START_DEADLINE;
    while get_path(slow.admin, "/readyz", "").starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < end, "a process that stops is not ready");
    }
    assert!(get(slow.http, "").ends_with("one"), "it keeps accepting for the delay");
    signal("TERM", &slow.process);
    assert_eq!(slow.process.exit_code(), Some(1));
}

fn output(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = switchyard(arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn bad_usage_exits_with_2_and_a_failure_with_1_and_the_flag_to_correct() {
    assert_eq!(output(&["standalone"]).0, Some(2));
    assert_eq!(output(&["demo", "--no-such-flag"]).0, Some(2));
    let (code, message) = output(&[
        "standalone",
        "--manifests=/nonexistent",
        "--http-listen=127.0.0.1:0",
        "--https-listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
    ]);
    assert!(code == Some(1) && message.contains("--manifests /nonexistent"), "{message}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let flag = format!("--http-listen={}", taken.local_addr().unwrap());
    let (code, message) = output(&["demo", &flag]);
    assert!(code == Some(1) && message.contains("--http-listen"), "{message}");
    let owners = tempfile::NamedTempFile::new().unwrap();
    fs::write(&owners, "shop:\n- example.com\n- example.com:80\n").unwrap();
    let flag = format!("--hostname-owners={}", owners.path().display());
    let (code, message) = output(&["demo", &flag, "--admin-listen=127.0.0.1:0"]);
    assert!(code == Some(1) && message.contains("--hostname-owners "), "{message}");
    assert!(message.contains("line 3: shop[1]: must be a hostname"), "{message}");
    let (code, message) = output(&["demo", "--session-key-file=/nonexistent"]);
    assert!(code == Some(1) && message.contains("--session-key-file /nonexistent"), "{message}");
}

#[test]
fn an_empty_environment_variable_counts_as_unset() {
    let mut command = switchyard(&["standalone", "--manifests=/nonexistent"]);
    for flag in [
        "HTTP_LISTEN",
        "HTTPS_LISTEN",
        "PUBLIC_HTTPS_PORT",
        "ADMIN_LISTEN",
        "CLASS",
        "THREADS",
        "DEFAULT_CERTIFICATE",
        "SESSION_KEY_FILE",
        "TRUSTED_PROXIES",
        "MAX_CONNECTIONS_PER_CLIENT",
        "ALLOW_SHARED_HOSTNAMES",
        "HOSTNAME_OWNERS",
        "SHUTDOWN_DELAY",
        "DRAIN_WINDOW",
        "LOG_FORMAT",
        "LOG_LEVEL",
    ] {
        command.env(format!("SWITCHYARD_{flag}"), "");
    }
    let Output { status, stderr, .. } = command.output().unwrap();
    assert_eq!(status.code(), Some(1), "{}", String::from_utf8_lossy(&stderr));
    let output = switchyard(&["standalone"]).env("SWITCHYARD_MANIFESTS", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
