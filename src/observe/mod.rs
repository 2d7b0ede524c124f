//! What an operator sees: metrics, log lines, the admin port.

mod admin;
pub mod log;
mod metrics;
mod routes;

pub use admin::{Admin, FileProblems, Readiness};
pub use metrics::{Direction, Metrics, TunnelClose};
