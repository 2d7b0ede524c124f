//! Converts values into Kubernetes' own types without silently ignoring anything.

use serde::de::DeserializeOwned;
use serde_ignored::Path as IgnoredPath;
use serde_json::Value;
use serde_path_to_error::{Path, Segment, Track};

use super::{
    position::{child, entry, join},
    violation::Violation,
};

/// Reads the value at `field`. Unknown fields are violations, as in an API server with strict validation.
pub(super) fn read<T: DeserializeOwned>(value: &Value, field: &str) -> Result<T, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut track = Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let unknown = |path: IgnoredPath<'_>| {
        violations.push(Violation { field: join(field, &ignored_field(&path)), message: "unknown field".into() });
    };
    let read: Result<T, _> = serde_ignored::deserialize(deserializer, unknown);
    match read {
        Ok(value) if violations.is_empty() => Ok(value),
        Ok(_) => Err(violations),
        Err(error) => {
            violations.push(Violation { field: join(field, &field_of(&track.path())), message: error.to_string() });
            Err(violations)
        }
    }
}

fn field_of(path: &Path) -> String {
    path.iter().fold(String::new(), |field, segment| match segment {
        Segment::Seq { index } => entry(&field, *index),
        Segment::Map { key } | Segment::Enum { variant: key } => child(&field, key),
        Segment::Unknown => field,
    })
}

fn ignored_field(path: &IgnoredPath<'_>) -> String {
    match path {
        IgnoredPath::Root => String::new(),
        IgnoredPath::Seq { parent, index } => entry(&ignored_field(parent), *index),
        IgnoredPath::Map { parent, key } => child(&ignored_field(parent), key),
        IgnoredPath::Some { parent }
        | IgnoredPath::NewtypeStruct { parent }
        | IgnoredPath::NewtypeVariant { parent } => ignored_field(parent),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_and_wrong_types_are_told_with_their_paths() {
        let typo = json!({ "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "prot": 80 }] } });
        let violations = read::<Service>(&typo, "").unwrap_err();
        assert_eq!(violations, [Violation { field: "spec.ports[0].prot".into(), message: "unknown field".into() }]);
        let text = json!({ "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "port": "80" }] } });
        let violations = read::<Service>(&text, "items[1]").unwrap_err();
        assert_eq!(violations[0].field, "items[1].spec.ports[0].port");
    }
}
