//! The proxy over loopback, with backends and clients that speak raw bytes.

mod checks;
mod lifecycle;
mod plain;
mod program;
mod sessions;
#[path = "../shared/mod.rs"]
mod shared;
mod support;
mod tls;
mod upgrade;
