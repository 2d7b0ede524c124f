//! The resource usage of a system, all its processes together.

use std::{collections::HashMap, fs, time::Duration};

use rustix::process::Pid;

/// A process of the system, and the kernel's counters for it.
struct Process {
    parent: i32,
    /// Its own and that of exited children.
    ticks: u64,
}

/// A process and its descendants.
pub(crate) fn tree(root: Pid) -> Vec<Pid> {
    descendants(root, &processes()).into_iter().filter_map(Pid::from_raw).collect()
}

/// CPU time, including the kernel's.
pub(crate) fn cpu(root: Pid) -> Duration {
    let processes = processes();
    let ticks: u64 = descendants(root, &processes).iter().map(|id| processes[id].ticks).sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).expect("it is 100")
}

/// Proportional set size, in bytes: shared pages count once.
pub(crate) fn memory(root: Pid) -> f64 {
    tree(root).into_iter().filter_map(|id| proportional(id.as_raw_nonzero().get())).sum()
}

/// That of one process; `None` if it has exited.
fn proportional(id: i32) -> Option<f64> {
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok().map(|kibibytes: f64| kibibytes * 1024.0)
}

fn descendants(root: Pid, processes: &HashMap<i32, Process>) -> Vec<i32> {
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(processes.iter().filter(|(_, process)| process.parent == parent).map(|(id, _)| id));
        next += 1;
    }
    found.retain(|id| processes.contains_key(id));
    found
}

fn processes() -> HashMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| Some((id, stat(id)?))).collect()
}

/// Reads `/proc/ID/stat` (`proc_pid_stat(5)`); `None` if the process has exited.
fn stat(id: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is a name, which may contain anything; the third follows its last parenthesis.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Some(Process { parent: fields.get(1)?.parse().ok()?, ticks })
}
