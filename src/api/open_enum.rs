//! Enums whose set of values may grow.

/// Defines a string enum that also accepts unknown values.
///
/// The schema lists the known values, so an API server with this version rejects others. An object written under a
/// newer CRD still deserialises: its value becomes `Unsupported`, which the compiler reports as a condition.
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// A value unknown to this version.
            #[serde(untagged)]
            Unsupported(String),
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$(stringify!($variant)),+] })
            }
        }
    };
}

pub(super) use open_enum;
