//! What is wrong with received records.

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a record that was not made with the agreed keys")]
    BadMac,
    #[error("a record that is too long")]
    Overflow,
    #[error("a record that has no place here")]
    Unexpected,
    #[error("an alert, {0}")]
    Alert(u8),
    #[error("the keys have protected as much as they may")]
    Exhausted,
}

impl Fault {
    /// What to tell the peer (RFC 8446 §6).
    pub(super) fn alert(self) -> Option<u8> {
        match self {
            Self::BadMac => Some(20),
            Self::Overflow => Some(22),
            Self::Unexpected => Some(10),
            Self::Exhausted => Some(80),
            Self::Alert(_) => None,
        }
    }
}
