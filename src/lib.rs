//! Switchyard: a Kubernetes ingress controller and proxy for WebSocket traffic.

pub mod api;
pub mod commands;
pub mod compile;
pub mod source;
pub mod table;
