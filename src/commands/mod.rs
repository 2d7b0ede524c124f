//! One file for each command of the command line.

mod demo_manifests;
mod echo;
