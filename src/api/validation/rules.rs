//! The CRD's CEL rules in Rust. Each is found by its message in the CRD.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{super::patterns, Fault, child, entry};

/// Whether a value satisfies a rule. A value of the wrong type satisfies it: that is reported separately.
type Holds = fn(&Value) -> bool;

/// Each rule with the beginning of its message.
const RULES: &[(&str, Holds)] = &[
    ("must be a DNS label", |value| text(value).is_none_or(|text| matches(&DNS_LABEL, text))),
    ("must be the name of a Service", |value| text(value).is_none_or(|text| matches(&DNS_LABEL, text))),
    ("must be the name of a Secret", |value| text(value).is_none_or(|text| matches(&SECRET_NAME, text))),
    ("must be a lower-case host name", |value| text(value).is_none_or(|text| matches(&HOSTNAME, text))),
    ("must be a host name, not an IP address", |value| text(value).is_none_or(|text| !matches(&ADDRESS, text))),
    ("must be a duration", |value| text(value).is_none_or(|text| matches(&DURATION, text))),
    ("must begin with / and contain only visible ASCII characters except ? and #", |path| {
        is_expression(path) || value(path).is_none_or(|text| matches(&PATH, text) && !text.contains(['?', '#']))
    }),
    ("must not contain dot segments", |path| is_expression(path) || value(path).is_none_or(is_possible)),
    ("must be the name of a header field", |value| text(value).is_none_or(|text| matches(&TOKEN, text))),
    ("must be the name of a WebSocket subprotocol", |value| text(value).is_none_or(|text| matches(&TOKEN, text))),
    ("must be a network", |value| text(value).is_none_or(|text| matches(&NETWORK, text))),
    ("must contain only visible ASCII characters and spaces", |header| {
        is_expression(header) || value(header).is_none_or(|text| !matches(&NOT_IN_HEADER_VALUE, text))
    }),
    ("must be a cookie name", |value| text(value).is_none_or(|text| matches(&TOKEN, text))),
    ("must begin with / and contain only visible ASCII characters except ;", |value| {
        text(value).is_none_or(|text| matches(&COOKIE_PATH, text))
    }),
    ("sameSite None needs a secure cookie", |cookie| cookie["sameSite"] != "None" || cookie["secure"] != "Never"),
    ("a partitioned cookie must be secure", |cookie| cookie["partitioned"] != true || cookie["secure"] != "Never"),
    ("a Permanent cookie needs absoluteTimeout", |persistence| {
        let limit = persistence["absoluteTimeout"].as_str().unwrap_or_default();
        persistence["cookie"]["lifetimeType"] != "Permanent" || limit.contains(|char| matches!(char, '1'..='9'))
    }),
    ("a path with %2F or %5C needs escapedSlashes", |rule| {
        rule["escapedSlashes"] == "Keep" || !paths(rule).any(|path| matches(&ESCAPED_SLASH, path))
    }),
    ("rule names must be unique within a route", |rules| {
        let names: Vec<_> = list(rules).filter_map(|rule| rule["name"].as_str()).collect();
        names.iter().enumerate().all(|(index, name)| !names[..index].contains(name))
    }),
];

/// Checks the rules of a value, recursively.
pub(super) fn walk(value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = rule["message"].as_str().unwrap_or_default();
        if !holds(message)(value) {
            // Where a rule needs two fields, `fieldPath` is the one to blame.
            let path = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
            faults.push(Fault { path, message: message.to_owned() });
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(value, &schema["properties"][name], &child(path, name), faults);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                walk(value, &schema["items"], &entry(path, index), faults);
            }
        }
        _ => {}
    }
}

fn holds(message: &str) -> Holds {
    let rule = RULES.iter().find(|(start, _)| message.starts_with(start));
    rule.expect("a test checks that every rule of the CRD is listed").1
}

macro_rules! regexes {
    ($($name:ident = $pattern:expr;)+) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("compiled by a test"));)+
    };
}

regexes! {
    DNS_LABEL = patterns::DNS_LABEL;
    SECRET_NAME = patterns::SECRET_NAME;
    HOSTNAME = patterns::HOSTNAME;
    ADDRESS = patterns::ADDRESS;
    DURATION = patterns::DURATION;
    PATH = patterns::PATH;
    NUL = patterns::NUL;
    DOT_SEGMENT = patterns::DOT_SEGMENT;
    ESCAPED_SLASH = patterns::ESCAPED_SLASH;
    TOKEN = patterns::TOKEN;
    NETWORK = patterns::NETWORK;
    NOT_IN_HEADER_VALUE = patterns::NOT_IN_HEADER_VALUE;
    COOKIE_PATH = patterns::COOKIE_PATH;
}

fn matches(regex: &LazyLock<Regex>, text: &str) -> bool {
    regex.is_match(text)
}

fn is_possible(path: &str) -> bool {
    !matches(&NUL, path) && !path.contains('\\') && !matches(&DOT_SEGMENT, path)
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

/// The value that a match on a path or a header compares.
fn value(condition: &Value) -> Option<&str> {
    text(&condition["value"])
}

fn is_expression(condition: &Value) -> bool {
    condition["type"] == "RegularExpression"
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn paths(rule: &Value) -> impl Iterator<Item = &str> {
    list(&rule["matches"]).filter_map(|one| one["path"]["value"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(schema: &Value, found: &mut Vec<String>) {
        let rules = list(&schema["x-kubernetes-validations"]);
        found.extend(rules.filter_map(|rule| rule["message"].as_str()).map(str::to_owned));
        for schema in schema["properties"].as_object().into_iter().flat_map(|fields| fields.values()) {
            messages(schema, found);
        }
        if schema["items"].is_object() {
            messages(&schema["items"], found);
        }
    }

    #[test]
    fn each_rule_of_the_crd_is_here_once_and_no_other() {
        let mut found = Vec::new();
        messages(&super::super::SCHEMA, &mut found);
        for message in &found {
            assert_eq!(RULES.iter().filter(|(start, _)| message.starts_with(start)).count(), 1, "{message}");
        }
        for (start, _) in RULES {
            assert!(found.iter().any(|message| message.starts_with(start)), "{start}");
        }
    }
}
