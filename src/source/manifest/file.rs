//! One file: its documents, their objects, and the problems.

use std::{collections::HashSet, fmt, mem, path::Path, sync::Arc};

use serde_json::Value;

use super::{
    kind::{self, ManifestKind, Meaning},
    metadata,
    object::{self, Object},
    position::{Positions, entry, is_within, join},
    syntax::{Syntax, SyntaxFault},
    violation::Violation,
    yaml::{self, Document},
};
use crate::table::ObjectName;

/// A problem with a file; printed as `file:line: field: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileProblem {
    /// The file, or the path that could not be read.
    pub path: Arc<Path>,
    /// The line, counted from 1; 0 if the problem has no line.
    pub line: usize,
    /// The field, such as `spec.rules[0].backendRefs[1].port`; may be empty.
    pub field: String,
    /// What is wrong and how to fix it.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Where an object is in its file.
#[derive(Clone, Debug)]
pub(super) struct ObjectPlace {
    pub(super) path: Arc<Path>,
    /// Its path in the document: `items[3]`, or empty.
    pub(super) prefix: Arc<str>,
    pub(super) positions: Arc<Positions>,
}

impl ObjectPlace {
    pub(super) fn line(&self, field: &str) -> usize {
        self.positions.line(&join(&self.prefix, field))
    }
}

/// An object and its location.
#[derive(Clone, Debug)]
pub(super) struct WrittenObject {
    pub(super) kind: ManifestKind,
    pub(super) name: ObjectName,
    pub(super) object: Object,
    pub(super) place: ObjectPlace,
}

/// The content of a file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) objects: Vec<WrittenObject>,
    pub(super) problems: Vec<FileProblem>,
}

/// Reads a file.
pub(super) fn read(path: &Arc<Path>, bytes: &[u8]) -> Contents {
    let mut reader = Reader { path, contents: Contents { objects: Vec::new(), problems: Vec::new() } };
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let syntax = if is_json { Syntax::Json } else { Syntax::Yaml };
    match std::str::from_utf8(bytes) {
        Ok(text) => yaml::documents(text, syntax).into_iter().for_each(|document| reader.document(document)),
        Err(error) => {
            let line = 1 + String::from_utf8_lossy(&bytes[..error.valid_up_to()]).matches('\n').count();
            reader.fault(SyntaxFault { line, field: String::new(), message: "must be UTF-8 text".into() });
        }
    }
    let mut contents = reader.contents;
    contents.problems.sort();
    contents.problems.dedup();
    contents
}

struct Reader<'a> {
    path: &'a Arc<Path>,
    contents: Contents,
}

/// A document that is being processed.
struct Parts {
    positions: Arc<Positions>,
    faults: Vec<SyntaxFault>,
}

impl Reader<'_> {
    fn document(&mut self, document: Result<Document, Vec<SyntaxFault>>) {
        let mut document = match document {
            Ok(document) => document,
            Err(faults) => return faults.into_iter().for_each(|fault| self.fault(fault)),
        };
        let value = document.take_value();
        let mut parts = Parts { positions: Arc::new(document.positions), faults: document.faults };
        if value.is_object() {
            self.value(value, "", None, &mut parts);
        } else if !value.is_null() {
            let line = parts.positions.line("");
            self.fault(SyntaxFault { line, field: String::new(), message: "must be a Kubernetes object".into() });
        }
        parts.faults.into_iter().for_each(|fault| self.fault(fault));
    }

    fn value(&mut self, mut value: Value, prefix: &str, item_kind: Option<&'static str>, parts: &mut Parts) {
        if let (Some(kind), Some(fields)) = (item_kind, value.as_object_mut()) {
            fields.entry("kind").or_insert_with(|| kind.into());
        }
        match kind::meaning(&value) {
            Meaning::Read(kind) => self.object(kind, value, prefix, parts),
            Meaning::List(item_kind) => self.list(value, prefix, item_kind, parts),
            Meaning::PassedOver => {
                tracing::debug!(file = %self.path.display(), kind = %value["kind"], "ignored");
                // Its syntax is not our concern.
                parts.faults.retain(|fault| !is_within(&fault.field, prefix));
            }
            Meaning::Wrong(violation) => self.violation(&violation, prefix, &parts.positions),
        }
    }

    fn list(&mut self, mut value: Value, prefix: &str, item_kind: Option<&'static str>, parts: &mut Parts) {
        let version = value["apiVersion"].clone();
        let items = value.get_mut("items").map(mem::take).unwrap_or_default();
        let Value::Array(items) = items else {
            let violation = Violation { field: "items".into(), message: "must be a list of objects".into() };
            return self.violation(&violation, prefix, &parts.positions);
        };
        for (index, mut item) in items.into_iter().enumerate() {
            if let (true, Some(fields)) = (item_kind.is_some(), item.as_object_mut()) {
                fields.entry("apiVersion").or_insert_with(|| version.clone());
            }
            self.value(item, &entry(&join(prefix, "items"), index), item_kind, parts);
        }
    }

    fn object(&mut self, kind: ManifestKind, value: Value, prefix: &str, parts: &Parts) {
        let (name, mut violations) = metadata::read(&value, kind);
        let Some(name) = name else {
            return violations.iter().for_each(|violation| self.violation(violation, prefix, &parts.positions));
        };
        let miswritten = violations_within(&parts.faults, prefix);
        violations.splice(0..0, miswritten.iter().cloned());
        let (object, violations) = object::object(kind, &name, value, violations);
        // The document reports syntax problems with their lines; further problems of such a field are consequences.
        let follows = |violation: &Violation| miswritten.iter().any(|earlier| earlier.field == violation.field);
        for violation in violations.iter().filter(|violation| !follows(violation)) {
            self.violation(violation, prefix, &parts.positions);
        }
        let place = ObjectPlace { path: self.path.clone(), prefix: prefix.into(), positions: parts.positions.clone() };
        self.contents.objects.extend(object.map(|object| WrittenObject { kind, name, object, place }));
    }

    fn violation(&mut self, violation: &Violation, prefix: &str, positions: &Positions) {
        let field = join(prefix, &violation.field);
        self.fault(SyntaxFault { line: positions.line(&field), field, message: violation.message.clone() });
    }

    fn fault(&mut self, SyntaxFault { line, field, message }: SyntaxFault) {
        self.contents.problems.push(FileProblem { path: self.path.clone(), line, field, message });
    }
}

/// The syntax problems of an object, in terms of its own fields.
fn violations_within(faults: &[SyntaxFault], prefix: &str) -> Vec<Violation> {
    let within = faults.iter().filter(|fault| is_within(&fault.field, prefix));
    let own_field = |field: &str| field[prefix.len()..].trim_start_matches('.').to_owned();
    let mut seen = HashSet::new();
    within
        .filter(|fault| seen.insert((&fault.field, &fault.message)))
        .map(|fault| Violation { field: own_field(&fault.field), message: fault.message.clone() })
        .collect()
}
