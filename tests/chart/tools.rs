//! The tools: their paths, or why the tests are skipped.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{assets, golden};

/// Helm.
pub(crate) fn helm() -> Option<PathBuf> {
    found(assets::folder().join("helm"), "make control-plane")
}

/// kube-score, at the path in `KUBE_SCORE`.
pub(crate) fn kube_score() -> Option<PathBuf> {
    found(env::var_os("KUBE_SCORE").unwrap_or_default().into(), "make test-chart")
}

fn found(program: PathBuf, remedy: &str) -> Option<PathBuf> {
    if program.is_file() {
        return Some(program);
    }
    let reason = format!("no program {:?}: run `{remedy}`", program.display().to_string());
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
    eprintln!("skipped: {reason}");
    None
}

/// The chart's folder.
pub(crate) fn chart() -> PathBuf {
    golden::root().join("charts/switchyard")
}

/// Runs a program to completion.
///
/// # Errors
/// Its output if it fails.
pub(crate) fn run(program: &Path, arguments: &[&OsStr]) -> Result<String, String> {
    // Ignores the user's helm configuration.
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(program).args(arguments).env("HOME", home.path()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}
