//! Golden renderings: `tests/golden/chart/NAME.values.yaml` becomes `NAME.yaml`.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use serde::Deserialize;
use serde_json::Value;
use switchyard::args::Arguments;

use crate::{
    golden,
    tools::{chart, helm, run},
};

/// The files with values, either the invalid ones or the others.
pub(crate) fn values(folder: &str) -> Vec<PathBuf> {
    let files = golden::files(folder).into_iter();
    let files: Vec<_> = files.filter(|file| file.to_str().unwrap().ends_with(".values.yaml")).collect();
    assert!(!files.is_empty());
    files
}

/// The golden rendering of a file with values.
pub(crate) fn rendering(values: &Path) -> PathBuf {
    let name = values.to_str().unwrap().strip_suffix(".values.yaml").unwrap();
    format!("{name}.yaml").into()
}

/// The namespace of the golden renderings.
const NAMESPACE: &str = "switchyard-system";

fn render(helm: &Path, namespace: &str, values: &Path) -> Result<String, String> {
    let chart = chart();
    let arguments = ["template", "switchyard", "--namespace", namespace, "--values"].map(OsStr::new);
    let rendered = run(helm, &[&arguments[..], &[values.as_os_str(), chart.as_os_str()]].concat())?;
    Ok(rendered.lines().map(masked).collect())
}

/// The text before the session key.
const KEY: &str = "  \"keys\": ";

/// Every rendering generates another session key: here it is always `<random>`, in base64.
fn masked(line: &str) -> String {
    match line.strip_prefix(KEY) {
        Some(_) => format!("{KEY}\"PHJhbmRvbT4=\"\n"),
        None => format!("{line}\n"),
    }
}

#[test]
fn values_render_to_the_golden_files() {
    let Some(helm) = helm() else { return };
    for values in values("chart") {
        let rendered =
            render(&helm, NAMESPACE, &values).unwrap_or_else(|error| panic!("{}: {error}", values.display()));
        golden::assert_same(&rendering(&values), &rendered);
    }
}

#[test]
fn a_namespace_that_looks_like_a_number_is_a_name_all_the_same() {
    let Some(helm) = helm() else { return };
    for values in values("chart") {
        let rendered = render(&helm, "2048", &values).unwrap_or_else(|error| panic!("{}: {error}", values.display()));
        let expected: Vec<_> = objects(&rendering(&values)).into_iter().map(|object| moved(object, "2048")).collect();
        assert_eq!(parsed(&rendered), expected, "{}", values.display());
    }
}

/// An object in another namespace; the namespace is always quoted.
fn moved(value: Value, namespace: &str) -> Value {
    match value {
        Value::String(text) => text.replace(NAMESPACE, namespace).into(),
        Value::Array(values) => values.into_iter().map(|value| moved(value, namespace)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, moved(value, namespace))).collect(),
        other => other,
    }
}

#[test]
fn no_golden_file_is_left_over() {
    for file in golden::files("chart").into_iter().filter(|file| file.is_file()) {
        let name = file.to_str().unwrap().strip_suffix(".yaml").unwrap();
        let values = if name.ends_with(".values") { file.clone() } else { format!("{name}.values.yaml").into() };
        assert!(values.exists(), "{} is made from nothing", file.display());
    }
}

#[test]
fn values_that_do_not_go_together_are_refused_with_the_reason() {
    let Some(helm) = helm() else { return };
    for values in values("chart/bad") {
        let expected = golden::expectation(&values);
        let error = render(&helm, NAMESPACE, &values).expect_err(values.to_str().unwrap());
        assert!(error.contains(&expected), "{}: {error}", values.display());
    }
}

#[test]
fn every_session_key_is_another_one() {
    let Some(helm) = helm() else { return };
    let chart = chart();
    let arguments = ["template", "switchyard", "--show-only", "templates/session-key.yaml"].map(OsStr::new);
    let key = || {
        let rendered = run(&helm, &[&arguments[..], &[chart.as_os_str()]].concat()).unwrap();
        rendered.lines().find(|line| line.starts_with(KEY)).unwrap().to_owned()
    };
    assert_ne!(key(), key());
}

#[test]
fn helm_lint_finds_nothing() {
    let Some(helm) = helm() else { return };
    let chart = chart();
    for values in values("chart") {
        let arguments = ["lint", "--strict", "--values"].map(OsStr::new);
        let said = run(&helm, &[&arguments[..], &[values.as_os_str(), chart.as_os_str()]].concat());
        let said = said.unwrap_or_else(|error| panic!("{}: {error}", values.display()));
        assert!(said.contains("0 chart(s) failed"), "{}: {said}", values.display());
    }
}

#[test]
fn the_program_takes_every_argument_that_the_chart_gives_it() {
    let mut containers = 0;
    for values in values("chart") {
        for object in objects(&rendering(&values)) {
            let pod = if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
            for container in pod["containers"].as_array().into_iter().flatten() {
                let arguments = container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
                let arguments = ["switchyard"].into_iter().chain(arguments);
                Arguments::try_parse_from(arguments).unwrap_or_else(|error| panic!("{}: {error}", values.display()));
                containers += 1;
            }
        }
    }
    assert!(containers > values("chart").len());
}

/// The objects in a file.
pub(crate) fn objects(file: &Path) -> Vec<Value> {
    parsed(&fs::read_to_string(file).unwrap())
}

fn parsed(text: &str) -> Vec<Value> {
    let objects = serde_yaml::Deserializer::from_str(text).map(|object| Value::deserialize(object).unwrap());
    objects.filter(|object| !object.is_null()).collect()
}
