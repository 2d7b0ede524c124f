//! The image and the chart on a real node: kubelet, containerd, kube-proxy and pods with their own addresses.
//!
//! Needs root and more programs than the other tests; `make test-node` provides them, and prints each step with its
//! observations.

mod day;
mod first_day;
mod fleet;
mod image;
mod manifests;
mod node;
#[path = "../shared/mod.rs"]
mod shared;
mod socket;
#[path = "../cluster/support/mod.rs"]
mod support;
