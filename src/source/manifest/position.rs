//! The line of each field of a document.

use std::collections::HashMap;

pub(super) use crate::api::validation::{child, entry};

/// The lines of a document's fields, by path as Kubernetes writes it: `spec.rules[0].backendRefs[1].port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Positions {
    lines: HashMap<String, usize>,
}

impl Positions {
    /// The line of a field, or of its nearest parent in the document.
    #[must_use]
    pub(super) fn line(&self, field: &str) -> usize {
        let mut field = Some(field);
        while let Some(path) = field {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            field = parent(path);
        }
        1
    }

    /// The line of a recorded field.
    pub(super) fn exact(&self, field: &str) -> Option<usize> {
        self.lines.get(field).copied()
    }

    pub(super) fn note(&mut self, field: String, line: usize) {
        self.lines.entry(field).or_insert(line);
    }
}

/// The path of `field` below `prefix`, either of which may be empty.
pub(super) fn join(prefix: &str, field: &str) -> String {
    match (prefix, field) {
        ("", field) => field.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, field) if field.starts_with('[') => format!("{prefix}{field}"),
        (prefix, field) => format!("{prefix}.{field}"),
    }
}

/// Whether `field` is `prefix` or below it.
pub(super) fn is_within(field: &str, prefix: &str) -> bool {
    field.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The parent of a field; empty for the whole document.
fn parent(field: &str) -> Option<&str> {
    if field.is_empty() {
        return None;
    }
    let cut = if field.ends_with(']') { field.rfind('[') } else { field.rfind('.') };
    Some(&field[..cut.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_missing_stands_where_its_nearest_ancestor_does() {
        let mut positions = Positions::default();
        positions.note(String::new(), 2);
        positions.note("spec".into(), 4);
        positions.note("spec.rules[0]".into(), 6);
        assert_eq!(positions.line("spec.rules[0].backendRefs[1].port"), 6);
        assert_eq!(positions.line("spec.rules[1]"), 4);
        assert_eq!(positions.line("metadata.labels[kubernetes.io/service-name]"), 2);
        assert_eq!(Positions::default().line("spec"), 1);
    }

    #[test]
    fn paths_are_written_as_kubernetes_writes_them() {
        assert_eq!(child(&child("metadata", "labels"), "a.b/c"), "metadata.labels[a.b/c]");
        assert_eq!(entry(&child("", "items"), 3), "items[3]");
        assert_eq!(join("items[3]", "spec.x"), "items[3].spec.x");
        assert!(is_within("items[1].spec", "items[1]") && !is_within("items[10]", "items[1]"));
    }
}
