//! The chart as helm renders it: golden files, lint, and whether the program takes what the chart tells it.
//!
//! Needs helm and kube-score; `make test-chart` sees to both.

#[allow(dead_code, unreachable_pub, reason = "the cluster tests need more of it")]
#[path = "../cluster/support/assets.rs"]
mod assets;
#[allow(dead_code, reason = "the offline tests need more of it")]
#[path = "../offline/golden.rs"]
mod golden;
mod rendering;
mod score;
#[path = "../shared/mod.rs"]
mod shared;
mod tools;
