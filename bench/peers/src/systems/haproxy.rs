//! HAProxy, with a master that keeps the listeners over reloads.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use super::{Backend, Certificate, System, fill, version};

pub(crate) struct Haproxy(pub PathBuf);

impl System for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn program(&self) -> Option<&Path> {
        Some(&self.0)
    }

    fn version(&self) -> anyhow::Result<String> {
        version(&self.0, "-v")
    }

    fn configure(&self, folder: &Path, _: &Certificate, probe: Backend) -> io::Result<()> {
        let probe = probe.address().to_string();
        let config = fill(include_str!("../../config/haproxy.cfg"), &[("PROBE", &probe)]);
        fs::write(folder.join("haproxy.cfg"), config)
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["-W", "-f", "haproxy.cfg"]);
    }

    fn reload(&self) -> Option<Signal> {
        Some(Signal::USR2)
    }
}
