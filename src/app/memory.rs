//! The memory limit of the process, and the share of it that peers may use.

/// The files with the memory limit of the process's control group: version 2, then version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// The bounds of each thread's budget for clients and backends, in bytes.
const MOST: u64 = 64 << 20;
const LEAST: u64 = 4 << 20;
/// The divisor for all threads' budgets together. Tunnels, tables and the rest need the remainder.
const SHARE: u64 = 4;

/// Each thread's budget for data held for clients and backends, in bytes.
pub(super) fn held_per_thread(threads: usize) -> usize {
    let limit = LIMITS.iter().find_map(|file| parse(&std::fs::read_to_string(file).ok()?));
    budget(limit, threads)
}

/// The limit in a file; `None` for no limit, for which version 1 has a number larger than any memory.
fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

fn budget(limit: Option<u64>, threads: usize) -> usize {
    let share = limit.map_or(MOST, |limit| limit / SHARE / threads.max(1) as u64);
    usize::try_from(share.clamp(LEAST, MOST)).expect("at most 64 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_together_take_a_quarter_of_the_limit_at_most() {
        let mib = |count: usize| count << 20;
        assert_eq!(budget(None, 2), mib(64));
        assert_eq!(budget(Some(512 << 20), 2), mib(64));
        assert_eq!(budget(Some(512 << 20), 16), mib(8));
        assert_eq!(budget(Some(64 << 20), 64), mib(4), "enough to work with");
    }

    #[test]
    fn a_group_without_a_limit_has_none() {
        assert_eq!(parse("536870912\n"), Some(512 << 20));
        for text in ["max\n", "9223372036854771712\n", ""] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
