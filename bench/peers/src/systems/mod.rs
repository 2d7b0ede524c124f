//! The systems to compare. All of them serve the same host with the same certificate at the same addresses, one at a
//! time.

mod envoy;
mod haproxy;
mod nginx;
pub(crate) mod relay;
mod switchyard;

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::measure;

/// The routed host.
pub(crate) const HOST: &str = "bench.example.com";
/// The addresses of every system for ws and wss. The namespace is ours, so they are free.
pub(crate) const HTTP: SocketAddr = address(1, 8080);
pub(crate) const HTTPS: SocketAddr = address(1, 8443);
/// The addresses of the backends.
pub(crate) const BACKENDS: [(Backend, SocketAddr); 2] =
    [(Backend::A, address(2, 7000)), (Backend::B, address(3, 7000))];

const START_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

const fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), port)
}

/// An echo backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    A,
    B,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    pub(crate) fn address(self) -> SocketAddr {
        BACKENDS[self as usize].1
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A certificate for [`HOST`] with a key on P-256, as PEM.
pub(crate) struct Certificate {
    pub chain: String,
    pub key: String,
}

impl Certificate {
    /// Generates one.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        Ok(Self { chain: cert.pem(), key: signing_key.serialize_pem() })
    }

    /// Writes it under the names in the configurations.
    fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("chain.pem"), &self.chain)?;
        fs::write(folder.join("key.pem"), &self.key)?;
        fs::write(folder.join("both.pem"), [self.chain.as_str(), &self.key].concat())
    }
}

/// A system to compare.
pub(crate) trait System {
    /// Its name in reports and on the command line.
    fn name(&self) -> &'static str;

    /// Whether it counts as a peer, or is only a reference.
    fn is_peer(&self) -> bool {
        true
    }

    /// Which of TLS, HTTP and changes it supports.
    fn can(&self, _: Ability) -> bool {
        true
    }

    /// Its program; `None` if there is nothing to start.
    fn program(&self) -> Option<&Path>;

    /// Its version.
    fn version(&self) -> anyhow::Result<String>;

    /// Writes its configuration, which routes `/ws` to both backends and `/probe` to one.
    fn configure(&self, folder: &Path, certificate: &Certificate, probe: Backend) -> io::Result<()>;

    /// Adds the arguments for starting it in its configuration folder.
    fn arguments(&self, command: &mut Command);

    /// The signal that reloads its configuration; `None` if it notices changes itself.
    fn reload(&self) -> Option<Signal> {
        None
    }
}

/// Features that some references lack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    Tls,
    Change,
    Memory,
}

/// The paths of programs.
pub(crate) struct Programs {
    pub switchyard: PathBuf,
    pub peers: PathBuf,
}

/// All systems, Switchyard first.
pub(crate) fn all(programs: &Programs) -> anyhow::Result<Vec<Box<dyn System>>> {
    let peer = |name: &str| programs.peers.join(name);
    Ok(vec![
        Box::new(switchyard::Switchyard(programs.switchyard.clone())),
        Box::new(nginx::Nginx { program: peer("nginx"), is_tuned: false }),
        Box::new(nginx::Nginx { program: peer("nginx"), is_tuned: true }),
        Box::new(haproxy::Haproxy(peer("haproxy"))),
        Box::new(envoy::Envoy(peer("envoy"))),
        Box::new(relay::Relay(std::env::current_exe()?)),
        Box::new(Direct),
    ])
}

/// A running system.
pub(crate) struct Running<'a> {
    pub system: &'a dyn System,
    certificate: &'a Certificate,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl<'a> Running<'a> {
    /// Starts it, and waits until it accepts connections.
    pub(crate) fn start(system: &'a dyn System, certificate: &'a Certificate) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut running = Self { system, certificate, folder, child: None };
        let Some(program) = system.program() else { return Ok(running) };
        certificate.write(running.folder.path())?;
        system.configure(running.folder.path(), certificate, Backend::A)?;
        let log = File::create(running.folder.path().join("log"))?;
        let mut command = Command::new(program);
        system.arguments(&mut command);
        command.current_dir(&running.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        running.child = Some(command.spawn().with_context(|| format!("{} does not start", program.display()))?);
        running.wait()?;
        Ok(running)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while [HTTP, HTTPS].iter().any(|address| TcpStream::connect(address).is_err()) {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || start.elapsed() > START_DEADLINE {
                bail!("{} does not listen; it says:\n{}", self.system.name(), self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its first process.
    pub(crate) fn root(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.root().map(measure::cpu).unwrap_or_default()
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> f64 {
        self.root().map(measure::memory).unwrap_or_default()
    }

    /// The number of its processes.
    pub(crate) fn processes(&self) -> usize {
        self.root().map_or(0, |root| measure::tree(root).len())
    }

    /// Changes the configuration and applies it, which may take a while.
    pub(crate) fn change(&self, probe: Backend) -> anyhow::Result<()> {
        self.system.configure(self.folder.path(), self.certificate, probe)?;
        if let (Some(root), Some(signal)) = (self.root(), self.system.reload()) {
            kill_process(root, signal)?;
        }
        Ok(())
    }

    /// The end of its output.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(root) = self.root() else { return };
        for process in measure::tree(root) {
            kill_process(process, Signal::KILL).ok();
        }
        self.child.as_mut().map(Child::wait).transpose().ok();
        // Workers whose master was killed are not our children. Their addresses are free once they are gone.
        let start = Instant::now();
        while [HTTP, HTTPS].iter().any(|address| TcpListener::bind(address).is_err()) && start.elapsed() < STOP_DEADLINE
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The backend itself, without a proxy: the minimum cost of a round trip.
struct Direct;

impl System for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn can(&self, _: Ability) -> bool {
        false
    }

    fn program(&self) -> Option<&Path> {
        None
    }

    fn version(&self) -> anyhow::Result<String> {
        Ok("no proxy".into())
    }

    fn configure(&self, _: &Path, _: &Certificate, _: Backend) -> io::Result<()> {
        Ok(())
    }

    fn arguments(&self, _: &mut Command) {}
}

/// The number in the output of a program's version flag.
fn version(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| format!("no {}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    let said = String::from_utf8_lossy(&said);
    let is_version = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    let version = said.split(|between: char| between.is_whitespace() || between == '/').find(is_version);
    Ok(version.with_context(|| format!("no version in {said}"))?.to_owned())
}

/// A configuration with its placeholders filled in.
fn fill(template: &str, gaps: &[(&str, &str)]) -> String {
    gaps.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

/// Replaces a file atomically, so that watchers never see half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}
