//! Enums whose set of values may grow.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::choices::Choice;

/// A value as written in a route.
///
/// The schema lists the known values, so an API server with this version rejects others. An object written under a
/// newer CRD still deserialises: its value is `Unsupported`, which the compiler reports as a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen<T> {
    /// One of the values of this version.
    Known(T),
    /// A value unknown to this version.
    Unsupported(String),
}

impl<T: Choice> Chosen<T> {
    /// What a field states, or the default if it is absent.
    ///
    /// # Errors
    /// If it states a value that this version does not know: its text.
    pub fn or_default(written: Option<&Self>) -> Result<T, &str> {
        match written {
            None => Ok(T::default()),
            Some(Self::Known(value)) => Ok(*value),
            Some(Self::Unsupported(text)) => Err(text),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.as_str(),
            Self::Unsupported(text) => text,
        }
    }
}

impl<'de, T: Choice> Deserialize<'de> for Chosen<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = T::VALUES.iter().find(|value| value.as_str() == text);
        Ok(known.map_or(Self::Unsupported(text), |value| Self::Known(*value)))
    }
}

impl<T: Choice> Serialize for Chosen<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<T: Choice> JsonSchema for Chosen<T> {
    fn schema_name() -> Cow<'static, str> {
        T::TITLE.into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let values: Vec<_> = T::VALUES.iter().map(|value| value.as_str()).collect();
        json_schema!({ "type": "string", "enum": values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Algorithm;

    #[test]
    fn a_value_of_a_newer_version_is_kept_as_it_was_written() {
        for (text, expected) in [
            ("\"RoundRobin\"", Chosen::Known(Algorithm::RoundRobin)),
            ("\"Roundrobin\"", Chosen::Unsupported("Roundrobin".into())),
        ] {
            let read: Chosen<Algorithm> = serde_json::from_str(text).unwrap();
            assert_eq!(read, expected);
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        assert!(serde_json::from_str::<Chosen<Algorithm>>("7").is_err());
    }
}
