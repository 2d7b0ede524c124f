//! Cluster objects in, table and verdicts out. Pure: no IO, no clock, no randomness.

mod verdict;
mod view;

pub use verdict::{Problem, Verdict, VerdictCondition};
pub use view::{
    ClusterView, SERVICE_NAME_LABEL, SecretData, SecretObject, ServiceObject, ServicePort, ServiceSpec,
    SliceConditions, SliceEndpoint, SliceObject, SlicePort, TLS_SECRET_TYPE, TargetRef, object_name, trim,
};
