//! Names of namespaced objects.

use std::{fmt, sync::Arc};

/// A namespace and a name in it; displayed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in it.
    pub name: Arc<str>,
}

impl ObjectName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether a text is a valid name for most Kubernetes objects (RFC 1123): labels of lower-case letters, digits and `-`,
/// separated by dots, at most 253 characters.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether a text is one such label of at most 63 characters, as required for rules and namespaces.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_label(name)
}

fn is_label(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_are_dns_subdomains() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        for name in ["chat-0", "chat-7d9f-x2x1z", "a.b", "0", &longest] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        let too_long = format!("{longest}e");
        for name in ["", "a\nb", "\u{1b}[2J", "Chat", "a..b", "-a", "a-", ".a", "a_b", "a b", "ä", &too_long] {
            assert!(!is_dns_subdomain(name), "{name:?}");
        }
        assert!(is_dns_label("main-2") && !is_dns_label("a.b") && !is_dns_label(&"a".repeat(64)));
    }
}
