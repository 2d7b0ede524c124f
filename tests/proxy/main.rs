//! The proxy over loopback, with backends and clients that speak raw bytes.

mod checks;
mod lifecycle;
mod plain;
#[path = "../support/process.rs"]
mod process;
mod program;
mod sessions;
mod support;
mod tls;
mod upgrade;
