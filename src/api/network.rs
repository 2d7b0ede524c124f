//! The schema of one entry of a list of networks.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::patterns::NETWORK;

/// Stands for a network where the schema is made, so that a fault names the entry and not the list.
pub(super) struct Network;

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 49,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{NETWORK}')"),
                "message": "must be a network with its prefix length, such as 10.0.0.0/8, 192.0.2.1/32 or 2001:db8::/32",
            }],
        })
    }
}
