//! The schema of one entry of `subprotocols`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::patterns::TOKEN;

/// Stands for a subprotocol where the schema is made, so that a fault names the entry and not the list.
pub(super) struct Subprotocol;

impl JsonSchema for Subprotocol {
    fn schema_name() -> Cow<'static, str> {
        "Subprotocol".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 63,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{TOKEN}')"),
                "message": "must be the name of a WebSocket subprotocol: letters, digits and -!#$%&*+.^_`|~",
            }],
        })
    }
}
