//! Structural validation: types, known fields, bounds.

use serde_json::Value;

use super::{Fault, Origin, child, entry};

/// The structural problems of an object.
pub(super) struct Findings {
    pub(super) faults: Vec<Fault>,
    /// Whether the structure is so wrong that an API server would not evaluate the rules.
    pub(super) is_shapeless: bool,
    origin: Origin,
}

impl Findings {
    pub(super) fn of(origin: Origin) -> Self {
        Self { faults: Vec::new(), is_shapeless: false, origin }
    }

    /// Checks a value, recursively.
    pub(super) fn walk(&mut self, value: &Value, schema: &Value, path: &str) {
        let Some(wanted) = schema["type"].as_str() else { return };
        if !is_of_type(value, wanted) {
            return self.shapeless(path, format!("must be {}, got {}", name_of(wanted), kind_of(value)));
        }
        match value {
            Value::Object(fields) => self.walk_object(fields, schema, path),
            Value::Array(entries) => self.walk_list(entries, schema, path),
            Value::String(text) => self.check_text(text, schema, path),
            Value::Number(number) => self.check_number(number, schema, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn walk_object(&mut self, fields: &serde_json::Map<String, Value>, schema: &Value, path: &str) {
        let known = &schema["properties"];
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.shapeless(&child(path, name), "is required".into());
            }
        }
        for (name, value) in fields {
            match known.get(name) {
                Some(schema) => self.walk(value, schema, &child(path, name)),
                None if self.origin == Origin::Manifest && known.is_object() => {
                    self.fault(&child(path, name), "unknown field".into());
                }
                None => {}
            }
        }
    }

    fn walk_list(&mut self, list: &[Value], schema: &Value, path: &str) {
        if let Some(least) = bound(schema, "minItems").filter(|least| list.len() < *least) {
            self.fault(path, format!("must have at least {}", entries(least)));
        }
        if let Some(most) = bound(schema, "maxItems").filter(|most| list.len() > *most) {
            self.shapeless(path, format!("must have at most {}", entries(most)));
        }
        let is_set = schema["x-kubernetes-list-type"] == "set";
        for (index, value) in list.iter().enumerate() {
            let path = entry(path, index);
            if is_set && list[..index].contains(value) {
                self.fault(&path, format!("duplicate of {value}"));
            }
            self.walk(value, &schema["items"], &path);
        }
    }

    fn check_text(&mut self, text: &str, schema: &Value, path: &str) {
        let length = text.chars().count();
        match bound(schema, "minLength").filter(|least| length < *least) {
            Some(1) => self.fault(path, "must not be empty".into()),
            Some(least) => self.fault(path, format!("must have at least {least} characters")),
            None => {}
        }
        if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
            self.shapeless(path, format!("must have at most {most} characters"));
        }
        let options = schema["enum"].as_array().filter(|_| self.origin == Origin::Manifest);
        if let Some(options) = options.filter(|options| !options.iter().any(|option| option == text)) {
            let options: Vec<_> = options.iter().filter_map(Value::as_str).collect();
            self.shapeless(path, format!("must be one of {}, got {text:?}", options.join(", ")));
        }
    }

    fn check_number(&mut self, number: &serde_json::Number, schema: &Value, path: &str) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        if let Some(least) = schema["minimum"].as_f64().filter(|least| value < *least) {
            self.fault(path, format!("must be at least {least}, got {number}"));
        }
        if let Some(most) = schema["maximum"].as_f64().filter(|most| value > *most) {
            self.fault(path, format!("must be at most {most}, got {number}"));
        }
    }

    fn fault(&mut self, path: &str, message: String) {
        self.faults.push(Fault { path: path.to_owned(), message });
    }

    fn shapeless(&mut self, path: &str, message: String) {
        self.is_shapeless = true;
        self.fault(path, message);
    }
}

fn bound(schema: &Value, keyword: &str) -> Option<usize> {
    schema[keyword].as_u64().and_then(|bound| usize::try_from(bound).ok())
}

fn is_of_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => true,
    }
}

fn name_of(wanted: &str) -> &str {
    match wanted {
        "object" => "an object",
        "array" => "a list",
        "string" => "a string",
        "boolean" => "true or false",
        "integer" => "a whole number",
        other => other,
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".into() } else { format!("{count} entries") }
}

/// Drops the nulls of known fields, none of which is nullable, as an API server does before validation.
pub(super) fn drop_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            let known = &schema["properties"];
            fields.retain(|name, value| !value.is_null() || known.get(name).is_none());
            for (name, value) in fields {
                drop_nulls(value, &known[name]);
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(|value| drop_nulls(value, &schema["items"])),
        _ => {}
    }
}

/// Adds absent fields that have a default.
pub(super) fn fill_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = schema.get("default").filter(|_| !fields.contains_key(name)) {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    fill_defaults(value, schema);
                }
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(|value| fill_defaults(value, &schema["items"])),
        _ => {}
    }
}
