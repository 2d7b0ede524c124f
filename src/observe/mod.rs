//! What an operator sees: metrics, log lines, the admin port.

mod admin;
pub mod log;
mod metrics;
mod routes;
mod tokens;
mod tunnels;

pub use admin::{Admin, AdminLimits, FileProblems, Readiness};
pub use metrics::{Direction, Metrics, TunnelClose};
pub use tokens::{ApiTokens, TokenFileError};
pub use tunnels::{EachWay, OpenTunnel, OpenTunnels};
