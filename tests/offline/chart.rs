//! The chart's values, its page and its dashboard, as far as no helm is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use serde_json::Value;

use crate::golden;

/// Where the table of values begins and ends in the chart's page.
const TABLE: [&str; 2] = ["<!-- values: written by `make bless` -->\n", "<!-- end of values -->\n"];

/// What charts that have this one as a part may set: no values of ours.
const OF_PARENTS: [&str; 2] = ["enabled", "global"];

fn read(path: &str) -> String {
    fs::read_to_string(golden::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn schema() -> Value {
    serde_json::from_str(&read("charts/switchyard/values.schema.json")).unwrap()
}

fn values() -> Value {
    serde_yaml::from_str(&read("charts/switchyard/values.yaml")).unwrap()
}

/// Calls back with the path and the schema of each value, by the alphabet: objects whose fields are known are no values
/// by themselves.
fn each_value<'a>(schema: &'a Value, path: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    for (name, field) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if field["properties"].is_object() {
            each_value(field, &path, visit);
        } else if !OF_PARENTS.contains(&path.as_str()) {
            visit(&path, field);
        }
    }
}

fn at<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    values.pointer(&format!("/{}", path.replace('.', "/")))
}

#[test]
fn every_value_has_a_schema_a_description_and_a_default() {
    let (schema, values) = (schema(), values());
    each_value(&schema, "", &mut |path, field| {
        assert!(field["description"].as_str().is_some_and(|text| text.len() > 5), "{path} has no description");
        assert!(at(&values, path).is_some(), "{path} is not in values.yaml");
    });
    // Helm refuses defaults that the schema does not know; here the message is better.
    known(&values, &schema, "");
}

/// Checks that a schema knows all values.
fn known(values: &Value, schema: &Value, path: &str) {
    let Some(fields) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "{path} takes anything");
    for (name, value) in values.as_object().unwrap() {
        let field = fields.get(name).unwrap_or_else(|| panic!("{path}.{name} is not in values.schema.json"));
        known(value, field, &format!("{path}.{name}"));
    }
}

#[test]
fn every_value_is_tried_by_a_golden_rendering() {
    let defaults = values();
    let files = golden::files("chart").into_iter().filter(|file| file.to_str().unwrap().ends_with(".values.yaml"));
    let tried: Vec<Value> =
        files.map(|file| serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap()).collect();
    each_value(&schema(), "", &mut |path, _| {
        let default = at(&defaults, path);
        let is_tried = tried.iter().any(|values| at(values, path).is_some_and(|value| Some(value) != default));
        assert!(is_tried, "no file in tests/golden/chart sets {path} to anything but its default");
    });
}

#[test]
fn the_charts_page_has_the_table_of_values() {
    let path = golden::root().join("charts/switchyard/README.md");
    let page = fs::read_to_string(&path).unwrap();
    let [begin, end] = TABLE;
    let (before, rest) = page.split_once(begin).expect("the page has a place for the table");
    let (_, after) = rest.split_once(end).expect("the table has an end");
    let mut table = "| value | default | what it is |\n|---|---|---|\n".to_owned();
    let (schema, defaults) = (schema(), values());
    each_value(&schema, "", &mut |path, field| {
        let (default, description) = (at(&defaults, path).unwrap(), description(&schema, path));
        writeln!(table, "| `{path}` | `{default}` | {description}{} |", choices(field)).unwrap();
    });
    golden::assert_same(&path, &format!("{before}{begin}{table}{end}{after}"));
}

/// What a value is, after what it is a part of.
fn description(schema: &Value, path: &str) -> String {
    let mut described = Vec::new();
    let mut field = schema;
    for name in path.split('.') {
        field = &field["properties"][name];
        described.push(field["description"].as_str().unwrap());
    }
    described[described.len().saturating_sub(2)..].join(". ")
}

/// The values that may be chosen, where they are few.
fn choices(field: &Value) -> String {
    let choices = field["enum"].as_array().map(|choices| choices.iter().filter_map(Value::as_str));
    let choices: Vec<_> = choices.into_iter().flatten().filter(|choice| !choice.is_empty()).collect();
    if choices.is_empty() { String::new() } else { format!(" (`{}`)", choices.join("`, `")) }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are_by_labels_that_they_have() {
    let known = metrics();
    let dashboard: Value = serde_json::from_str(&read("charts/switchyard/dashboards/switchyard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let queries = targets.map(|target| &target["expr"]).chain(variables.map(|variable| &variable["definition"]));
    let mut shown = BTreeSet::new();
    for query in queries.filter_map(Value::as_str) {
        for metric in named(query) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
            let name = known.get_key_value(metric).or_else(|| known.get_key_value(family?));
            let (name, labels) = name.unwrap_or_else(|| panic!("docs/metrics.md does not know {metric}"));
            for label in metric_labels(query) {
                assert!(labels.contains(label), "{name} has no label {label}: {query}");
            }
            shown.insert(name);
        }
    }
    assert!(shown.len() > 10, "{shown:?}");
}

#[test]
fn the_pages_for_operators_name_metrics_and_values_that_there_are() {
    let (known, schema) = (metrics(), schema());
    let mut values = BTreeSet::new();
    each_value(&schema, "", &mut |path, _| values.extend([path.to_owned()]));
    for page in ["docs/operations.md", "charts/switchyard/README.md"] {
        let text = read(page);
        for metric in named(&text) {
            assert!(known.contains_key(metric), "{page} names {metric}");
        }
        // What stands in backticks and begins with the name of a value; with a dot, since a word may be anything.
        let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains('.'));
        let paths = quoted.filter(|quoted| quoted.chars().all(|c| c.is_ascii_alphanumeric() || c == '.'));
        let is_value = |path: &&str| schema["properties"].get(path.split('.').next().unwrap()).is_some();
        for path in paths.filter(is_value) {
            let begins = |value: &String| path.starts_with(value.as_str()) || value.starts_with(path);
            assert!(values.iter().any(begins), "{page} names {path}");
        }
    }
}

#[test]
fn the_panels_of_the_dashboard_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read("charts/switchyard/dashboards/switchyard.json")).unwrap();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let position = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let cells = (position("x")..position("x") + position("w"))
            .flat_map(|x| (position("y")..position("y") + position("h")).map(move |y| (x, y)));
        for cell in cells {
            assert!(cell.0 < 24 && taken.insert(cell), "{} is on top of another", panel["title"]);
        }
    }
}

/// The names and labels of `docs/metrics.md`.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap().trim_end_matches('`').to_owned();
        (name, cells.nth(1).unwrap().split(", ").map(str::to_owned).collect())
    };
    rows.map(row).collect()
}

/// The metrics that a query names.
fn named(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("switchyard_"))
}

/// Labels that a query takes for the metric's own: Prometheus gives those that pods have too the prefix `exported_`.
fn metric_labels(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$'));
    let own = ["route", "result", "closer", "cause", "direction", "code", "version"];
    words.filter_map(move |word| word.strip_prefix("exported_").or_else(|| own.contains(&word).then_some(word)))
}
