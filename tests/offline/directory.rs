//! The watched directory.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use switchyard::{
    source::{Changes, DirectorySource, Source},
    table::ObjectName,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than any machine needs; only a failing test waits for all of it.
const LONG: Duration = Duration::from_secs(20);

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: None\n  ports:\n  - port: {port}\n"
    )
}

/// A watched directory.
struct Watched {
    folder: TempDir,
    root: PathBuf,
    changes: Changes,
    source: DirectorySource,
}

impl Watched {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("manifests");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let changes = Changes::default();
        let source = DirectorySource::open(&root, changes.clone()).unwrap();
        assert!(changes.take().is_some(), "the first read is a change");
        Self { folder, root, changes, source }
    }

    /// Waits until a read yields the expected result.
    async fn until(&self, what: impl Fn(&DirectorySource) -> bool) {
        let mut revision = self.source.revision();
        let waited = timeout(LONG, revision.wait_for(|_| what(&self.source))).await;
        waited.unwrap_or_else(|_| panic!("still: {:?}", self.source.manifests())).unwrap();
    }

    fn ports(&self) -> Vec<(String, i32)> {
        ports(&self.source)
    }

    fn problems(&self) -> Vec<String> {
        let root = format!("{}/", self.root.display());
        self.source.problems().iter().map(|problem| problem.to_string().replace(&root, "")).collect()
    }
}

/// Each Service with its first port.
fn ports(source: &DirectorySource) -> Vec<(String, i32)> {
    let view = source.view();
    let port = |(name, service): (&ObjectName, &Arc<switchyard::compile::ServiceObject>)| {
        (name.name.to_string(), service.spec.ports[0].port)
    };
    let mut ports: Vec<_> = view.services.iter().map(port).collect();
    ports.sort();
    ports
}

fn has(ports: &[(&str, i32)]) -> impl Fn(&DirectorySource) -> bool {
    let expected: Vec<_> = ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
    move |source| self::ports(source) == expected
}

#[tokio::test]
async fn a_file_saved_by_renaming_another_one_over_it_is_read_again() {
    let watched = Watched::new(|root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    assert_eq!(watched.ports(), [("a".to_owned(), 1)]);
    fs::write(watched.root.join(".a.yaml.swp"), service("a", 2)).unwrap();
    fs::rename(watched.root.join(".a.yaml.swp"), watched.root.join("a.yaml")).unwrap();
    watched.until(has(&[("a", 2)])).await;
    assert!(watched.changes.take().is_some());
}

#[tokio::test]
async fn a_file_saved_in_place_is_read_again() {
    let watched = Watched::new(|root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    fs::write(watched.root.join("a.yaml"), service("a", 2)).unwrap();
    watched.until(has(&[("a", 2)])).await;
}

#[tokio::test]
async fn several_documents_and_new_subfolders_are_read() {
    let watched = Watched::new(|_| {});
    fs::create_dir_all(watched.root.join("below/deeper")).unwrap();
    let text = format!("{}---\n{}", service("a", 1), service("b", 2));
    fs::write(watched.root.join("below/deeper/both.yaml"), text).unwrap();
    watched.until(has(&[("a", 1), ("b", 2)])).await;
    fs::write(watched.root.join("below/deeper/c.yml"), service("c", 3)).unwrap();
    watched.until(has(&[("a", 1), ("b", 2), ("c", 3)])).await;
}

#[tokio::test]
async fn a_mounted_config_map_is_read_once_and_follows_its_swap() {
    let watched = Watched::new(|root| {
        generation(root, "..2026_01", &service("a", 1));
        symlink("..2026_01", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    });
    assert_eq!((watched.ports(), watched.problems()), (vec![("a".to_owned(), 1)], vec![]));
    generation(&watched.root, "..2026_02", &service("a", 2));
    symlink("..2026_02", watched.root.join("..data_tmp")).unwrap();
    fs::rename(watched.root.join("..data_tmp"), watched.root.join("..data")).unwrap();
    fs::remove_dir_all(watched.root.join("..2026_01")).unwrap();
    watched.until(has(&[("a", 2)])).await;
    assert_eq!(watched.problems(), [""; 0]);
}

fn generation(root: &Path, name: &str, text: &str) {
    fs::create_dir(root.join(name)).unwrap();
    fs::write(root.join(name).join("a.yaml"), text).unwrap();
}

#[tokio::test]
async fn a_broken_file_is_told_of_until_it_is_mended_and_the_rest_stays() {
    let watched = Watched::new(|root| {
        fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
        fs::write(root.join("b.yaml"), service("b", 2)).unwrap();
    });
    fs::write(watched.root.join("b.yaml"), service("b", 2).replace("port: 2", "port: two")).unwrap();
    watched.until(|source| !source.problems().is_empty()).await;
    assert_eq!(watched.ports(), [("a".to_owned(), 1)]);
    assert!(watched.problems()[0].starts_with("b.yaml:8: spec.ports[0].port: "), "{:?}", watched.problems());
    fs::write(watched.root.join("b.yaml"), service("b", 3)).unwrap();
    watched.until(has(&[("a", 1), ("b", 3)])).await;
    assert_eq!(watched.problems(), [""; 0]);
}

#[tokio::test]
async fn what_a_deleted_file_held_is_gone() {
    let watched = Watched::new(|root| {
        fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
        fs::write(root.join("b.yaml"), service("b", 2)).unwrap();
    });
    fs::remove_file(watched.root.join("a.yaml")).unwrap();
    watched.until(has(&[("b", 2)])).await;
}

#[tokio::test]
async fn a_directory_may_go_and_come_back() {
    let watched = Watched::new(|root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    fs::remove_dir_all(&watched.root).unwrap();
    watched.until(|source| source.view().services.is_empty() && !source.problems().is_empty()).await;
    fs::create_dir(&watched.root).unwrap();
    fs::write(watched.root.join("a.yaml"), service("a", 2)).unwrap();
    watched.until(has(&[("a", 2)])).await;
    fs::write(watched.root.join("a.yaml"), service("a", 3)).unwrap();
    watched.until(has(&[("a", 3)])).await;
}

#[tokio::test]
async fn a_directory_may_be_replaced_by_another_one() {
    let watched = Watched::new(|root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    let next = watched.folder.path().join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("a.yaml"), service("a", 2)).unwrap();
    fs::rename(&watched.root, watched.folder.path().join("before")).unwrap();
    fs::rename(&next, &watched.root).unwrap();
    watched.until(has(&[("a", 2)])).await;
    fs::write(watched.root.join("a.yaml"), service("a", 3)).unwrap();
    watched.until(has(&[("a", 3)])).await;
}

#[tokio::test]
async fn objects_that_stay_the_same_are_the_same_in_memory_and_no_change() {
    let watched = Watched::new(|root| {
        fs::write(root.join("both.yaml"), format!("{}---\n{}", service("a", 1), service("b", 2))).unwrap();
    });
    let before = watched.source.view();
    let text = format!("# A comment.\n{}---\n{}", service("a", 1), service("b", 2));
    fs::write(watched.root.join("both.yaml"), text).unwrap();
    fs::write(watched.root.join("other.yaml"), service("c", 3)).unwrap();
    watched.until(has(&[("a", 1), ("b", 2), ("c", 3)])).await;
    let after = watched.source.view();
    for (name, service) in &before.services {
        assert!(Arc::ptr_eq(service, &after.services[name]), "{name}");
    }
    // Only a file without objects has changed since, and the file that marks the next read.
    assert!(watched.changes.take().is_some());
    fs::write(watched.root.join("broken.yaml"), "kind: [").unwrap();
    watched.until(|source| !source.problems().is_empty()).await;
    assert!(watched.changes.take().is_none());
}

#[tokio::test]
async fn a_directory_that_cannot_be_watched_is_polled() {
    let folder = tempfile::tempdir().unwrap();
    let source = DirectorySource::open_polling(folder.path(), Duration::from_millis(5), Changes::default()).unwrap();
    fs::write(folder.path().join("a.yaml"), service("a", 1)).unwrap();
    let mut revision = source.revision();
    timeout(LONG, revision.wait_for(|_| ports(&source) == [("a".to_owned(), 1)])).await.unwrap().unwrap();
}

#[test]
fn a_directory_that_is_not_there_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = DirectorySource::open(&missing, Changes::default()).unwrap_err();
    assert!(error.to_string().contains("missing: No such file"), "{error}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DirectorySource::open(&file, Changes::default()).unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
}
