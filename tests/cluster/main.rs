//! Switchyard in a real cluster: API server, etcd and controller manager, the chart's RBAC, and the program itself.
//!
//! Runs in its own network namespace; `make test-cluster` provides everything it needs.

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
