//! The image and the chart on a real node: kubelet, containerd, kube-proxy and pods with addresses of their own.
//!
//! Takes root and more programs than the other tests; `make test-node` sees to everything that it needs, and prints
//! each step with what was seen.

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
