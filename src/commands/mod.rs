//! One file for each command of the command line.

pub mod check;
pub mod crd;
