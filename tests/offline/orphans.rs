//! Finds files that no `mod` declares, which would otherwise rot unnoticed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::golden;

/// The Rust files in a folder.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files.sort();
    files
}

#[test]
fn every_file_is_declared_by_the_module_above_it() {
    let files = [rust_files(&golden::root().join("src")), rust_files(&golden::root().join("tests"))].concat();
    assert!(files.len() > 20);
    for file in files {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        if matches!(stem, "main" | "lib") {
            continue;
        }
        // `a/mod.rs` and `a.rs` are the module a, declared in the parent folder.
        let module = if stem == "mod" { file.parent().unwrap() } else { &file };
        let folder = module.parent().unwrap();
        let name = module.file_stem().unwrap().to_str().unwrap();
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| folder.join(parent));
        let sibling = folder.with_extension("rs");
        // Files shared by several test binaries are declared by each, by path.
        if folder.ends_with("tests") && module.join("mod.rs") == file {
            continue;
        }
        let declares = |parent: &PathBuf| {
            let text = fs::read_to_string(parent).unwrap_or_default();
            text.lines().any(|line| line.trim_end().ends_with(&format!("mod {name};")))
        };
        assert!(parents.iter().chain([&sibling]).any(declares), "no module declares {}", file.display());
    }
}
