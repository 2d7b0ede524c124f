//! Shared by several test binaries.
#![allow(dead_code, reason = "each of them uses a different part")]

pub(crate) mod cache;
pub(crate) mod certificates;
pub(crate) mod heads;
pub(crate) mod plain;
pub(crate) mod process;
pub(crate) mod standalone;
pub(crate) mod toolbox;
pub(crate) mod verdict;
