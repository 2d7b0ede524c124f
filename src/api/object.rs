//! A `WebSocketRoute` as it came, readable or not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{GROUP, KIND, VERSION, WebSocketRouteSpec, WebSocketRouteStatus};

/// A route with a spec that may not be readable: one written under another CRD, or past the schema.
///
/// Such an object is kept, never dropped: it can still be deleted, it has a status, and its readable hostnames keep
/// answering 503 instead of falling through to another route.
#[derive(Clone, Debug)]
pub struct RouteObject {
    /// The object's metadata.
    pub metadata: ObjectMeta,
    /// The spec, or why it is not readable.
    pub spec: Result<WebSocketRouteSpec, UnreadableSpec>,
    /// The status that the store holds.
    pub status: WebSocketRouteStatus,
}

/// What remains of a spec that does not deserialise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableSpec {
    /// The field that is wrong, the first one of several.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// The class it names, where that is readable.
    pub class_name: Option<String>,
    /// The hostnames it claims, those that are readable.
    pub hostnames: Vec<String>,
}

impl RouteObject {
    /// The class that the route asks to be served by, where that is readable.
    #[must_use]
    pub fn class_name(&self) -> Option<&str> {
        match &self.spec {
            Ok(spec) => Some(&spec.class_name),
            Err(unreadable) => unreadable.class_name.as_deref(),
        }
    }

    /// Reads a spec, keeping what can be kept of one that does not deserialise.
    ///
    /// # Errors
    /// When it does not deserialise: what is wrong, and what could be read all the same.
    pub fn read_spec(spec: &Value) -> Result<WebSocketRouteSpec, UnreadableSpec> {
        serde_path_to_error::deserialize(spec).map_err(|error| {
            let hostnames = spec.get("hostnames").and_then(Value::as_array);
            UnreadableSpec {
                path: format!("spec.{}", error.path()),
                message: error.inner().to_string(),
                class_name: spec.get("className").and_then(Value::as_str).map(str::to_owned),
                hostnames: hostnames.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
            }
        })
    }
}

impl<'de> Deserialize<'de> for RouteObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metadata: ObjectMeta,
            #[serde(default)]
            spec: Value,
            #[serde(default)]
            status: Value,
        }
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        if metadata.name.is_none() {
            return Err(D::Error::missing_field("metadata.name"));
        }
        // A status that does not parse is one to be written anew, so nothing is lost by forgetting it.
        let status = serde_json::from_value(status).unwrap_or_default();
        Ok(Self { metadata, spec: Self::read_spec(&spec), status })
    }
}

impl Serialize for RouteObject {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            api_version: &'a str,
            kind: &'a str,
            metadata: &'a ObjectMeta,
            #[serde(skip_serializing_if = "Option::is_none")]
            spec: Option<&'a WebSocketRouteSpec>,
            status: &'a WebSocketRouteStatus,
        }
        let written = Written {
            api_version: <Self as k8s_openapi::Resource>::API_VERSION,
            kind: KIND,
            metadata: &self.metadata,
            spec: self.spec.as_ref().ok(),
            status: &self.status,
        };
        written.serialize(serializer)
    }
}

impl k8s_openapi::Resource for RouteObject {
    const API_VERSION: &'static str = "switchyard.dev/v1alpha1";
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = KIND;
    const VERSION: &'static str = VERSION;
    const URL_PATH_SEGMENT: &'static str = "websocketroutes";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for RouteObject {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_does_not_parse_keeps_its_name_and_its_hostnames() {
        let object: RouteObject = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "chat", "namespace": "shop" },
            "spec": { "className": "switchyard", "hostnames": ["chat.example.com", 7], "rules": "all of them" },
        }))
        .unwrap();
        let unreadable = object.spec.unwrap_err();
        assert_eq!(unreadable.hostnames, ["chat.example.com"]);
        assert_eq!(unreadable.class_name.as_deref(), Some("switchyard"));
        assert_eq!(unreadable.path, "spec.hostnames[1]");
    }
}
