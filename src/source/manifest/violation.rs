//! What is wrong with an object of a manifest.

use crate::api::Fault;

/// What is wrong with a field.
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
