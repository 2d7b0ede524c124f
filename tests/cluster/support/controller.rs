//! The program under test.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Bed, Client, SYSTEM, eventually};

/// How long a stopped one may take to exit.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// A running `switchyard controller`. Dropping it stops it and waits for it.
pub struct Controller {
    process: Child,
    output: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
}

impl Controller {
    /// Starts one for a class, with the chart's permissions, and waits until it is ready.
    pub fn start(bed: &Bed, class: &str) -> Self {
        let controller = Self::launch(bed, class);
        controller.wait_until_ready();
        controller
    }

    /// Starts one of several for a class, with its own name.
    pub fn replica(bed: &Bed, class: &str, name: &str) -> Self {
        bed.grant(class);
        let controller = Self::launch_with(bed.kubeconfig(), class, |command| {
            command.env("POD_NAME", name);
        });
        controller.wait_until_ready();
        controller
    }

    /// Starts one without waiting.
    pub fn launch(bed: &Bed, class: &str) -> Self {
        bed.grant(class);
        Self::launch_with(bed.kubeconfig(), class, |_| {})
    }

    /// Starts one that already has its permissions, with additional flags or variables.
    pub fn launch_with(kubeconfig: &Path, class: &str, more: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["controller", "--class", class, "--shutdown-delay=0s", "--drain-window=0s"]);
        command.args(["--http-listen=127.0.0.1:0", "--https-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        command.args(["--threads=1", "--log-level=info,switchyard::source=debug"]).env("KUBECONFIG", kubeconfig);
        command.env("POD_NAMESPACE", SYSTEM);
        more(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = collect(child.stdout.take().expect("it is piped"));
        let log = collect(child.stderr.take().expect("it is piped"));
        Self { process: child, output, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it was killed");
    }

    /// The value of a metric without labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let answer = super::backend::get(self.admin(), "localhost", "/metrics").ok()?;
        answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Its address for plaintext.
    pub fn http(&self) -> SocketAddr {
        self.listening("http")
    }

    /// Its address for TLS.
    pub fn https(&self) -> SocketAddr {
        self.listening("https")
    }

    /// Its admin address.
    pub fn admin(&self) -> SocketAddr {
        self.listening("admin")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a text in its log.
    pub fn wait_for_log(&self, text: &str) {
        eventually(|| {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(format!("{text:?} is not in the log:\n{log}")) }
        });
    }

    /// Whether it reports readiness.
    pub fn is_ready(&self) -> bool {
        super::backend::get(self.admin(), "localhost", "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Waits until it reports readiness.
    pub fn wait_until_ready(&self) {
        eventually(|| if self.is_ready() { Ok(()) } else { Err(format!("not ready:\n{}", self.log())) });
    }

    /// Waits until a new connection for a host reaches a backend.
    pub fn wait_for_backend(&self, host: &str, backend: &str) -> Client {
        eventually(|| {
            let client = Client::connect(self.http(), host, "/")?;
            if client.backend == backend { Ok(client) } else { Err(format!("reached {}", client.backend)) }
        })
    }

    fn listening(&self, name: &str) -> SocketAddr {
        let prefix = format!("listening {name} ");
        eventually(|| {
            let output = self.output.lock().unwrap();
            let address = output.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok());
            address.ok_or_else(|| format!("no {prefix:?} in:\n{output}\n{}", self.log()))
        })
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let deadline = Instant::now() + STOPS_WITHIN;
        let _ = kill_process(Pid::from_child(&self.process), Signal::CONT);
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads a stream to its end in a separate thread.
fn collect(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let collected = Arc::new(Mutex::new(String::new()));
    let text = collected.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = text.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    collected
}
