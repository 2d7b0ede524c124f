//! Faults of received records.

/// Why a connection cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a record that does not match the agreed keys")]
    BadMac,
    #[error("a record that is too long")]
    Overflow,
    #[error("an unexpected record")]
    Unexpected,
    #[error("an alert, {0}")]
    Alert(u8),
    #[error("the keys have reached their limit")]
    Exhausted,
}

impl Fault {
    /// The alert for the peer (RFC 8446 §6).
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
