//! The result of a client program: it runs named checks, and prints one line of JSON with those that passed and why
//! others failed.

use std::{collections::BTreeMap, fmt::Write, process::Command, time::Duration};

use serde::Deserialize;

use super::process::Process;

/// The result of a client program.
#[derive(Deserialize)]
pub(crate) struct Verdict {
    passed: Vec<String>,
    failed: BTreeMap<String, String>,
}

impl Verdict {
    /// Runs a program and reads its result.
    pub(crate) fn of(name: &str, command: &mut Command, deadline: Duration) -> Self {
        let program = Process::start(name, command);
        let verdict = program.line_after("{", deadline);
        serde_json::from_str(&format!("{{{verdict}")).expect("the programs print a verdict")
    }

    /// Asserts that every check passed, and that there were some.
    pub(crate) fn passes(self) {
        let Self { passed, failed } = self;
        let mut report = String::new();
        for (check, why) in &failed {
            writeln!(report, "\n{check}:\n{why}").expect("strings can be written");
        }
        assert!(failed.is_empty(), "{report}\nand these passed: {passed:#?}");
        assert!(!passed.is_empty(), "nothing was checked");
    }

    /// Asserts that every check failed, and that there were some.
    pub(crate) fn fails(self) {
        let Self { passed, failed } = self;
        assert!(passed.is_empty() && !failed.is_empty(), "these should have failed: {passed:#?}");
    }
}
