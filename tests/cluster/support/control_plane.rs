//! A separate control plane: etcd, API server and controller manager.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Assets, block_on};

const ADMIN: &str = "admin-token";

/// A running control plane. Its processes end when it is dropped, or with the process namespace.
pub struct ControlPlane {
    folder: TempDir,
    assets: Assets,
    address: Ipv4Addr,
    ports: Ports,
    flags: Vec<String>,
    etcd: Mutex<Process>,
    api_server: Mutex<Process>,
    controller_manager: Option<Process>,
}

struct Ports {
    etcd: u16,
    peer: u16,
    api: u16,
}

/// A process that is killed when it is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ControlPlane {
    /// Starts one on loopback with additional API server flags, and waits until it is ready.
    pub fn start(assets: Assets, flags: &[&str]) -> Self {
        Self::start_at(assets, Ipv4Addr::LOCALHOST, flags)
    }

    /// The same, on an address of this machine.
    pub fn start_at(assets: Assets, address: Ipv4Addr, flags: &[&str]) -> Self {
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports { etcd: free_port(), peer: free_port(), api: free_port() };
        write_credentials(folder.path(), address, ports.api);
        let etcd = start_etcd(&assets, folder.path(), &ports);
        let api_server = start_api_server(&assets, folder.path(), address, &ports, &flags);
        let mut plane = Self {
            folder,
            assets,
            address,
            ports,
            flags,
            etcd: Mutex::new(etcd),
            api_server: Mutex::new(api_server),
            controller_manager: None,
        };
        plane.wait_until_ready();
        plane.controller_manager = Some(plane.start_controller_manager());
        plane
    }

    /// Kills the API server and starts it again, on the same port and etcd. `between` runs while it is down.
    pub fn restart_api_server(&self, between: impl FnOnce()) {
        let mut process = self.api_server.lock().unwrap();
        let _ = process.0.kill();
        let _ = process.0.wait();
        between();
        *process = start_api_server(&self.assets, self.folder.path(), self.address, &self.ports, &self.flags);
        drop(process);
        self.wait_until_ready();
    }

    /// etcd's address.
    pub fn etcd_url(&self) -> String {
        let _running = self.etcd.lock().unwrap();
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    /// Runs kubectl as an administrator and returns its output.
    ///
    /// # Errors
    /// Its output if it fails.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(self.assets.program("kubectl"));
        command.arg("--kubeconfig").arg(self.admin_kubeconfig()).args(arguments);
        command.env("HOME", self.folder.path());
        run(&mut command, input)
    }

    /// Renders the chart with these values, either all of it or one template.
    ///
    /// # Errors
    /// helm's output if it fails.
    pub fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(self.assets.program("helm"));
        command.args(arguments).env("HOME", self.folder.path());
        command.arg("--kubeconfig").arg(self.admin_kubeconfig());
        run(&mut command, "")
    }

    /// `kubectl apply` of objects; panics if they are rejected.
    pub fn apply(&self, objects: &[Value]) {
        self.apply_text(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string());
    }

    /// `kubectl apply` of YAML; panics if it is rejected.
    pub fn apply_text(&self, text: &str) {
        if let Err(error) = self.kubectl(&["apply", "-f", "-"], text) {
            panic!("kubectl apply: {error}");
        }
    }

    /// Deletes an object, and waits until it is gone.
    pub fn delete(&self, namespace: &str, kind: &str, name: &str) {
        self.kubectl(&["delete", "-n", namespace, kind, name, "--timeout=20s"], "").expect("it can be deleted");
    }

    /// A client with all permissions.
    pub fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.admin_kubeconfig()).unwrap();
        block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        })
    }

    /// Writes a kubeconfig for a token.
    pub fn kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig(self.folder.path(), self.address, self.ports.api, token)).unwrap();
        path
    }

    /// The kubeconfig with all permissions.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// Starts another program, which logs into their folder.
    pub fn spawn(&self, command: Command, name: &str) -> Process {
        spawn(command, self.folder.path(), name)
    }

    /// The log of a program so far.
    pub fn log_of(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while let Err(error) = self.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"], "") {
            let ended = self.api_server.lock().unwrap().0.try_wait().unwrap().is_some();
            let may_become_ready = !ended && Instant::now() < deadline;
            assert!(
                may_become_ready,
                "the API server does not become ready: {error}\n{}",
                self.log_of("kube-apiserver")
            );
            sleep(Duration::from_millis(100));
        }
    }

    fn start_controller_manager(&self) -> Process {
        let path = |name| argument(&self.folder.path().join(name));
        let mut command = Command::new(self.assets.program("kube-controller-manager"));
        command.args([
            format!("--kubeconfig={}", argument(&self.admin_kubeconfig())),
            format!("--service-account-private-key-file={}", path("accounts.key")),
            format!("--root-ca-file={}", path("ca.crt")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ]);
        self.spawn(command, "kube-controller-manager")
    }
}

fn start_etcd(assets: &Assets, folder: &Path, ports: &Ports) -> Process {
    let (client, peer) = (format!("http://127.0.0.1:{}", ports.etcd), format!("http://127.0.0.1:{}", ports.peer));
    let mut command = Command::new(assets.program("etcd"));
    command.args([
        format!("--data-dir={}", argument(&folder.join("etcd"))),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
    ]);
    spawn(command, folder, "etcd")
}

fn start_api_server(assets: &Assets, folder: &Path, address: Ipv4Addr, ports: &Ports, flags: &[String]) -> Process {
    // A loopback address would be rejected, and the namespace has no default route to find another one.
    let advertised = if address.is_loopback() { Ipv4Addr::new(192, 0, 2, 1) } else { address };
    let path = |name| argument(&folder.join(name));
    let mut command = Command::new(assets.program("kube-apiserver"));
    command.args([
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
        format!("--bind-address={address}"),
        format!("--advertise-address={advertised}"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--secure-port={}", ports.api),
        format!("--cert-dir={}", path("certificates")),
        format!("--tls-cert-file={}", path("server.crt")),
        format!("--tls-private-key-file={}", path("server.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path("accounts.pub")),
        format!("--service-account-signing-key-file={}", path("accounts.key")),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        format!("--token-auth-file={}", path("tokens.csv")),
    ]);
    command.args(flags);
    spawn(command, folder, "kube-apiserver")
}

fn spawn(mut command: Command, folder: &Path, name: &str) -> Process {
    let log = fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log"))).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir(folder);
    Process(command.spawn().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// Runs a program to completion, with this input.
fn run(command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    let feed = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let _ = feed.join();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A CA, the API server's certificate, the key of service accounts, and the administrator's kubeconfig.
fn write_credentials(folder: &Path, address: Ipv4Addr, port: u16) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    // The last one is for pods: the first address of the Service range.
    let names = ["localhost".to_owned(), address.to_string(), "10.96.0.1".to_owned()];
    let server = CertificateParams::new(names).unwrap();
    let server = server.signed_by(&key, &Issuer::new(ca, &ca_key)).unwrap();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    write("ca.crt", ca_certificate.pem());
    write("server.crt", server.pem());
    write("server.key", key.serialize_pem());
    let accounts = KeyPair::generate().unwrap();
    write("accounts.key", accounts.serialize_pem());
    write("accounts.pub", accounts.public_key_pem());
    write("tokens.csv", format!("{ADMIN},admin,admin,system:masters\n"));
    write("admin.kubeconfig", kubeconfig(folder, address, port, ADMIN));
}

/// JSON, which is also YAML.
fn kubeconfig(folder: &Path, address: Ipv4Addr, port: u16, token: &str) -> String {
    let server = format!("https://{address}:{port}");
    let cluster = json!({ "server": server, "certificate-authority": argument(&folder.join("ca.crt")) });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": { "token": token } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    })
    .to_string()
}

fn argument(path: &Path) -> String {
    path.to_str().expect("temporary folders have readable names").to_owned()
}

/// An unused port. The namespace is ours, and the system does not reuse a port immediately.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
