//! Allowed dependencies: enforces the arrows of the architecture.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{golden, orphans::rust_files};

/// The allowed dependencies of a folder.
struct Layer {
    folder: &'static str,
    /// Modules of this crate, besides its own.
    modules: &'static [&'static str],
    /// Crates, out of those that belong to a layer.
    crates: &'static [&'static str],
}

/// Crates that belong to a layer; any code may use the others.
const LAYERED: &[&str] = &[
    "clap",
    "hyper",
    "hyper_util",
    "k8s_openapi",
    "kube",
    "notify",
    "prometheus_client",
    "rustls",
    "saphyr_parser",
    "serde_yaml",
    "socket2",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tracing_subscriber",
];

/// Access to the outside world, not allowed in pure code.
const IO: &[&str] = &["std::fs", "std::net::Tcp", "std::process", "SystemTime::now", "Instant::now"];

const LAYERS: &[Layer] = &[
    Layer { folder: "choices", modules: &[], crates: &[] },
    Layer { folder: "api", modules: &["choices"], crates: &["k8s_openapi", "kube"] },
    Layer { folder: "table", modules: &["choices"], crates: &["rustls"] },
    Layer { folder: "compile", modules: &["api", "choices", "table"], crates: &["k8s_openapi", "rustls"] },
    Layer {
        folder: "source",
        modules: &["api", "compile", "table"],
        crates: &["k8s_openapi", "kube", "notify", "saphyr_parser", "serde_yaml", "tokio"],
    },
    Layer {
        folder: "report",
        modules: &["api", "compile", "source", "table"],
        crates: &["k8s_openapi", "kube", "tokio"],
    },
    Layer { folder: "metrics", modules: &["table"], crates: &["prometheus_client", "tracing_subscriber"] },
    Layer {
        folder: "proxy",
        modules: &["metrics", "table"],
        crates: &["hyper", "hyper_util", "rustls", "socket2", "tokio", "tokio_rustls", "tokio_util"],
    },
    Layer {
        folder: "admin",
        modules: &["api", "compile", "metrics", "report", "source", "table"],
        crates: &["hyper", "hyper_util", "k8s_openapi", "tokio", "tokio_util"],
    },
];

/// The parts of the proxy; each may use only itself and those before it in this list.
const PROXY: &[&str] =
    &["fields", "bounds", "settings", "transport", "body", "tunnel", "shared", "request", "upstream", "http", "accept"];

/// The folders whose code must not read clocks, files or sockets.
const PURE: &[&str] = &["choices", "api", "table", "compile"];

#[test]
fn each_folder_names_only_what_the_architecture_lets_it_name() {
    for Layer { folder, modules, crates } in LAYERS {
        for file in rust_files_of(folder) {
            let named = names(&fs::read_to_string(&file).unwrap());
            for name in &named {
                let mut parts = name.split("::");
                let (root, next) = (parts.next().unwrap(), parts.next().unwrap_or_default());
                let is_own = next == *folder || modules.contains(&next);
                let is_module = golden::root().join("src").join(next).is_dir();
                assert!(root != "crate" || is_own || !is_module, "{} names crate::{next}", file.display());
                let is_layered = LAYERED.contains(&root);
                assert!(!is_layered || crates.contains(&root), "{} names {root}", file.display());
            }
        }
    }
}

#[test]
fn each_part_of_the_proxy_names_only_those_below_it() {
    let proxy = golden::root().join("src/proxy");
    for (floor, part) in PROXY.iter().enumerate() {
        let folder = proxy.join(part);
        let files = if folder.is_dir() { rust_files(&folder) } else { vec![proxy.join(part).with_extension("rs")] };
        for file in files {
            for name in names(&fs::read_to_string(&file).unwrap()) {
                let Some(named) = name.strip_prefix("crate::proxy::") else { continue };
                let named = named.split("::").next().unwrap();
                let is_below = PROXY[..=floor].contains(&named);
                assert!(is_below || !PROXY.contains(&named), "{} names crate::proxy::{named}", file.display());
            }
        }
    }
    let parts = fs::read_dir(&proxy).unwrap().map(|part| part.unwrap().path().with_extension(""));
    let unranked: Vec<_> = parts.filter(|part| !PROXY.iter().any(|known| part.ends_with(known))).collect();
    assert_eq!(unranked, [proxy.join("mod")]);
}

#[test]
fn pure_code_opens_no_door_to_the_outside() {
    for folder in PURE {
        for file in rust_files_of(folder) {
            for name in names(&code(&fs::read_to_string(&file).unwrap())) {
                // Tests may write files; the program may not.
                assert!(!IO.iter().any(|door| name.contains(door)), "{} names {name}", file.display());
            }
        }
    }
}

#[test]
fn nobody_names_what_wires_everything() {
    for file in rust_files(&golden::root().join("src")) {
        let is_wiring = ["app", "commands", "main.rs", "lib.rs", "args"]
            .iter()
            .any(|part| file.strip_prefix(golden::root().join("src")).unwrap().to_str().unwrap().starts_with(part));
        let named = names(&fs::read_to_string(&file).unwrap());
        let wiring = named.iter().find(|name| name.starts_with("crate::app") || name.starts_with("crate::commands"));
        assert!(is_wiring || wiring.is_none(), "{} names {wiring:?}", file.display());
    }
}

#[test]
fn names_are_found_in_nested_uses_and_in_paths() {
    let text = "use crate::{\n    api::Duration,\n    table::{self, Host},\n};\nuse std::{fmt, fs::File}; // kube::x\n\
                fn f() { tokio::spawn(crate::proxy::run()); }\n";
    let expected = [
        "crate::api::Duration",
        "crate::proxy::run",
        "crate::table::Host",
        "crate::table::self",
        "std::fmt",
        "std::fs::File",
        "tokio::spawn",
    ];
    assert_eq!(names(text).into_iter().collect::<Vec<_>>(), expected);
}

fn rust_files_of(folder: &str) -> Vec<std::path::PathBuf> {
    let folder = Path::new("src").join(folder);
    let folder = golden::root().join(folder);
    if folder.is_dir() { rust_files(&folder) } else { Vec::new() }
}

/// The text of a file before its tests.
fn code(text: &str) -> String {
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// All paths in a text, with the groups of its `use` declarations expanded.
fn names(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    let mut rest = String::new();
    for (index, part) in text.split("use ").enumerate() {
        match part.split_once(';') {
            Some((tree, after)) if index > 0 && tree.chars().all(|c| !"()=\"".contains(c)) => {
                expand("", tree, &mut names);
                rest.push_str(after);
            }
            _ => rest.push_str(part),
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = rest.split(|c: char| !is_part(c)).filter(|path| path.contains("::") && !path.starts_with(':'));
    names.extend(paths.map(|path| path.trim_end_matches(':').to_owned()).filter(|path| path.contains("::")));
    names
}

fn expand(prefix: &str, tree: &str, names: &mut BTreeSet<String>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        None if tree.is_empty() => {}
        None => drop(names.insert(format!("{prefix}{}", tree.split(" as ").next().unwrap_or_default().trim()))),
        Some((head, group)) => {
            let prefix = format!("{prefix}{}", head.trim());
            let group = group.trim_end().trim_end_matches('}');
            branches(group).for_each(|branch| expand(&prefix, branch, names));
        }
    }
}

/// The parts of a group between its top-level commas.
fn branches(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    group.split(move |c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}
