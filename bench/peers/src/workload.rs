//! The workloads, and what is measured.

use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    load::{self, Flood, Load, Pattern, Plain, Plan, Stats, Target, Tunnel},
    systems::{Ability, BACKENDS, Backend, Certificate, HTTP, HTTPS, Running, System},
};

const KIB: usize = 1024;
/// Clients that open tunnels one after another.
const OPENERS: usize = 32;
const TALKERS: usize = 100;
/// So that a hundred clients send 2,000 messages per second.
const PACE: Duration = Duration::from_millis(50);
const GREEDY: usize = 10;
const QUIET: usize = 4;
const QUIET_PACE: Duration = Duration::from_millis(20);
const CHANGES: usize = 20;
const CHANGE_DEADLINE: Duration = Duration::from_secs(20);
const UNDER_CHANGES: usize = 2_000;
/// Tunnels opened after each change, if any.
const NEWCOMERS: usize = 25;
const SMALL: usize = 64;
const GETTERS: usize = 16;
const SLOW_READERS: usize = 1000;
/// The receive buffer of a slow reader, in bytes.
const SLOW_BUFFER: u32 = 4096;
/// What it reads before it stops, in bytes: enough that adaptive buffers have grown.
const SIP: usize = 512 * KIB;

/// The measurements, by the name of the figure.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// Durations and amounts.
pub(crate) struct Extent {
    pub warm_up: Duration,
    pub measured: Duration,
    /// Time for memory to settle.
    pub settle: Duration,
    pub tunnels: usize,
    pub threads: usize,
}

/// A workload.
pub(crate) struct Workload {
    pub name: &'static str,
    task: Task,
    is_tls: bool,
}

#[derive(Clone, Copy)]
enum Task {
    /// Open and close tunnels, with or without TLS resumption.
    Open { resumed: bool },
    /// Send a message of this many bytes as soon as the last one is echoed, in each of a hundred tunnels.
    Echo(usize),
    /// Send 2,000 messages per second.
    Latency,
    /// Be silent in thousands of tunnels, close them all and reopen them at once.
    Tunnels,
    /// Change the configuration under live tunnels.
    Changes { newcomers: usize },
    /// Send occasional messages next to saturated tunnels.
    Fairness,
    /// The same, next to one tunnel that sends as fast as it can.
    Beside(Flood),
    /// Request the path repeatedly.
    Plain(&'static str),
    /// Request more than any buffer in between can hold, and stop reading.
    SlowReaders,
}

/// All workloads, in the order of the report.
pub(crate) const ALL: [Workload; 29] = [
    Workload { name: "handshake-full", task: Task::Open { resumed: false }, is_tls: true },
    Workload { name: "handshake-resumed", task: Task::Open { resumed: true }, is_tls: true },
    Workload { name: "upgrade-ws", task: Task::Open { resumed: false }, is_tls: false },
    Workload { name: "echo-ws-64", task: Task::Echo(SMALL), is_tls: false },
    Workload { name: "echo-ws-1k", task: Task::Echo(KIB), is_tls: false },
    Workload { name: "echo-ws-16k", task: Task::Echo(16 * KIB), is_tls: false },
    Workload { name: "echo-ws-256k", task: Task::Echo(256 * KIB), is_tls: false },
    Workload { name: "echo-wss-64", task: Task::Echo(SMALL), is_tls: true },
    Workload { name: "echo-wss-1k", task: Task::Echo(KIB), is_tls: true },
    Workload { name: "echo-wss-16k", task: Task::Echo(16 * KIB), is_tls: true },
    Workload { name: "echo-wss-256k", task: Task::Echo(256 * KIB), is_tls: true },
    Workload { name: "latency-ws", task: Task::Latency, is_tls: false },
    Workload { name: "latency-wss", task: Task::Latency, is_tls: true },
    Workload { name: "fairness-ws", task: Task::Fairness, is_tls: false },
    Workload { name: "fairness-wss", task: Task::Fairness, is_tls: true },
    Workload { name: "flood-large-ws", task: Task::Beside(Flood::Large), is_tls: false },
    Workload { name: "flood-large-wss", task: Task::Beside(Flood::Large), is_tls: true },
    Workload { name: "flood-tiny-ws", task: Task::Beside(Flood::Tiny), is_tls: false },
    Workload { name: "flood-tiny-wss", task: Task::Beside(Flood::Tiny), is_tls: true },
    Workload { name: "plain-http-64k", task: Task::Plain("/ws/65536"), is_tls: false },
    Workload { name: "plain-http-1m", task: Task::Plain("/ws/1048576"), is_tls: false },
    Workload { name: "plain-https-64k", task: Task::Plain("/ws/65536"), is_tls: true },
    Workload { name: "plain-https-1m", task: Task::Plain("/ws/1048576"), is_tls: true },
    Workload { name: "slow-readers-http", task: Task::SlowReaders, is_tls: false },
    Workload { name: "slow-readers-https", task: Task::SlowReaders, is_tls: true },
    Workload { name: "changes", task: Task::Changes { newcomers: 0 }, is_tls: true },
    Workload { name: "changes-newcomers", task: Task::Changes { newcomers: NEWCOMERS }, is_tls: true },
    Workload { name: "tunnels-ws", task: Task::Tunnels, is_tls: false },
    Workload { name: "tunnels-wss", task: Task::Tunnels, is_tls: true },
];

impl Workload {
    /// Whether a system supports it.
    pub(crate) fn suits(&self, system: &dyn System) -> bool {
        let of_task = match self.task {
            // The relay does not know requests.
            Task::Changes { .. } | Task::Plain(_) => system.can(Ability::Change),
            Task::Tunnels | Task::SlowReaders => system.can(Ability::Memory),
            Task::Open { .. } => system.program().is_some(),
            Task::Echo(_) | Task::Latency | Task::Fairness | Task::Beside(_) => true,
        };
        of_task && (!self.is_tls || system.can(Ability::Tls))
    }

    /// Whether it takes minutes, with little variation.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self.task, Task::Tunnels | Task::SlowReaders)
    }

    /// Runs it.
    pub(crate) fn run(
        &self,
        running: &Running<'_>,
        certificate: &Certificate,
        extent: &Extent,
    ) -> anyhow::Result<Sample> {
        let cell = Cell { running, certificate, extent, is_tls: self.is_tls };
        match self.task {
            Task::Open { resumed } => cell.open(resumed),
            Task::Echo(bytes) => cell.echo(bytes),
            Task::Latency => cell.latency(),
            Task::Tunnels => cell.tunnels(),
            Task::Changes { newcomers } => cell.changes(newcomers),
            Task::Fairness => cell.fairness(Pattern::Echo, GREEDY),
            Task::Beside(flood) => cell.fairness(Pattern::Flood(flood), 1),
            Task::Plain(path) => cell.plain(path),
            Task::SlowReaders => cell.slow_readers(),
        }
    }
}

/// One workload against one running system.
struct Cell<'a> {
    running: &'a Running<'a>,
    certificate: &'a Certificate,
    extent: &'a Extent,
    is_tls: bool,
}

impl Cell<'_> {
    fn target(&self) -> anyhow::Result<Target> {
        let tls = self.is_tls.then(|| load::tls(&self.certificate.chain)).transpose()?;
        let is_proxy = self.running.root().is_some();
        let address = match (is_proxy, self.is_tls) {
            (false, _) => BACKENDS[0].1,
            (true, false) => HTTP,
            (true, true) => HTTPS,
        };
        Ok(Target { address, tls, path: "/ws" })
    }

    fn target_of(&self, path: &'static str) -> anyhow::Result<Target> {
        Ok(Target { path, ..self.target()? })
    }

    fn load(&self, pattern: Pattern, clients: usize, message: usize) -> anyhow::Result<Load> {
        self.load_of(Plan { target: self.target()?, pattern, clients, message, threads: self.extent.threads })
    }

    fn load_of(&self, plan: Plan) -> anyhow::Result<Load> {
        let load = Load::start(plan)?;
        sleep(self.extent.warm_up);
        Ok(load)
    }

    /// Measures a load for a while, and stops it.
    fn count(&self, load: Load) -> anyhow::Result<(Sample, Stats)> {
        let (start, cpu) = (Instant::now(), self.running.cpu());
        load.record();
        sleep(self.extent.measured);
        load.pause();
        let (cpu, time) = (self.running.cpu().saturating_sub(cpu), start.elapsed());
        let mut stats = load.end()?;
        let units = stats.times.len() as f64;
        ensure!(units > 0.0, "nothing was done");
        let mut sample = Sample::from([
            ("per_second", units / time.as_secs_f64()),
            ("p50_us", stats.percentile(50)),
            ("p99_us", stats.percentile(99)),
        ]);
        if self.running.root().is_some() {
            sample.insert("cpu_us", cpu.as_secs_f64() * 1e6 / units);
        }
        Ok((sample, stats))
    }

    fn open(&self, resumed: bool) -> anyhow::Result<Sample> {
        let (sample, stats) = self.count(self.load(Pattern::Reconnect { resumed }, OPENERS, SMALL)?)?;
        let share = stats.resumed as f64 / stats.times.len() as f64;
        ensure!(!resumed || share > 0.99, "only {:.1} % of the handshakes were resumed", share * 100.0);
        Ok(sample)
    }

    fn echo(&self, bytes: usize) -> anyhow::Result<Sample> {
        Ok(self.count(self.load(Pattern::Echo, TALKERS, bytes)?)?.0)
    }

    fn latency(&self) -> anyhow::Result<Sample> {
        Ok(self.count(self.load(Pattern::Paced(PACE), TALKERS, SMALL)?)?.0)
    }

    fn tunnels(&self) -> anyhow::Result<Sample> {
        self.load(Pattern::Echo, TALKERS, KIB)?.end()?;
        sleep(self.extent.warm_up);
        let empty = self.running.memory();
        let load = self.load(Pattern::Hold, self.extent.tunnels, SMALL)?;
        // The first half lets the work of opening them finish.
        sleep(self.extent.settle / 2);
        let before = self.running.cpu();
        sleep(self.extent.settle / 2);
        let idle = self.running.cpu().saturating_sub(before).div_duration_f64(self.extent.settle / 2);
        let each = (self.running.memory() - empty) / self.extent.tunnels as f64;

        let (start, cpu) = (Instant::now(), self.running.cpu());
        load.record();
        load.reconnect()?;
        let (cpu, time) = (self.running.cpu().saturating_sub(cpu), start.elapsed());
        let mut stats = load.end()?;
        sleep(self.extent.settle);
        let left = self.running.memory() - empty;
        Ok(Sample::from([
            ("kib_each", each / KIB as f64),
            ("idle_cpu_ms", idle * 1e3),
            ("left_mib", mebibytes(left)),
            ("storm_cpu_us", cpu.as_secs_f64() * 1e6 / self.extent.tunnels as f64),
            ("storm_s", time.as_secs_f64()),
            ("storm_p99_us", stats.percentile(99)),
        ]))
    }

    fn changes(&self, newcomers: usize) -> anyhow::Result<Sample> {
        let load = self.load(Pattern::Paced(Duration::from_secs(1)), UNDER_CHANGES, SMALL)?;
        let before = self.running.memory();
        load.record();
        let runtime = load::runtime()?;
        let (mut effects, mut held) = (Stats::default(), Vec::new());
        let mut probe = Backend::A;
        for _ in 0..CHANGES {
            probe = probe.other();
            effects.times.push(runtime.block_on(self.change(probe))?);
            for _ in 0..newcomers {
                held.push(runtime.block_on(Tunnel::open(&self.target()?, None))?);
            }
            sleep(Duration::from_millis(100));
        }
        sleep(self.extent.warm_up);
        load.pause();
        let (after, processes) = (self.running.memory(), self.running.processes());
        let mut stats = load.end()?;
        for tunnel in held {
            runtime.block_on(tunnel.close());
        }
        Ok(Sample::from([
            ("growth_mib", mebibytes(after - before)),
            ("gap_ms", stats.percentile(100) / 1e3),
            ("effect_ms", effects.percentile(50) / 1e3),
            ("processes", processes as f64),
        ]))
    }

    /// Reroutes `/probe`, and returns the time until a new connection goes to the new backend.
    async fn change(&self, probe: Backend) -> anyhow::Result<Duration> {
        let target = Target { address: HTTP, tls: None, path: "/probe" };
        let start = Instant::now();
        self.running.change(probe)?;
        loop {
            let tunnel = Tunnel::open(&target, None).await?;
            if tunnel.backend == probe.name() {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < CHANGE_DEADLINE, "the change has no effect");
        }
    }

    fn fairness(&self, pattern: Pattern, clients: usize) -> anyhow::Result<Sample> {
        let quiet = || -> anyhow::Result<Load> {
            let (target, pattern) = (self.target()?, Pattern::Paced(QUIET_PACE));
            self.load_of(Plan { target, pattern, clients: QUIET, message: SMALL, threads: 1 })
        };
        let (alone, _) = self.count(quiet()?)?;
        let path = if matches!(pattern, Pattern::Flood(_)) { "/ws/sink" } else { "/ws" };
        let (target, threads) = (self.target_of(path)?, self.extent.threads.min(clients));
        let greedy = self.load_of(Plan { target, pattern, clients, message: 256 * KIB, threads })?;
        greedy.record();
        let started = Instant::now();
        let (beside, _) = self.count(quiet()?)?;
        greedy.pause();
        let time = started.elapsed();
        let passed = greedy.end()?.times.len();
        Ok(Sample::from([
            ("alone_p99_us", alone["p99_us"]),
            ("beside_p99_us", beside["p99_us"]),
            ("beside_p50_us", beside["p50_us"]),
            ("neighbours_mib_per_second", passed as f64 / 4.0 / time.as_secs_f64()),
        ]))
    }

    fn plain(&self, path: &'static str) -> anyhow::Result<Sample> {
        let (target, threads) = (self.target_of(path)?, self.extent.threads);
        let plan = Plan { target, pattern: Pattern::Get, clients: GETTERS, message: SMALL, threads };
        Ok(self.count(self.load_of(plan)?)?.0)
    }

    fn slow_readers(&self) -> anyhow::Result<Sample> {
        self.plain("/ws/1048576")?;
        sleep(self.extent.settle);
        let before = self.running.memory();
        let (target, runtime) = (self.target_of("/ws/1000000000")?, load::runtime()?);
        let readers = runtime.block_on(async {
            let mut readers = Vec::new();
            for _ in 0..SLOW_READERS {
                let mut reader = Plain::open(&target, Some(SLOW_BUFFER)).await?;
                reader.ask().await?;
                reader.sip(SIP).await?;
                readers.push(reader);
            }
            anyhow::Ok(readers)
        })?;
        sleep(self.extent.settle);
        let held = self.running.memory() - before;
        drop(readers);
        sleep(self.extent.settle);
        let left = self.running.memory() - before;
        Ok(Sample::from([("kib_each", held / (SLOW_READERS * KIB) as f64), ("left_mib", mebibytes(left))]))
    }
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / (KIB * KIB) as f64
}
