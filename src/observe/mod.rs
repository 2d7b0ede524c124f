//! What operators see.

pub mod metrics;

pub use metrics::Metrics;
