//! Failures that repeat, and what the log needs to know of them.

use std::sync::Arc;

/// A failure that may repeat: a new cause deserves a warning, the same one again only a debug message, and the end of
/// it a message that it is over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaint {
    cause: Option<Arc<str>>,
}

impl Complaint {
    /// Records a failure; returns whether its cause differs from the last one.
    #[must_use]
    pub(crate) fn raise(&mut self, cause: &str) -> bool {
        let is_new = self.cause.as_deref() != Some(cause);
        if is_new {
            self.cause = Some(cause.into());
        }
        is_new
    }

    /// Records a success; returns whether it is a recovery.
    #[must_use]
    pub(crate) fn settle(&mut self) -> bool {
        self.cause.take().is_some()
    }

    /// The cause of the last failure; `None` after a success.
    pub(crate) fn cause(&self) -> Option<&Arc<str>> {
        self.cause.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_new_once_until_another_one_or_a_recovery() {
        let mut complaint = Complaint::default();
        assert!(!complaint.settle(), "nothing has failed yet");
        assert!(complaint.raise("refused") && !complaint.raise("refused"));
        assert!(complaint.raise("not permitted") && complaint.raise("refused"));
        assert_eq!(complaint.cause().map(|cause| &**cause), Some("refused"));
        assert!(complaint.settle() && !complaint.settle());
        assert!(complaint.cause().is_none() && complaint.raise("refused"));
    }
}
