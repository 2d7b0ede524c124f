//! The number of connections that the file descriptor limit allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Descriptors for everything except connections with clients and their backends: listeners, the admin port, watches,
/// files, pooled connections.
const RESERVE: u64 = 256;
/// Useful minimums.
const FEWEST: u64 = 16;
const FEWEST_ADMIN: u64 = 4;

/// The number of connections that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fitting {
    /// Connections with clients; each may need one with a backend.
    pub(super) clients: usize,
    /// Connections to the admin port, out of the reserve.
    pub(super) admin: usize,
}

/// Raises the soft limit to the hard limit, and returns how many connections fit.
pub(super) fn connections() -> Fitting {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The lower limit exists for programs that use select(2).
    let limit = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "cannot raise the file descriptor limit");
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
