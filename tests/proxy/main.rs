//! The proxy over loopback, with backends and clients that speak raw bytes.

mod checks;
mod lifecycle;
mod plain;
mod sessions;
mod support;
mod tls;
mod upgrade;
