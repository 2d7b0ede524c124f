//! What an operator sees: metrics, log lines, the admin port.

mod admin;
pub mod log;
mod metrics;
mod routes;
mod tunnels;

pub use admin::{Admin, FileProblems, Readiness};
pub use metrics::{Direction, Metrics, TunnelClose};
pub use tunnels::{EachWay, OpenTunnel, OpenTunnels};
