//! The results, for readers and for programs.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use serde::Serialize;

use crate::workload::Sample;

/// Switchyard's target.
#[derive(Clone, Copy)]
enum Target {
    /// At most this many times the figure of the best peer.
    Ratio(f64),
    /// At most this value.
    Most(f64),
}

/// One figure of one workload.
struct Row {
    workload: &'static str,
    figure: &'static str,
    title: &'static str,
    target: Option<Target>,
}

const fn row(workload: &'static str, figure: &'static str, title: &'static str, target: Target) -> Row {
    Row { workload, figure, title, target: Some(target) }
}

const fn plain(workload: &'static str, figure: &'static str, title: &'static str) -> Row {
    Row { workload, figure, title, target: None }
}

/// The figures with targets, and those that explain them.
const HEADLINES: [Row; 43] = [
    row("handshake-full", "cpu_us", "full TLS 1.3 handshake + upgrade, CPU µs", Target::Ratio(0.75)),
    row("handshake-resumed", "cpu_us", "resumed handshake + upgrade, CPU µs", Target::Ratio(0.75)),
    row("upgrade-ws", "cpu_us", "plain upgrade, CPU µs", Target::Ratio(1.1)),
    row("echo-ws-64", "cpu_us", "64 B echo over ws, CPU µs per round trip", Target::Ratio(1.0)),
    row("echo-ws-1k", "cpu_us", "1 KiB echo over ws, CPU µs per round trip", Target::Ratio(1.0)),
    row("echo-ws-16k", "cpu_us", "16 KiB echo over ws, CPU µs per round trip", Target::Ratio(0.75)),
    row("echo-ws-256k", "cpu_us", "256 KiB echo over ws, CPU µs per round trip", Target::Ratio(0.75)),
    row("echo-wss-64", "cpu_us", "64 B echo over wss, CPU µs per round trip", Target::Ratio(1.0)),
    row("echo-wss-1k", "cpu_us", "1 KiB echo over wss, CPU µs per round trip", Target::Ratio(1.0)),
    row("echo-wss-16k", "cpu_us", "16 KiB echo over wss, CPU µs per round trip", Target::Ratio(0.75)),
    row("echo-wss-256k", "cpu_us", "256 KiB echo over wss, CPU µs per round trip", Target::Ratio(0.9)),
    plain("latency-ws", "p50_added_us", "added latency over ws at 2,000 messages/s, p50 µs"),
    plain("latency-ws", "p99_added_us", "added latency over ws at 2,000 messages/s, p99 µs"),
    plain("fairness-ws", "alone_p99_us", "a quiet tunnel over ws, alone, p99 µs"),
    plain("fairness-ws", "beside_p99_us", "a quiet tunnel over ws beside ten full ones, p99 µs"),
    plain("fairness-wss", "alone_p99_us", "a quiet tunnel over wss, alone, p99 µs"),
    plain("fairness-wss", "beside_p99_us", "a quiet tunnel over wss beside ten full ones, p99 µs"),
    plain("flood-large-ws", "alone_p99_us", "a quiet tunnel over ws, alone, p99 µs"),
    plain("flood-large-ws", "beside_p99_us", "the same beside a flood of large frames, p99 µs"),
    plain("flood-large-wss", "alone_p99_us", "a quiet tunnel over wss, alone, p99 µs"),
    plain("flood-large-wss", "beside_p99_us", "the same beside a flood of large frames, p99 µs"),
    plain("flood-tiny-ws", "alone_p99_us", "a quiet tunnel over ws, alone, p99 µs"),
    plain("flood-tiny-ws", "beside_p99_us", "the same beside a flood of empty fragments, p99 µs"),
    plain("flood-tiny-wss", "alone_p99_us", "a quiet tunnel over wss, alone, p99 µs"),
    plain("flood-tiny-wss", "beside_p99_us", "the same beside a flood of empty fragments, p99 µs"),
    plain("plain-http-64k", "cpu_us", "plain response of 64 KiB over http, CPU µs"),
    plain("plain-http-1m", "cpu_us", "plain response of 1 MiB over http, CPU µs"),
    plain("plain-https-64k", "cpu_us", "plain response of 64 KiB over https, CPU µs"),
    plain("plain-https-1m", "cpu_us", "plain response of 1 MiB over https, CPU µs"),
    row("slow-readers-http", "kib_each", "slow reader of a plain response over http, KiB", Target::Most(64.0)),
    row("slow-readers-https", "kib_each", "slow reader of a plain response over https, KiB", Target::Most(64.0)),
    row("tunnels-ws", "kib_each", "idle tunnel over ws, KiB", Target::Most(2.0)),
    row("tunnels-wss", "kib_each", "idle tunnel over wss, KiB", Target::Most(6.0)),
    plain("tunnels-ws", "idle_cpu_ms", "CPU while all tunnels over ws are idle, ms each second"),
    plain("tunnels-wss", "idle_cpu_ms", "CPU while all tunnels over wss are idle, ms each second"),
    plain("tunnels-ws", "left_mib", "memory left after they closed, ws, MiB"),
    plain("tunnels-wss", "left_mib", "memory left after they closed, wss, MiB"),
    row("changes", "growth_mib", "memory growth after 20 changes under 2,000 wss tunnels, MiB", Target::Most(1.0)),
    row("changes-newcomers", "growth_mib", "the same, with 25 new tunnels after each change, MiB", Target::Most(5.0)),
    plain("changes-newcomers", "processes", "processes afterwards"),
    plain("changes", "gap_ms", "worst round trip during the changes, ms"),
    row("changes", "effect_ms", "a change takes effect after, ms", Target::Most(20.0)),
    row("tunnels-wss", "storm_cpu_us", "reconnect in a storm over wss, CPU µs", Target::Ratio(0.75)),
];

/// A system, as shown in a report.
#[derive(Clone, Serialize)]
pub(crate) struct Entry {
    pub name: &'static str,
    pub version: String,
    pub is_peer: bool,
}

/// One measurement.
#[derive(Serialize)]
pub(crate) struct Measurement {
    pub round: usize,
    pub workload: &'static str,
    pub system: &'static str,
    pub figures: Sample,
}

/// All results of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub machine: String,
    pub arguments: Vec<String>,
    pub systems: Vec<Entry>,
    pub measurements: Vec<Measurement>,
    /// Measurements that failed.
    pub failures: Vec<String>,
}

/// The median of some samples, and the distance of the farthest one.
struct Summary {
    median: f64,
    spread: f64,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, spread: (most - median).max(median - least) })
    }

    fn cell(&self, is_alone: bool) -> String {
        let digits = match self.median.abs() {
            ..10.0 => 2,
            10.0..100.0 => 1,
            _ => 0,
        };
        let (median, spread) = (self.median, self.spread);
        if is_alone { format!("{median:.digits$}") } else { format!("{median:.digits$} ±{spread:.digits$}") }
    }
}

impl Report {
    /// Writes `peers.md` and `peers.json` into a folder.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("peers.md"), self.markdown())?;
        fs::write(folder.join("peers.json"), serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }

    /// Tables: figures with targets first, then the rest.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# Switchyard and its peers\n\n");
        let _ = writeln!(text, "{}\n", self.machine);
        for Entry { name, version, .. } in &self.systems {
            let _ = writeln!(text, "- {name}: {version}");
        }
        let arguments = self.arguments.join(" ");
        let _ = writeln!(text, "\nMeasured with: `{}`\n", if arguments.is_empty() { "make bench" } else { &arguments });
        text.push_str(
            "Medians, with the distance of the farthest sample. CPU is utime + stime of all of a system's processes. \
             The ratio is Switchyard's figure to that of the best peer; relay and direct are references.\n\n",
        );
        self.table(&mut text, &HEADLINES.iter().collect::<Vec<_>>());
        let rest = self.rest();
        if !rest.is_empty() {
            text.push_str("\n## Throughput, latency, and the rest\n\n");
            self.table(&mut text, &rest.iter().collect::<Vec<_>>());
        }
        for failure in &self.failures {
            let _ = write!(text, "\nFailed: {failure}\n");
        }
        text
    }

    /// Measurements that are not headline figures.
    fn rest(&self) -> Vec<Row> {
        let mut figures = BTreeMap::new();
        for (order, measurement) in self.measurements.iter().enumerate() {
            for figure in measurement.figures.keys() {
                let is_headline = |row: &Row| row.workload == measurement.workload && row.figure == *figure;
                if !HEADLINES.iter().any(is_headline) {
                    figures.entry((measurement.workload, *figure)).or_insert(order);
                }
            }
        }
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by_key(|&((_, _), order)| order);
        figures.into_iter().map(|((workload, figure), _)| plain(workload, figure, "")).collect()
    }

    fn table(&self, text: &mut String, rows: &[&Row]) {
        let names: Vec<_> = self.systems.iter().map(|system| system.name).collect();
        let _ = writeln!(text, "| | {} | ratio | target |", names.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(names.len() + 2));
        for row in rows {
            let summaries: Vec<_> = self.systems.iter().map(|system| self.summary(row, system.name)).collect();
            if summaries.iter().all(Option::is_none) {
                continue;
            }
            let title =
                if row.title.is_empty() { format!("{} {}", row.workload, row.figure) } else { row.title.into() };
            let cells: Vec<_> = summaries
                .iter()
                .map(|summary| summary.as_ref().map_or_else(String::new, |(summary, count)| summary.cell(*count == 1)))
                .collect();
            let (ratio, verdict) = self.verdict(row, &summaries);
            let _ = writeln!(text, "| {title} | {} | {ratio} | {verdict} |", cells.join(" | "));
        }
    }

    fn verdict(&self, row: &Row, summaries: &[Option<(Summary, usize)>]) -> (String, String) {
        let of = |index: usize| summaries[index].as_ref().map(|(summary, _)| summary.median);
        let ours = self.systems.iter().position(|system| system.name == "switchyard").and_then(of);
        let peers = (0..self.systems.len()).filter(|index| self.systems[*index].is_peer).filter_map(of);
        // No ratio for figures that may be negative.
        let ratio = ours.zip(peers.reduce(f64::min).filter(|best| *best > 0.0)).map(|(ours, best)| ours / best);
        let verdict = match (row.target, ours, ratio) {
            (None, ..) => String::new(),
            (Some(Target::Ratio(most)), _, None) => format!("≤ {most} × best"),
            (Some(Target::Ratio(most)), _, Some(ratio)) => format!("≤ {most} × best: {}", word(ratio <= most)),
            (Some(Target::Most(most)), None, _) => format!("≤ {most}"),
            (Some(Target::Most(most)), Some(ours), _) => format!("≤ {most}: {}", word(ours <= most)),
        };
        (ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")), verdict)
    }

    fn summary(&self, row: &Row, system: &str) -> Option<(Summary, usize)> {
        let values = |figure: &str, system: &str| -> Vec<f64> {
            let samples = self.measurements.iter().filter(|it| it.workload == row.workload && it.system == system);
            samples.filter_map(|sample| sample.figures.get(figure).copied()).collect()
        };
        let values = match row.figure.strip_suffix("_added_us") {
            None => values(row.figure, system),
            // The time of a round trip without any proxy is not caused by the proxy.
            Some(figure) => {
                let figure = format!("{figure}_us");
                let direct = Summary::of(values(&figure, "direct"))?.median;
                values(&figure, system).into_iter().map(|value| value - direct).collect()
            }
        };
        let count = values.len();
        Some((Summary::of(values)?, count))
    }
}

fn word(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**not met**" }
}
