//! Kubernetes manifests without a cluster: from files to a view and problems.
//!
//! The reader returns the verdicts of an API server with strict validation, from the same CRD, with the file and line
//! of each problem.

mod builtin;
mod file;
mod kind;
mod metadata;
mod object;
mod owners;
mod position;
mod scalar;
mod syntax;
mod tree;
mod typed;
mod violation;
mod walk;
mod yaml;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use file::FileProblem;
pub use kind::ManifestKind;
pub use owners::{OwnersError, hostname_owners};
pub use scalar::ambiguity;
pub use yaml::whole_numbers;

use crate::{api::RouteObject, compile::ClusterView, table::ObjectName};
use file::{Contents, ObjectPlace, WrittenObject};
use object::Object;

/// API objects are at most a few MiB.
const MAX_FILE_SIZE: u64 = 64 << 20;

/// The content of a set of paths.
#[derive(Debug, Default)]
pub struct Manifests {
    view: ClusterView,
    problems: Arc<[FileProblem]>,
    files: BTreeMap<Arc<Path>, Arc<File>>,
    places: HashMap<(ManifestKind, ObjectName), WrittenObject>,
}

/// A file as it was read.
#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    contents: Contents,
}

impl Manifests {
    /// Reads all manifests in files and directories. Unchanged files are reused from `previous`.
    ///
    /// Never fails: what cannot be read is a problem, and the rest is still read.
    #[must_use]
    pub fn read(paths: &[PathBuf], previous: &Self) -> Self {
        let mut manifests = Self::default();
        let mut problems = Vec::new();
        for path in paths {
            let (files, unlisted) = tree::files(path);
            problems.extend(unlisted);
            for path in files {
                match read_file(&path, previous) {
                    Ok(file) => drop(manifests.files.insert(Arc::from(path), file)),
                    // Deleted since it was listed: another read follows.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => problems.push(tree::unreadable(&path, &error)),
                }
            }
        }
        manifests.assemble(problems, previous);
        manifests
    }

    /// The objects. Those unchanged since the previous read are the same `Arc`s.
    #[must_use]
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// The problems, ordered by file and line.
    #[must_use]
    pub fn problems(&self) -> &Arc<[FileProblem]> {
        &self.problems
    }

    /// The number of files read.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// The file and line of an object's field, or of its nearest parent that is written.
    #[must_use]
    pub fn locate(&self, kind: ManifestKind, name: &ObjectName, field: &str) -> Option<(PathBuf, usize)> {
        let ObjectPlace { path, .. } = self.place(kind, name)?;
        Some((path.to_path_buf(), self.place(kind, name)?.line(field)))
    }

    /// A problem with an object's field, with its location.
    #[must_use]
    pub fn problem(&self, kind: ManifestKind, name: &ObjectName, field: &str, message: &str) -> Option<FileProblem> {
        let place = self.place(kind, name)?;
        let field = position::join(&place.prefix, field);
        let line = place.positions.line(&field);
        Some(FileProblem { path: place.path.clone(), line, field, message: message.to_owned() })
    }

    /// Whether both contain the same objects.
    #[must_use]
    pub fn same_objects(&self, other: &Self) -> bool {
        let is_there = |(key, written): (_, &WrittenObject)| {
            other.places.get(key).is_some_and(|there| there.object.is(&written.object))
        };
        self.places.len() == other.places.len() && self.places.iter().all(is_there)
    }

    /// A route, readable or not.
    #[must_use]
    pub fn route(&self, name: &ObjectName) -> Option<&Arc<RouteObject>> {
        match &self.places.get(&(ManifestKind::WebSocketRoute, name.clone()))?.object {
            Object::Route(route) => Some(route),
            _ => None,
        }
    }

    fn place(&self, kind: ManifestKind, name: &ObjectName) -> Option<&ObjectPlace> {
        // The key owns its name, so a borrowed one must be cloned: two counters.
        self.places.get(&(kind, name.clone())).map(|written| &written.place)
    }

    fn assemble(&mut self, mut problems: Vec<FileProblem>, previous: &Self) {
        let files: Vec<_> = self.files.values().cloned().collect();
        for file in files {
            problems.extend(file.contents.problems.iter().cloned());
            for written in &file.contents.objects {
                problems.extend(self.add(written.clone(), previous));
            }
        }
        problems.sort();
        problems.dedup();
        self.problems = problems.into();
        self.view = view(&self.places);
    }

    /// The first object with a name counts; further ones are problems.
    fn add(&mut self, mut written: WrittenObject, previous: &Self) -> Option<FileProblem> {
        let key = (written.kind, written.name.clone());
        if let Some(first) = self.places.get(&key) {
            let ObjectPlace { path, .. } = &written.place;
            let (there, line) = (first.place.path.display(), first.place.line(""));
            let message = format!("duplicate of {} {} at {there}:{line}", written.kind, written.name);
            let field = position::join(&written.place.prefix, "metadata.name");
            let line = written.place.positions.line(&field);
            return Some(FileProblem { path: path.clone(), line, field, message });
        }
        if let Some(before) = previous.places.get(&key).filter(|before| before.object.equals(&written.object)) {
            written.object = before.object.clone();
        }
        self.places.insert(key, written);
        None
    }
}

fn read_file(path: &Path, previous: &Manifests) -> io::Result<Arc<File>> {
    if fs::metadata(path)?.len() > MAX_FILE_SIZE {
        return Err(io::Error::other(format!("must be at most {MAX_FILE_SIZE} bytes long")));
    }
    let bytes = fs::read(path)?;
    match previous.files.get(path) {
        Some(file) if file.bytes == bytes => Ok(file.clone()),
        _ => {
            let contents = file::read(&Arc::from(path), &bytes);
            Ok(Arc::new(File { bytes, contents }))
        }
    }
}

fn view(places: &HashMap<(ManifestKind, ObjectName), WrittenObject>) -> ClusterView {
    let mut sorted: Vec<_> = places.values().collect();
    sorted.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    let mut view = ClusterView::default();
    for WrittenObject { name, object, .. } in sorted {
        match object {
            Object::Route(route) => view.routes.push(route.clone()),
            Object::Service(service) => drop(view.services.insert(name.clone(), service.clone())),
            Object::Secret(secret) => drop(view.secrets.insert(name.clone(), secret.clone())),
            Object::Slice(slice) => {
                if let Some(service) = slice.service() {
                    view.slices.entry(service).or_default().push(slice.clone());
                }
            }
        }
    }
    view
}
