//! The manifest files in a directory.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::file::FileProblem;

/// Deeper than in practice, and far from any limit of the system.
const MAX_DEPTH: usize = 32;

/// The files below a path, sorted by name, and what could not be listed. If the path is a file, it is the only one,
/// regardless of its name.
pub(super) fn files(root: &Path) -> (Vec<PathBuf>, Vec<FileProblem>) {
    let mut walk = TreeWalk::default();
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => walk.directory(root, &metadata, 0),
        Ok(_) => walk.files.push(root.to_owned()),
        Err(error) => walk.problem(root, &error),
    }
    (walk.files, walk.problems)
}

#[derive(Default)]
struct TreeWalk {
    files: Vec<PathBuf>,
    problems: Vec<FileProblem>,
    /// The devices and inodes of the folders so far: links may lead to the same one again, even from within.
    visited: HashSet<(u64, u64)>,
}

impl TreeWalk {
    fn directory(&mut self, path: &Path, metadata: &fs::Metadata, depth: usize) {
        if !self.visited.insert((metadata.dev(), metadata.ino())) {
            return self.problem(path, &io::Error::other("already read through another path"));
        }
        if depth > MAX_DEPTH {
            return self.problem(path, &io::Error::other("directories are nested too deep"));
        }
        let listed = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>());
        match listed {
            Ok(mut paths) => {
                paths.sort();
                paths.into_iter().filter(|path| !is_hidden(path)).for_each(|path| self.entry(path, depth));
            }
            Err(error) => self.problem(path, &error),
        }
    }

    /// Links are followed: a mounted ConfigMap consists of links into a hidden directory, which is swapped as a whole.
    fn entry(&mut self, path: PathBuf, depth: usize) {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => self.directory(&path, &metadata, depth + 1),
            // Reading a pipe would block.
            Ok(metadata) => self.files.extend((metadata.is_file() && is_manifest(&path)).then_some(path)),
            Err(error) => {
                // Deleted since it was listed: nothing to report. A dangling link remains, and is reported.
                if is_manifest(&path) && fs::symlink_metadata(&path).is_ok() {
                    self.problem(&path, &error);
                }
            }
        }
    }

    fn problem(&mut self, path: &Path, error: &io::Error) {
        self.problems.push(unreadable(path, error));
    }
}

/// The problem of a path that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> FileProblem {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        _ => error.to_string(),
    };
    FileProblem { path: Arc::from(path), line: 0, field: String::new(), message }
}

/// Hidden files: editors' temporary files, and the directories behind a mounted ConfigMap.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Not `chat.yaml~`, `#chat.yaml#` or `4913`.
fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}
