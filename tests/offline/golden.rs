//! Golden files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use switchyard::source::manifest::{FileProblem, Manifests};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder below `tests/golden`, sorted.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("tests/golden").join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// The expectation in the first line of a file: `# expect: …`.
pub(crate) fn expectation(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let expectation = text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
    expectation.unwrap_or_else(|| panic!("{} has no expectation", path.display())).to_owned()
}

/// Reads one file alone.
pub(crate) fn read(path: &Path) -> Manifests {
    Manifests::read(&[path.to_owned()], &Manifests::default())
}

/// Problems as text, without the path of the file.
pub(crate) fn without_path(problems: &[FileProblem]) -> Vec<String> {
    let without = |problem: &FileProblem| {
        let path = problem.path.display().to_string();
        problem.to_string().replace(&path, "").trim_start_matches(':').trim_start().to_owned()
    };
    problems.iter().map(without).collect()
}

/// Compares a generated text with a file; with `BLESS=1` it writes the file instead.
pub(crate) fn assert_same(path: &Path, generated: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, generated).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(written == generated, "{} is out of date: run the test with BLESS=1 and look at the diff", path.display());
}
