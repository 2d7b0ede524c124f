//! The programs of the control plane: their paths, or why the tests are skipped.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::shared::cache;

/// The sources of the cache folder's key, as in `tests/control-plane/build.sh`.
const SOURCES: [&str; 8] = [
    "build.sh",
    "etcd/go.mod",
    "helm/go.mod",
    "kube/go.mod",
    "etcd/go.sum",
    "helm/go.sum",
    "kube/go.sum",
    "etcd/main.go",
];

/// The folder with kube-apiserver, kube-controller-manager, etcd, kubectl and helm.
#[derive(Clone, Debug)]
pub struct Assets(PathBuf);

impl Assets {
    /// Finds them. Builds nothing.
    ///
    /// # Errors
    /// What is missing and how to install it.
    pub fn find() -> Result<Self, String> {
        if env::var_os("SWITCHYARD_TEST_NAMESPACE").is_none() {
            return Err("not in a network namespace: run `make test-cluster`".to_owned());
        }
        let folder = folder();
        let missing = ["kube-apiserver", "etcd", "kubectl"].into_iter().find(|name| !folder.join(name).exists());
        match missing {
            Some(name) => Err(format!("no {name} in {}: run `make control-plane` first", folder.display())),
            None => Ok(Self(folder)),
        }
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The folder of the programs, if they have been built.
pub fn folder() -> PathBuf {
    match env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => cache::folder().join("control-plane").join(key()),
    }
}

fn key() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control-plane");
    let mut hash = Context::new(&SHA256);
    for source in SOURCES {
        hash.update(&fs::read(here.join(source)).unwrap_or_default());
    }
    cache::key(hash)
}
