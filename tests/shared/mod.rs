//! What several test binaries use.
#![allow(dead_code, reason = "each of them needs another part")]

pub(crate) mod cache;
pub(crate) mod process;
