//! Compares Switchyard with its peers under load: `make bench` runs everything, and
//! `make bench BENCH='--systems switchyard,nginx-tuned --workloads echo-ws-64'` one cell in seconds.

mod load;
mod measure;
mod report;
mod systems;
mod workload;

use std::{
    env, fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

use report::{Entry, Measurement, Report};
use systems::{BACKENDS, Certificate, Programs, Running, System};
use workload::{ALL, Extent, Workload};

/// Measures Switchyard and its peers side by side.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Systems, comma-separated; a trailing * matches anything [default: all]
    #[arg(long, value_delimiter = ',', default_value = "*", hide_default_value = true)]
    systems: Vec<String>,
    /// Workloads, in the same form [default: all]
    #[arg(long, value_delimiter = ',', default_value = "*", hide_default_value = true)]
    workloads: Vec<String>,
    /// Number of rounds, with the systems interleaved
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Number of rounds for slow workloads: the memory of thousands of tunnels
    #[arg(long, default_value_t = 1)]
    slow_rounds: usize,
    /// Duration of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Warm-up time of its load
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Time for memory to settle, in seconds
    #[arg(long, default_value_t = 15.0)]
    settle: f64,
    /// Number of idle tunnels
    #[arg(long, default_value_t = 9_000)]
    tunnels: usize,
    /// Client threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Path of the Switchyard binary
    #[arg(long, default_value = "target/dist/switchyard")]
    switchyard: PathBuf,
    /// Revision to report next to its version, such as a commit
    #[arg(long)]
    revision: Option<String>,
    /// Folder with the peers, as printed by get.sh
    #[arg(long, default_value = ".")]
    peers: PathBuf,
    /// Folder for peers.md and peers.json; without it, the former goes to standard output
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Other roles of this program, in separate processes.
#[derive(Subcommand)]
enum Part {
    /// An echo backend
    #[command(hide = true)]
    Echo { address: SocketAddr, name: String },
    /// The reference
    #[command(hide = true)]
    Relay,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match &options.part {
        Some(Part::Echo { address, name }) => load::echo::run(*address, name),
        Some(Part::Relay) => systems::relay::run(),
        None => compare(&options),
    }
}

/// The arguments, without local paths.
fn told() -> Vec<String> {
    let mut arguments = env::args().skip(1);
    let mut told = Vec::new();
    while let Some(argument) = arguments.next() {
        if ["--switchyard", "--peers", "--out", "--revision"].contains(&argument.as_str()) {
            arguments.next();
        } else {
            told.push(argument);
        }
    }
    told
}

fn compare(options: &Options) -> anyhow::Result<()> {
    let is_ours = env::var_os("SWITCHYARD_TEST_NAMESPACE").is_some();
    ensure!(is_ours, "this wants a network namespace of its own: cargo run, which has a runner for it");
    // Thousands of connections come and go, more than the usual number of ports. Our listeners use lower ones.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")?;
    // Each system starts in its own folder.
    let switchyard = fs::canonicalize(&options.switchyard)
        .with_context(|| format!("no {}: build it first", options.switchyard.display()))?;
    let programs = Programs { switchyard, peers: options.peers.clone() };
    let all = systems::all(&programs)?;
    let mut report = Report {
        machine: machine()?,
        arguments: told(),
        systems: Vec::new(),
        measurements: Vec::new(),
        failures: Vec::new(),
    };
    let mut chosen = Vec::new();
    for system in all.iter().filter(|system| matches(&options.systems, system.name())) {
        match system.version() {
            Ok(mut version) => {
                if let Some(revision) = options.revision.as_ref().filter(|_| system.name() == "switchyard") {
                    version = format!("{version}, {revision}");
                }
                report.systems.push(Entry { name: system.name(), version, is_peer: system.is_peer() });
                chosen.push(system.as_ref());
            }
            Err(error) => report.fail(format!("{}: {error:#}", system.name())),
        }
    }
    let _backends = Backends::start()?;
    let certificate = Certificate::generate()?;
    for round in 0..options.rounds {
        measure_round(options, round, &chosen, &certificate, &mut report);
    }
    match &options.out {
        Some(folder) => report.write(folder)?,
        None => println!("{}", report.markdown()),
    }
    ensure!(!report.measurements.is_empty(), "nothing was measured");
    Ok(())
}

fn measure_round(
    options: &Options,
    round: usize,
    chosen: &[&dyn System],
    certificate: &Certificate,
    report: &mut Report,
) {
    let seconds = Duration::from_secs_f64;
    let extent = Extent {
        warm_up: seconds(options.warm_up),
        measured: seconds(options.seconds),
        settle: seconds(options.settle),
        tunnels: options.tunnels,
        threads: options.threads,
    };
    let is_due = |workload: &&Workload| {
        matches(&options.workloads, workload.name) && (!workload.is_slow() || round < options.slow_rounds)
    };
    for workload in ALL.iter().filter(is_due) {
        // Each takes its turn at being first.
        let turns = chosen.iter().cycle().skip(round).take(chosen.len());
        for system in turns.filter(|system| workload.suits(**system)) {
            let name = system.name();
            let measured = Running::start(*system, certificate).and_then(|running| {
                let measured = workload.run(&running, certificate, &extent);
                measured.map_err(|error| error.context(running.log()))
            });
            match measured {
                Ok(figures) => {
                    eprintln!("{} {:<18} {name:<12} {figures:.1?}", round + 1, workload.name);
                    report.measurements.push(Measurement { round, workload: workload.name, system: name, figures });
                }
                Err(error) => report.fail(format!("{} at {name}, round {}: {error:#}", workload.name, round + 1)),
            }
        }
    }
}

impl Report {
    fn fail(&mut self, failure: String) {
        eprintln!("failed: {failure}");
        self.failures.push(failure);
    }
}

/// Whether a name is selected.
fn matches(chosen: &[String], name: &str) -> bool {
    chosen.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    })
}

fn machine() -> anyhow::Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("\t: an unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = thread::available_parallelism()?;
    Ok(format!("{cores} cores of {}, Linux {}.", model.trim_start_matches(['\t', ':', ' ']), kernel.trim()))
}

/// The echo backends, which end with this process.
struct Backends(Vec<Child>);

impl Backends {
    fn start() -> anyhow::Result<Self> {
        let program = env::current_exe()?;
        let mut backends = Self(Vec::new());
        for (backend, address) in BACKENDS {
            let mut command = Command::new(&program);
            let mut child = command.args(["echo", &address.to_string(), backend.name()]).spawn()?;
            while TcpStream::connect(address).is_err() {
                ensure!(child.try_wait()?.is_none(), "an echo backend has ended");
                thread::sleep(Duration::from_millis(5));
            }
            backends.0.push(child);
        }
        Ok(backends)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        for backend in &mut self.0 {
            backend.kill().and_then(|()| backend.wait()).ok();
        }
    }
}
