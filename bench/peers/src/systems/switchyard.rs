//! Switchyard with its default flags outside a cluster, except for the number of threads, and without a log of tunnels,
//! as the others have no log of requests.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Backend, Certificate, HTTP, HTTPS, System, fill, replace, version};

pub(crate) struct Switchyard(pub PathBuf);

impl System for Switchyard {
    fn name(&self) -> &'static str {
        "switchyard"
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn program(&self) -> Option<&Path> {
        Some(&self.0)
    }

    fn version(&self) -> anyhow::Result<String> {
        version(&self.0, "--version")
    }

    fn configure(&self, folder: &Path, certificate: &Certificate, probe: Backend) -> io::Result<()> {
        let manifests = folder.join("manifests");
        let objects = manifests.join("objects.yaml");
        if !objects.exists() {
            fs::create_dir_all(&manifests)?;
            let (chain, key) = (STANDARD.encode(&certificate.chain), STANDARD.encode(&certificate.key));
            let gaps = [("CHAIN", chain.as_str()), ("KEY", &key)];
            fs::write(objects, fill(include_str!("../../config/switchyard-objects.yaml"), &gaps))?;
        }
        let route = fill(include_str!("../../config/switchyard.yaml"), &[("PROBE", probe.name())]);
        replace(&manifests.join("route.yaml"), &route)
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["standalone", "--manifests", "manifests", "--threads", "2", "--log-level", "warn"]);
        command.args(["--admin-listen", "127.0.0.1:0"]);
        command.args(["--http-listen", &HTTP.to_string(), "--https-listen", &HTTPS.to_string()]);
    }
}
