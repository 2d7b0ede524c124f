//! Switchyard: a Kubernetes ingress controller and proxy for WebSocket traffic.

pub mod admin;
pub mod api;
pub mod app;
pub mod args;
pub mod choices;
pub mod commands;
pub mod compile;
pub mod metrics;
pub mod proxy;
pub mod report;
pub mod source;
pub mod table;
