//! How many connections the limit of file descriptors allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors for everything but connections with clients and their backends: listeners, the admin port, watches,
/// files, pooled connections.
const RESERVE: u64 = 256;
/// Below this, nothing useful is left.
const FEWEST: u64 = 16;

/// Raises the limit as far as it may be raised, and tells how many connections with clients fit below it: each may
/// need one with a backend.
pub(super) fn connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The lower limit is for programs that use select(2) on their descriptors.
    let limit = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "the limit of file descriptors stays as it is");
            current
        }
    };
    let Some(limit) = limit else { return usize::MAX };
    let connections = fitting(limit);
    info!(descriptors = limit, connections, "connections are limited by file descriptors");
    usize::try_from(connections).unwrap_or(usize::MAX)
}

fn fitting(limit: u64) -> u64 {
    let reserve = RESERVE.min(limit / 2);
    ((limit - reserve) / 2).max(FEWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_back_for_everything_else() {
        assert_eq!(fitting(20_000), 9_872);
        assert_eq!(fitting(1_024), 384);
        assert_eq!(fitting(100), 25);
    }
}
