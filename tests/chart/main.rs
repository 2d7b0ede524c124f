//! The chart as rendered by helm: golden files, lint, and whether the program accepts the chart's flags.
//!
//! Needs helm and kube-score; `make test-chart` installs both.

#[allow(dead_code, unreachable_pub, reason = "the cluster tests use more of it")]
#[path = "../cluster/support/assets.rs"]
mod assets;
#[allow(dead_code, reason = "the offline tests use more of it")]
#[path = "../offline/golden.rs"]
mod golden;
mod rendering;
mod score;
#[path = "../shared/mod.rs"]
mod shared;
mod tools;
