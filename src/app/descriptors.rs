//! How many connections the limit of file descriptors allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors for everything but connections with clients and their backends: listeners, the admin port, watches,
/// files, pooled connections.
const RESERVE: u64 = 256;
/// Below this, nothing useful is left.
const FEWEST: u64 = 16;
const FEWEST_ADMIN: u64 = 4;

/// How many connections fit below the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fitting {
    /// Connections with clients; each may need one with a backend.
    pub(super) clients: usize,
    /// Connections to the admin port, out of the reserve.
    pub(super) admin: usize,
}

/// Raises the limit as far as it may be raised, and returns how many connections fit below it.
pub(super) fn connections() -> Fitting {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The lower limit is for programs that use select(2) on their descriptors.
    let limit = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "the limit of file descriptors stays as it is");
            current
        }
    };
    let fitting = fitting(limit.unwrap_or(u64::MAX));
    if let Some(limit) = limit {
        info!(descriptors = limit, connections = fitting.clients, "connections are limited by file descriptors");
    }
    fitting
}

fn fitting(limit: u64) -> Fitting {
    let reserve = RESERVE.min(limit / 2);
    let clients = ((limit - reserve) / 2).max(FEWEST);
    let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
    Fitting { clients: number(clients), admin: number((reserve / 4).max(FEWEST_ADMIN)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_back_for_everything_else() {
        assert_eq!(fitting(20_000), Fitting { clients: 9_872, admin: 64 });
        assert_eq!(fitting(1_024), Fitting { clients: 384, admin: 64 });
        assert_eq!(fitting(100), Fitting { clients: 25, admin: 12 });
    }
}
