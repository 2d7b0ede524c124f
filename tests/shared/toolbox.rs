//! Dependencies of the client programs that are not in the checkout: npm packages and a Python environment. Installed
//! on first use into `$SWITCHYARD_CACHE` (default `$XDG_CACHE_HOME/switchyard` or `~/.cache/switchyard`), in a folder
//! named after the hash of the lock files.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use aws_lc_rs::digest::{Context, SHA256};

use super::cache;

/// The folder of the client programs.
pub(crate) const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");

/// The installed packages.
pub(crate) struct Toolbox {
    node_modules: PathBuf,
    python: Option<PathBuf>,
}

impl Toolbox {
    /// The npm packages. `None` without Node, with a message on stderr, or a failure under `CI`.
    pub(crate) fn or_skip() -> Option<Self> {
        version("npm").and_then(|_| version("node")).map_or_else(
            |missing| skip(&missing),
            |version| Some(Self { node_modules: node_modules(&version), python: None }),
        )
    }

    /// The npm packages and the Python environment; otherwise as above.
    pub(crate) fn with_python_or_skip() -> Option<Self> {
        let tools = Self::or_skip()?;
        version("python3")
            .map_or_else(|missing| skip(&missing), |version| Some(Self { python: Some(python(&version)), ..tools }))
    }

    /// Node, with a program in `tests` to run.
    pub(crate) fn node(&self, program: &str) -> Command {
        let mut node = Command::new("node");
        node.arg(format!("{PROGRAMS}/{program}")).env("NODE_PATH", &self.node_modules);
        node
    }

    /// Python, with a program in `tests` to run.
    pub(crate) fn python(&self, program: &str) -> Command {
        let mut python = Command::new(self.python.as_ref().expect("the test asked for Python"));
        // Programs import each other: leave no cached bytecode in the checkout.
        python.env("PYTHONDONTWRITEBYTECODE", "1").arg(format!("{PROGRAMS}/{program}"));
        python
    }
}

fn skip<T>(missing: &str) -> Option<T> {
    assert!(env::var_os("CI").is_none(), "{missing}");
    tell(&format!("skipped: {missing}"));
    None
}

/// Prints a message even if the test passes, whose captured output is not shown.
fn tell(what: &str) {
    writeln!(io::stderr(), "{what}").ok();
}

/// The output of `tool --version`, or `None` if it is missing.
fn version(tool: &str) -> Result<String, String> {
    let output = Command::new(tool).arg("--version").output().map_err(|error| format!("no {tool}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{tool} --version failed: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn node_modules(version: &str) -> PathBuf {
    let locks = ["clients/node/package.json", "clients/node/package-lock.json"];
    let folder = installed("clients-node", version, &locks, |folder| {
        run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder));
    });
    folder.join("node_modules")
}

fn python(version: &str) -> PathBuf {
    let folder = installed("clients-python", version, &["clients/python/requirements.txt"], |folder| {
        run(Command::new("python3").args(["-m", "venv", "venv"]).current_dir(folder));
        let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--requirement", "requirements.txt"];
        run(Command::new(folder.join("venv/bin/python")).args(pip).current_dir(folder));
    });
    folder.join("venv/bin/python")
}

/// The folder with copies of the `locks` and the result of `install`; one run installs, others wait for it.
fn installed(kind: &str, version: &str, locks: &[&str], install: impl FnOnce(&Path)) -> PathBuf {
    let sources: Vec<_> = locks.iter().map(|lock| Path::new(PROGRAMS).join(lock)).collect();
    let mut hash = Context::new(&SHA256);
    hash.update(version.as_bytes());
    for source in &sources {
        hash.update(&fs::read(source).expect("the lock files are committed"));
    }
    let folder = cache::folder().join(kind).join(cache::key(hash));
    let complete = folder.join("complete");

    fs::create_dir_all(&folder).expect("the cache folder can be created");
    let lock = File::create(folder.join("lock")).expect("the cache folder can be written");
    lock.lock().expect("files can be locked");
    if !complete.exists() {
        tell(&format!("installing {kind} into {} (once)", folder.display()));
        for source in sources {
            fs::copy(&source, folder.join(source.file_name().expect("it is a file")))
                .expect("lock files can be copied");
        }
        install(&folder);
        File::create(complete).expect("the cache folder can be written");
    }
    folder
}

fn run(command: &mut Command) {
    let output: io::Result<_> = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}
