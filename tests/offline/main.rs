//! Tests that need nothing but files.

mod golden;
