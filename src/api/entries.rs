//! The schemas of the entries of lists of strings. A rule of an entry, unlike one of its list, names the entry in its
//! error.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    patterns::{ADDRESS, HOSTNAME, NETWORK, TOKEN},
    route::matches,
};

/// Declares a type that stands for an entry in `#[schemars(with = "Vec<…>")]`, with the maximum length of an entry in
/// bytes, and its CEL rules and their messages.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident, $max_length:literal, [$(($rule:expr, $message:literal)),+]) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $max_length,
                    "x-kubernetes-validations": [$({ "rule": $rule, "message": $message }),+],
                })
            }
        }
    };
}

entry!(
    /// An entry of `hostnames`.
    Hostname,
    253,
    [
        (
            matches(HOSTNAME),
            "must be a lower-case host name without a port, such as chat.example.com or *.example.com"
        ),
        (
            format!("!{}", matches(ADDRESS)),
            "must be a host name, not an IP address: requests to an address match routes without hostnames"
        )
    ]
);

entry!(
    /// An entry of `subprotocols`.
    Subprotocol,
    63,
    [(matches(TOKEN), "must be the name of a WebSocket subprotocol: letters, digits and -!#$%&*+.^_`|~")]
);

entry!(
    /// An entry of a list of networks.
    Network,
    49,
    [(
        matches(NETWORK),
        "must be a network with its prefix length, such as 10.0.0.0/8, 192.0.2.1/32 or 2001:db8::/32"
    )]
);
