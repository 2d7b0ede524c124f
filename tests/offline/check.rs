//! `switchyard check` as a function: its output and exit code.

use std::{path::PathBuf, process::ExitCode};

use switchyard::commands::check;

use crate::golden;

/// The output and the exit code, with a compiler that finds no problems.
fn run(paths: &[PathBuf]) -> (String, String) {
    let mut output = Vec::new();
    let code = check::run(paths, |_| Vec::new(), &mut output).unwrap();
    (String::from_utf8(output).unwrap(), format!("{code:?}"))
}

#[test]
fn nothing_is_said_of_good_manifests() {
    let (output, code) = run(&[golden::root().join("tests/golden/objects/good/smallest.yaml")]);
    assert_eq!((&*output, code), ("", format!("{:?}", ExitCode::SUCCESS)));
}

#[test]
fn each_problem_is_a_line_with_its_place_and_the_check_fails() {
    let path = golden::root().join("tests/golden/objects/bad/two-faults.yaml");
    let (output, code) = run(std::slice::from_ref(&path));
    let expected = [
        format!("{}:9: spec.rules[0].name: must be a DNS label: lower-case letters, digits and -", path.display()),
        format!("{}:15: spec.rules[1].backendRefs[0].port: must be at most 65535, got 70000", path.display()),
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    assert_eq!(code, format!("{:?}", ExitCode::FAILURE));
}

#[test]
fn a_path_that_is_not_there_fails_the_check() {
    let (output, code) = run(&["does/not/exist".into()]);
    assert_eq!(output, "does/not/exist: no such file or directory\n");
    assert_eq!(code, format!("{:?}", ExitCode::FAILURE));
}
