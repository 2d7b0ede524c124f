//! Switchyard: a Kubernetes ingress controller and proxy for WebSocket traffic.

pub mod api;
pub mod app;
pub mod args;
pub mod commands;
pub mod compile;
pub mod observe;
pub mod proxy;
pub mod source;
pub mod table;
