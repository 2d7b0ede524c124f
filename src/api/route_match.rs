//! What users write to match requests.
#![allow(unreachable_pub, reason = "KubeSchema repeats each type inside a function")]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{Chosen, entries::Subprotocol, patterns, route::matches};
use crate::choices::{PathMatchType, TextMatchType};

/// Conditions on a request; all of them must hold. If several matches fit a request, the most specific one wins: an `Exact` path before a `RegularExpression` (the longest first) before a `PathPrefix` (the longest first), then the one
/// with the most headers, then query parameters, then subprotocols; then the older route, and the order within a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path. Default: any path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,

    /// Header fields that must all be present, at most 16. A field sent in several lines has one value, with commas between
    /// the lines (a,b). Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub headers: Vec<HeaderMatch>,

    /// Query parameters that must all be present, at most 16. They are compared after decoding. If a parameter is sent
    /// several times, the first one counts; parameters after the first 100 are ignored. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub query_params: Vec<QueryParamMatch>,

    /// WebSocket subprotocols, at most 16. The client must offer one of them in `Sec-WebSocket-Protocol`; a request that is
    /// not a WebSocket upgrade never matches. Default: any request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Subprotocol>", length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub subprotocols: Vec<String>,
}

/// A CEL rule for the value of a path match that is not a regular expression.
fn of_a_path(rule: &str) -> String {
    format!("has(self.type) && self.type == 'RegularExpression' || {rule}")
}

/// A condition on the request path. Both paths are compared in a normal form: escapes of unreserved characters are
/// decoded (%61 is a), other escapes are upper-cased, and a run of `/` counts as one. Case-sensitive. The path is
/// forwarded unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(of_a_path(&format!("self.value.matches('{}') && !self.value.matches('[?#]')", patterns::PATH)))
        .message("must begin with / and contain only visible ASCII characters except ? and #; write others as %XX")
        .field_path(".value"),
    validation = Rule::new(of_a_path(&format!(
        "!self.value.matches('{}') && !self.value.contains('\\\\') && !self.value.matches('{}')",
        patterns::NUL,
        patterns::DOT_SEGMENT
    )))
        .message("must not contain dot segments, backslashes or %00: requests with such a path get 400")
        .field_path(".value"),
)]
pub struct PathMatch {
    /// `PathPrefix` (default) matches the path and everything below it, by whole segments: `/ws` and `/ws/` are the
    /// same prefix. `Exact` matches this path only. `RegularExpression` (RE2 syntax, linear time) must match the whole
    /// path: `/v[0-9]+` does not match `/v1/ws`, but `/v[0-9]+/.*` does. It never matches a path longer than 4,096 bytes.
    #[serde(rename = "type", default = "default_path_match_type")]
    pub type_: Chosen<PathMatchType>,

    /// The path, starting with `/`, or the regular expression; at most 1,024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// A condition on a header field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(format!(
        "has(self.type) && self.type == 'RegularExpression' || !self.value.matches('{}')",
        patterns::NOT_IN_HEADER_VALUE
    ))
        .message("must contain only visible ASCII characters and spaces between them; a RegularExpression may match \
                  other values")
        .field_path(".value"),
)]
pub struct HeaderMatch {
    /// Name of the field, case-insensitive, at most 63 characters.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(matches(patterns::TOKEN))
        .message("must be the name of a header field: letters, digits and -!#$%&*+.^_`|~"))]
    pub name: String,

    /// `Exact` (default): the value is equal, case-sensitive. `RegularExpression` (RE2 syntax, linear time): the expression
    /// matches the whole value; it never matches one longer than 4,096 bytes.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<Chosen<TextMatchType>>,

    /// The value or the regular expression, at most 1,024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryParamMatch {
    /// Name of the parameter, decoded, case-sensitive, at most 63 characters.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// `Exact` (default): the value is equal, case-sensitive. `RegularExpression` (RE2 syntax, linear time): the expression
    /// matches the whole value; it never matches one longer than 4,096 bytes.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<Chosen<TextMatchType>>,

    /// The value, decoded, or the regular expression; at most 1,024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

fn default_path_match_type() -> Chosen<PathMatchType> {
    Chosen::Known(PathMatchType::default())
}
