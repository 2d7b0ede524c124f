//! Envoy, which gets its routes from a file that it watches.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Backend, Certificate, System, fill, replace, version};

pub(crate) struct Envoy(pub PathBuf);

impl System for Envoy {
    fn name(&self) -> &'static str {
        "envoy"
    }

    fn program(&self) -> Option<&Path> {
        Some(&self.0)
    }

    fn version(&self) -> anyhow::Result<String> {
        version(&self.0, "--version")
    }

    fn configure(&self, folder: &Path, _: &Certificate, probe: Backend) -> io::Result<()> {
        // Each route list must have a new version.
        static VERSION: AtomicU64 = AtomicU64::new(0);
        let version = VERSION.fetch_add(1, Ordering::Relaxed).to_string();
        let gaps = [("PROBE", probe.name()), ("VERSION", &version)];
        fs::write(folder.join("envoy.yaml"), include_str!("../../config/envoy.yaml"))?;
        replace(&folder.join("routes.yaml"), &fill(include_str!("../../config/envoy-routes.yaml"), &gaps))
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["-c", "envoy.yaml", "--concurrency", "2", "--disable-hot-restart", "--log-level", "error"]);
    }
}
