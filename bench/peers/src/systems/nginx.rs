//! nginx, with the usual settings, and with buffers that hold a message.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use super::{Backend, Certificate, System, fill, version};

const TUNING: &str = "proxy_buffer_size 16k; proxy_buffers 4 16k; proxy_busy_buffers_size 32k;";

pub(crate) struct Nginx {
    pub program: PathBuf,
    pub is_tuned: bool,
}

impl System for Nginx {
    fn name(&self) -> &'static str {
        if self.is_tuned { "nginx-tuned" } else { "nginx" }
    }

    fn program(&self) -> Option<&Path> {
        Some(&self.program)
    }

    fn version(&self) -> anyhow::Result<String> {
        version(&self.program, "-v")
    }

    fn configure(&self, folder: &Path, _: &Certificate, probe: Backend) -> io::Result<()> {
        let probe = probe.address().to_string();
        let (tuning, listen) = if self.is_tuned { (TUNING, "reuseport") } else { ("", "") };
        let gaps = [("PROBE", probe.as_str()), ("TUNING", tuning), ("LISTEN", listen)];
        fs::write(folder.join("nginx.conf"), fill(include_str!("../../config/nginx.conf"), &gaps))
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["-p", ".", "-c", "nginx.conf", "-e", "stderr"]);
    }

    fn reload(&self) -> Option<Signal> {
        Some(Signal::HUP)
    }
}
