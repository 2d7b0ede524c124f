//! Bounds on what clients and backends can make the process hold and do: bytes, connections, time and log lines.

pub(crate) mod budget;
pub(crate) mod clients;
pub(crate) mod pace;
pub(crate) mod throttle;
