//! Tests that need nothing but files.

mod golden;
mod reuse;
