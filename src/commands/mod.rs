//! One file for each command of the command line.

pub mod check;
pub mod crd;
mod demo_manifests;
mod echo;
