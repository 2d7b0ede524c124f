//! The proxy over loopback, with backends and clients that exchange raw bytes.

mod admin;
mod checks;
mod clients;
mod closes;
mod cost;
mod differential;
mod direct;
mod hostile;
mod lifecycle;
mod matches;
mod peers;
mod pings;
mod plain;
mod probe;
mod program;
mod sessions;
#[path = "../shared/mod.rs"]
mod shared;
mod support;
mod tls;
mod upgrade;
mod ways;
mod wss;
