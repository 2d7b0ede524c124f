//! The schema of one entry of `hostnames`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::patterns::{ADDRESS, HOSTNAME};

/// Stands for a hostname when the schema is generated, so that a problem is reported for the entry, not for the list.
pub(super) struct Hostname;

impl JsonSchema for Hostname {
    fn schema_name() -> Cow<'static, str> {
        "Hostname".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "x-kubernetes-validations": [
                {
                    "rule": format!("self.matches('{HOSTNAME}')"),
                    "message": "must be a lower-case host name without a port, such as chat.example.com or \
                                *.example.com",
                },
                {
                    "rule": format!("!self.matches('{ADDRESS}')"),
                    "message": "must be a host name, not an IP address: requests to an address match routes without \
                                hostnames",
                },
            ],
        })
    }
}
