//! The syntax of manifests, and what can be wrong with it.

/// A problem at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxFault {
    pub(super) line: usize,
    pub(super) field: String,
    pub(super) message: String,
}

/// The syntax of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Syntax {
    #[default]
    Yaml,
    Json,
}
