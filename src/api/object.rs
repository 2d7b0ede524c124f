//! A `WebSocketRoute` as received, readable or not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{
    Chosen, GROUP, KIND, RouteMatch, RouteRule, Tls, VERSION, WebSocketRouteSpec, WebSocketRouteStatus, validation,
};
use crate::choices::InsecurePolicy;

/// A route whose spec may be unreadable: written under another CRD, or stored without validation.
///
/// Such an object is kept, never dropped: it can still be deleted, it has a status, and its readable hostnames get 503
/// instead of falling through to another route.
#[derive(Clone, Debug)]
pub struct RouteObject {
    /// The object's metadata.
    pub metadata: ObjectMeta,
    /// The spec, or why it is unreadable.
    pub spec: Result<WebSocketRouteSpec, UnreadableSpec>,
    /// The stored status.
    pub status: WebSocketRouteStatus,
}

/// The readable parts of a spec that does not deserialise or breaks the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableSpec {
    /// What is wrong; never empty.
    pub faults: Vec<Fault>,
    /// Its class, if readable.
    pub class_name: Option<String>,
    /// The hostnames it claims, without the invalid ones.
    pub hostnames: Vec<String>,
    /// Its TLS settings for these hostnames.
    pub tls: Option<Box<Tls>>,
    /// Its rules; `None` if not even their number is known.
    pub rules: Option<Vec<PartialRule>>,
}

/// A problem in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, such as `spec.rules[0].timeouts.idle`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// A rule of an unreadable spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartialRule {
    /// The rule is valid.
    Readable(Box<RouteRule>),
    /// The rule cannot be served, but keeps its claims.
    Faulty {
        /// Its name, if it has a readable one.
        name: Option<String>,
        /// What is wrong with the rule, or with the spec around it.
        message: String,
        /// The readable matches (empty matches every request); `None` if it has matches and none is readable.
        matches: Option<Vec<RouteMatch>>,
    },
}

impl RouteObject {
    /// The class of the route, if readable.
    #[must_use]
    pub fn class_name(&self) -> Option<&str> {
        match &self.spec {
            Ok(spec) => Some(&spec.class_name),
            Err(unreadable) => unreadable.class_name.as_deref(),
        }
    }

    /// Reads the spec of a stored object, keeping the readable parts of an invalid one: it may have been stored under
    /// another version of the schema.
    ///
    /// # Errors
    /// If the spec breaks the schema of this version or does not deserialise: the problems, and the readable parts.
    pub fn read_spec(spec: &Value) -> Result<WebSocketRouteSpec, UnreadableSpec> {
        let faults = validation::check_stored(spec);
        if !faults.is_empty() {
            return Err(UnreadableSpec::read(spec, faults));
        }
        serde_path_to_error::deserialize(spec).map_err(|error| {
            let fault = Fault { path: format!("spec.{}", error.path()), message: error.inner().to_string() };
            UnreadableSpec::read(spec, vec![fault])
        })
    }
}

impl UnreadableSpec {
    /// Reads the parts of a spec that these faults leave readable. A fault in a rule disables that rule, one in a
    /// hostname that hostname, and one elsewhere all rules.
    #[must_use]
    pub fn read(spec: &Value, faults: Vec<Fault>) -> Self {
        let hostnames = spec.get("hostnames").and_then(Value::as_array).into_iter().flatten().enumerate();
        let is_right = |index| fault_in(&faults, &format!("spec.hostnames[{index}]")).is_none();
        let hostnames = hostnames.filter(|(index, _)| is_right(*index)).filter_map(|(_, host)| host.as_str());
        let rules = spec.get("rules").and_then(Value::as_array);
        let read = |(index, rule)| PartialRule::read(index, rule, &faults);
        Self {
            class_name: spec.get("className").and_then(Value::as_str).map(str::to_owned),
            hostnames: hostnames.map(str::to_owned).collect(),
            tls: read_tls(spec),
            rules: rules.map(|rules| rules.iter().enumerate().map(read).collect()),
            faults,
        }
    }
}

impl PartialRule {
    fn read(index: usize, value: &Value, faults: &[Fault]) -> Self {
        let of_a_part = |fault: &Fault| {
            ["spec.rules[", "spec.hostnames[", "spec.tls"].iter().any(|part| fault.path.starts_with(part))
        };
        let fault = fault_in(faults, &format!("spec.rules[{index}]"));
        let fault = fault.or_else(|| faults.iter().find(|fault| !of_a_part(fault)));
        let message = match (RouteRule::deserialize(value), fault) {
            (Ok(rule), None) => return Self::Readable(Box::new(rule)),
            (_, Some(Fault { path, message })) => format!("{path}: {message}"),
            (Err(error), None) => format!("spec.rules[{index}]: {error}"),
        };
        Self::Faulty { name: value["name"].as_str().map(str::to_owned), message, matches: read_matches(value) }
    }
}

/// The first fault of a field, or of anything in it.
fn fault_in<'a>(faults: &'a [Fault], path: &str) -> Option<&'a Fault> {
    faults.iter().find(|fault| fault.path.starts_with(path))
}

fn read_matches(rule: &Value) -> Option<Vec<RouteMatch>> {
    match rule.get("matches") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(matches) => {
            let readable = matches.as_array()?.iter().filter_map(|one| RouteMatch::deserialize(one).ok());
            let readable: Vec<_> = readable.collect();
            (!readable.is_empty() || matches.as_array()?.is_empty()).then_some(readable)
        }
    }
}

/// Reads the TLS settings of a possibly unreadable spec. If they are unreadable too, they have no certificate and
/// refuse plaintext: what was meant to be secure is never served in plaintext.
fn read_tls(spec: &Value) -> Option<Box<Tls>> {
    let tls = spec.get("tls").filter(|tls| !tls.is_null())?;
    let closed = Tls { certificate_refs: Vec::new(), insecure_policy: Some(Chosen::Known(InsecurePolicy::Deny)) };
    Some(Box::new(Tls::deserialize(tls).unwrap_or(closed)))
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
        // An unreadable status may be dropped: it is written again in any case.
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
    fn tls_settings_that_do_not_parse_let_nothing_through() {
        let read = |tls| read_tls(&serde_json::json!({ "tls": tls }));
        let readable = read(serde_json::json!({ "certificateRefs": [{ "name": "chat-tls" }] })).unwrap();
        assert_eq!(readable.certificate_refs[0].name, "chat-tls");
        let garbled = read(serde_json::json!({ "certificateRefs": "chat-tls" })).unwrap();
        assert_eq!(garbled.insecure_policy, Some(Chosen::Known(InsecurePolicy::Deny)));
        assert!(read(Value::Null).is_none());
    }

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
        assert_eq!(unreadable.faults[0].path, "spec.hostnames[1]");
        assert_eq!(unreadable.rules, None);
    }

    #[test]
    fn a_fault_in_one_rule_leaves_the_others_readable() {
        let spec = serde_json::json!({ "className": "switchyard", "rules": [
            { "name": "one", "backendRefs": [{ "name": "a", "port": 80 }], "timeouts": { "idle": "10 s" },
              "matches": [{ "path": { "value": "/one" } }, { "path": 7 }] },
            { "backendRefs": [{ "name": "a", "port": 80 }] },
        ] });
        let rules = RouteObject::read_spec(&spec).unwrap_err().rules.unwrap();
        let PartialRule::Faulty { name, matches, .. } = &rules[0] else { panic!("{rules:?}") };
        assert_eq!(name.as_deref(), Some("one"));
        assert_eq!(matches.as_ref().unwrap().len(), 1);
        assert!(matches!(rules[1], PartialRule::Readable(_)));
    }

    #[test]
    fn a_fault_of_the_whole_spec_takes_all_rules() {
        let spec = serde_json::json!({ "rules": [{ "backendRefs": [{ "name": "a", "port": 80 }] }] });
        let fault = |path: &str| vec![Fault { path: path.into(), message: "wrong".into() }];
        let rules = |path| UnreadableSpec::read(&spec, fault(path)).rules.unwrap();
        assert!(matches!(rules("spec.unknown")[0], PartialRule::Faulty { .. }));
        assert!(matches!(rules("spec.tls.insecurePolicy")[0], PartialRule::Readable(_)));
        assert!(matches!(rules("spec.rules[10].name")[0], PartialRule::Readable(_)));
    }
}
