//! Switchyard in a real cluster: API server, etcd and controller manager, the chart's rights, and the program itself.
//!
//! Runs in a network namespace of its own; `make test-cluster` sees to everything that it needs.

mod chart;
mod crd;
mod disruption;
mod replicas;
mod routing;
#[path = "../shared/mod.rs"]
mod shared;
mod status;
mod stores;
mod support;
mod tls;
mod truth;
