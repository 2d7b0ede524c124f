//! Problems of an object in a manifest.

use crate::api::Fault;

/// A problem with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) field: String,
    pub(super) message: String,
}

impl From<Fault> for Violation {
    fn from(Fault { path: field, message }: Fault) -> Self {
        Self { field, message }
    }
}

impl From<&Violation> for Fault {
    fn from(Violation { field, message }: &Violation) -> Self {
        Self { path: field.clone(), message: message.clone() }
    }
}
