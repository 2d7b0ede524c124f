//! The test node: the control plane, and everything that runs pods.

use std::{
    env,
    fmt::Write,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;

use crate::support::{Assets, ControlPlane, Process, eventually};

/// The name of the image under test in the archive.
pub(crate) const IMAGE: (&str, &str) = ("localhost/switchyard", "test");
/// The image of the test's own pods.
pub(crate) const BACKEND_IMAGE: &str = "localhost/backend:test";

const CONTAINERD: &str = "/run/containerd/containerd.sock";
const NAME: &str = "node";
/// The domain of Service names.
const DOMAIN: &str = "cluster.local";

/// A running node. Its processes end when it is dropped, and pods with the namespaces (`tests/node/run.sh`).
pub(crate) struct Node {
    /// Its control plane.
    pub(crate) plane: ControlPlane,
    /// Its address, for Services of type `NodePort`.
    pub(crate) address: Ipv4Addr,
    processes: Vec<Process>,
}

/// The environment passed by `tests/node/run.sh`.
struct Surroundings {
    address: Ipv4Addr,
    scratch: PathBuf,
    programs: PathBuf,
    images: PathBuf,
}

impl Surroundings {
    fn find() -> Result<Self, String> {
        let variable = |name| env::var(name).map_err(|_| "not on a node: run `make test-node`".to_owned());
        Ok(Self {
            address: variable("SWITCHYARD_TEST_NODE")?.parse().expect("run.sh gives an address"),
            scratch: variable("SWITCHYARD_NODE_SCRATCH")?.into(),
            programs: variable("SWITCHYARD_NODE_PROGRAMS")?.into(),
            images: variable("SWITCHYARD_NODE_IMAGES")?.into(),
        })
    }
}

impl Node {
    /// Starts one and waits until pods can run. `None` if it is unavailable, so that the test is skipped; a failure
    /// under `CI=true`.
    pub(crate) fn or_skip() -> Option<Self> {
        let found = Surroundings::find().and_then(|around| Ok((around, Assets::find()?)));
        match found {
            Ok((around, assets)) => Some(Self::start(&around, assets)),
            Err(reason) if env::var_os("CI").is_some_and(|ci| ci == "true") => panic!("{reason}"),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    fn start(around: &Surroundings, assets: Assets) -> Self {
        let plane = ControlPlane::start_at(assets, around.address, &[]);
        let mut node = Self { plane, address: around.address, processes: Vec::new() };
        node.start_containerd(around);
        node.start_kubelet(around);
        node.start_the_rest(around);
        node.start_dns(around);
        node.wait_until_ready();
        node
    }

    fn start_containerd(&mut self, around: &Surroundings) {
        let network = around.scratch.join("cni");
        fs::create_dir(&network).unwrap();
        fs::write(network.join("pods.conflist"), pod_network()).unwrap();
        let config = around.scratch.join("containerd.toml");
        fs::write(&config, containerd_config(&network)).unwrap();
        let mut containerd = Command::new(around.programs.join("containerd"));
        containerd.arg("--config").arg(config).env("PATH", with_path(&around.programs));
        self.start_process(containerd, "containerd");
        for image in ["switchyard.tar", "backend.tar"] {
            let archive = around.images.join(image);
            eventually(|| self.import(&around.programs, &archive));
        }
    }

    /// Fails until containerd responds.
    fn import(&self, programs: &Path, archive: &Path) -> Result<(), String> {
        let mut ctr = Command::new(programs.join("ctr"));
        ctr.args(["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import"]).arg(archive);
        let output = ctr.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned() + &self.last_words("containerd"))
    }

    fn start_kubelet(&mut self, around: &Surroundings) {
        let config = around.scratch.join("kubelet.json");
        fs::write(&config, kubelet_config(self.address)).unwrap();
        let mut kubelet = Command::new(around.programs.join("kubelet"));
        kubelet.arg("--config").arg(config).arg("--kubeconfig").arg(self.plane.admin_kubeconfig());
        kubelet.arg(format!("--hostname-override={NAME}")).arg(format!("--node-ip={}", self.address));
        self.start_process(kubelet, "kubelet");
    }

    fn start_the_rest(&mut self, around: &Surroundings) {
        let mut scheduler = Command::new(around.programs.join("kube-scheduler"));
        scheduler.arg("--kubeconfig").arg(self.plane.admin_kubeconfig());
        scheduler.args(["--leader-elect=false", "--secure-port=0"]);
        self.start_process(scheduler, "kube-scheduler");
        let mut proxy = Command::new(around.programs.join("kube-proxy"));
        proxy.arg("--kubeconfig").arg(self.plane.admin_kubeconfig()).arg(format!("--hostname-override={NAME}"));
        // The connection limits belong to the machine; do not set them.
        proxy.args(["--proxy-mode=nftables", "--conntrack-max-per-core=0", "--conntrack-min=0"]);
        proxy.args(["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"]);
        self.start_process(proxy, "kube-proxy");
    }

    /// A Deployment in real clusters; here it listens on the node's address.
    fn start_dns(&mut self, around: &Surroundings) {
        let config = around.scratch.join("Corefile");
        fs::write(&config, dns_config(self.address, &self.plane.admin_kubeconfig())).unwrap();
        let mut dns = Command::new(around.programs.join("coredns"));
        dns.arg("-conf").arg(config);
        self.start_process(dns, "coredns");
    }

    fn start_process(&mut self, command: Command, name: &str) {
        self.processes.push(self.plane.spawn(command, name));
    }

    fn wait_until_ready(&self) {
        eventually(|| {
            let look = ["get", "node", NAME, "-o", r#"jsonpath={.status.conditions[?(@.type=="Ready")]}"#];
            let ready = self.plane.kubectl(&look, "")?;
            if ready.contains(r#""status":"True""#) { Ok(()) } else { Err(ready + &self.last_words("kubelet")) }
        });
    }

    /// The end of a node program's log.
    pub(crate) fn last_words(&self, name: &str) -> String {
        let log = self.plane.log_of(name);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].iter().fold(format!("\n--- {name}:\n"), |mut text, line| {
            writeln!(text, "{line}").expect("strings can be written");
            text
        })
    }
}

fn with_path(programs: &Path) -> String {
    format!("{}:{}", programs.display(), env::var("PATH").unwrap_or_default())
}

/// The bridge for pods. The node routes between them and the Services.
fn pod_network() -> String {
    let bridge = json!({
        "type": "bridge",
        "bridge": "pods",
        "isGateway": true,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.244.0.0/24" }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [bridge] }).to_string()
}

fn containerd_config(network: &Path) -> String {
    let runtime = "plugins.'io.containerd.cri.v1.runtime'";
    let images = "plugins.'io.containerd.cri.v1.images'";
    format!(
        "version = 3
[{runtime}]
# Nobody may lower the score here, and nobody needs to.
restrict_oom_score_adj = true
disable_apparmor = true
[{runtime}.cni]
bin_dirs = ['/usr/lib/cni']
conf_dir = '{}'
[{images}.pinned_images]
sandbox = '{BACKEND_IMAGE}'
",
        network.display()
    )
}

fn dns_config(address: Ipv4Addr, kubeconfig: &Path) -> String {
    format!(
        "{DOMAIN} {{
    bind {address}
    errors
    kubernetes {{
        kubeconfig {}
    }}
}}
",
        kubeconfig.display()
    )
}

fn kubelet_config(address: Ipv4Addr) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        // Anyone who can reach it is already in the namespace.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [address],
        "clusterDomain": DOMAIN,
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        "maxOpenFiles": 10_000,
        "resolvConf": "",
        "healthzPort": 0,
        "serializeImagePulls": false,
    })
    .to_string()
}
