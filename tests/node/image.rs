//! The content of the image, from its archive.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::tempdir;

/// The maximum unpacked size of all layers.
const LIMIT: u64 = 25_000_000;

/// Checks the archive, and reports its content.
pub(crate) fn examined() -> Vec<String> {
    let images = env::var("SWITCHYARD_NODE_IMAGES").expect("run.sh gives the folder");
    let folder = tempdir().unwrap();
    unpack(&Path::new(&images).join("switchyard.tar"), folder.path());
    let manifest = &json(&folder.path().join("manifest.json"))[0];
    let config =
        &json(&folder.path().join(manifest["Config"].as_str().expect("a manifest names its config")))["config"];
    let root = folder.path().join("root");
    for layer in manifest["Layers"].as_array().expect("a manifest has layers") {
        unpack(&folder.path().join(layer.as_str().expect("layers have names")), &root);
    }
    let (files, size) = contents(&root);
    assert!(size < LIMIT, "{size} bytes");
    holds_no_shell(&files);
    vec![
        format!("{:.1} MB: {}", megabytes(size), files.iter().cloned().collect::<Vec<_>>().join(" ")),
        runs_as(config),
        labelled(config),
    ]
}

fn holds_no_shell(files: &BTreeSet<String>) {
    let others: Vec<_> = files.iter().filter(|file| *file != "/switchyard" && !file.contains(".so.")).collect();
    assert!(others.is_empty(), "only the program and libraries: {others:?}");
}

fn runs_as(config: &Value) -> String {
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/switchyard"]));
    format!("user {}", config["User"])
}

fn labelled(config: &Value) -> String {
    let label = |name: &str| {
        let label = config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
        label.filter(|label| !label.is_empty()).unwrap_or_else(|| panic!("no label {name}")).to_owned()
    };
    assert_eq!(label("title"), "switchyard");
    assert_eq!(label("licenses"), "Apache-2.0");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"), "the Dockerfile's VERSION is that of Cargo.toml");
    for name in ["description", "source"] {
        label(name);
    }
    format!("version {}, revision {}", label("version"), label("revision"))
}

fn unpack(archive: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status().unwrap();
    assert!(done.success(), "{}", archive.display());
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// All files in a folder, and their total size.
fn contents(root: &Path) -> (BTreeSet<String>, u64) {
    let mut open = vec![root.to_owned()];
    let (mut files, mut size) = (BTreeSet::new(), 0);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.metadata().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
                continue;
            }
            size += kind.len();
            let path = entry.path();
            files.insert(format!("/{}", path.strip_prefix(root).expect("it is below").display()));
        }
    }
    (files, size)
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
