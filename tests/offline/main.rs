//! Tests that only need files: golden files, the CRD, the watched directory, the structure of the source.

mod chart;
mod check;
mod compile;
mod crd;
mod directory;
mod docs;
mod golden;
mod layering;
mod manifests;
mod objects;
mod orphans;
mod reuse;
mod tenancy;
mod verdicts;
