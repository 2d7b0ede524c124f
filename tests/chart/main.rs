//! The chart as helm renders it: golden files, lint, and whether the program takes what the chart tells it.
//!
//! Needs helm and kube-score; `make lint-chart` sees to both.

#[path = "../cluster/support/assets.rs"]
mod assets;
#[path = "../offline/golden.rs"]
mod golden;
mod rendering;
mod score;
#[path = "../shared/mod.rs"]
mod shared;
mod tools;
