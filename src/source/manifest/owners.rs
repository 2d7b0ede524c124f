//! The file of `--hostname-owners`, which reserves hostnames for namespaces.

use serde_json::Value;

use super::{
    position::{Positions, child, entry},
    syntax::{Syntax, SyntaxFault},
    yaml::{self, Document},
};
use crate::{
    compile::is_dns_label,
    table::{HostPattern, HostnameOwners},
};

/// The problems of the file; printed as `line N: field: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct OwnersError(Vec<OwnersFault>);

/// One of the problems.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnersFault(SyntaxFault);

impl std::fmt::Display for OwnersFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SyntaxFault { line, field, message } = &self.0;
        write!(f, "line {line}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)
    }
}

/// Reads a YAML map from namespaces to lists of hostnames and wildcards.
///
/// # Errors
/// If any of it is invalid, or if there is no map at all: an empty file is more likely to be a mistake than an intent
/// to reserve nothing, which is written `{}`.
pub fn hostname_owners(text: &str) -> Result<HostnameOwners, OwnersError> {
    read(text).map_err(|faults| OwnersError(faults.into_iter().map(OwnersFault).collect()))
}

fn read(text: &str) -> Result<HostnameOwners, Vec<SyntaxFault>> {
    let mut documents = yaml::documents(text, Syntax::Yaml);
    let whole = |message: &str| vec![SyntaxFault { line: 1, field: String::new(), message: message.to_owned() }];
    let document = match documents.len() {
        0 => return Err(whole(NOT_A_MAP)),
        1 => documents.remove(0)?,
        _ => return Err(whole("must be one YAML document")),
    };
    let Document { value, positions, faults } = document;
    let mut reader = OwnersReader { positions, owners: HostnameOwners::default(), faults };
    reader.map(&value);
    if reader.faults.is_empty() { Ok(reader.owners) } else { Err(reader.faults) }
}

const NOT_A_MAP: &str = "must be a map from namespaces to lists of hostnames, or {}";

struct OwnersReader {
    positions: Positions,
    owners: HostnameOwners,
    faults: Vec<SyntaxFault>,
}

impl OwnersReader {
    fn map(&mut self, value: &Value) {
        let Some(map) = value.as_object() else { return self.fault("", NOT_A_MAP.to_owned()) };
        for (namespace, hostnames) in map {
            let field = child("", namespace);
            if !is_dns_label(namespace) {
                self.fault(&field, format!("must be the name of a namespace, got {namespace:?}"));
            }
            self.list(namespace, &field, hostnames);
        }
    }

    fn list(&mut self, namespace: &str, field: &str, hostnames: &Value) {
        let Some(hostnames) = hostnames.as_array() else {
            return self.fault(field, "must be a list of hostnames and wildcards".to_owned());
        };
        for (index, hostname) in hostnames.iter().enumerate() {
            match pattern(hostname) {
                Some(pattern) => self.owners.reserve(&pattern, namespace),
                None => self.fault(
                    &entry(field, index),
                    format!("must be a hostname such as example.com or \"*.example.com\", got {hostname}"),
                ),
            }
        }
    }

    fn fault(&mut self, field: &str, message: String) {
        self.faults.push(SyntaxFault { line: self.positions.line(field), field: field.to_owned(), message });
    }
}

fn pattern(hostname: &Value) -> Option<HostPattern> {
    HostPattern::checked(&hostname.as_str()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        hostname_owners(text).unwrap_err().to_string()
    }

    #[test]
    fn a_namespace_has_names_and_wildcards() {
        let text = "shop: [Example.com, \"*.example.com\"]\nbank:\n- bank.test\n'7': []\n";
        let owners = hostname_owners(text).unwrap();
        for (pattern, namespaces) in [("example.com", "shop"), ("*.a.example.com", "shop"), ("bank.test", "bank")] {
            let reserved = owners.covering(&HostPattern::parse(pattern)).unwrap();
            assert_eq!(reserved.iter().map(|name| &**name).collect::<Vec<_>>(), [namespaces], "{pattern}");
        }
        assert_eq!(owners.covering(&HostPattern::parse("*.bank.test")), None);
        assert_eq!(hostname_owners("\u{feff}{}").unwrap(), HostnameOwners::default());
    }

    #[test]
    fn what_is_wrong_has_its_line_and_field() {
        let cases = [
            ("", "line 1: must be a map"),
            ("# nothing\n", "line 1: must be a map"),
            ("- shop\n", "line 1: must be a map"),
            ("shop: example.com\n", "line 1: shop: must be a list"),
            ("shop:\n", "line 1: shop: must be a list"),
            ("bank: []\nshop: [a.test,\n  'x y']\n", "line 3: shop[1]: must be a hostname"),
            ("shop: [7]\n", "line 1: shop[0]: must be a hostname"),
            ("shop: ['*']\n", "line 1: shop[0]: must be a hostname"),
            ("shop: ['*.*.test']\n", "line 1: shop[0]: must be a hostname"),
            ("shop: [10.0.0.1]\n", "line 1: shop[0]: must be a hostname"),
            ("Shop: []\n", "line 1: Shop: must be the name of a namespace"),
            ("a.b: []\n", "must be the name of a namespace"),
            ("\"a\\nb\": []\n", "must be the name of a namespace, got \"a\\nb\""),
            ("shop: []\nshop: []\n", "line 2: shop: "),
            ("shop: [*.test]\n", "line 1: "),
            ("shop: []\n---\nbank: []\n", "must be one YAML document"),
        ];
        for (text, expected) in cases {
            assert!(fault(text).contains(expected), "{text:?}: {}", fault(text));
        }
    }

    #[test]
    fn all_faults_are_named() {
        let faults = fault("shop: [1, 2]\n");
        assert!(faults.contains("shop[0]") && faults.contains("shop[1]"), "{faults}");
    }
}
