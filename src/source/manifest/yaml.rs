//! From the text of a file to values with positions.
//!
//! Two parsers read every document: the event parser for where things stand and for what a plain tree no longer shows
//! (quotes, tags, duplicate keys), `serde_yaml` for the values. The latter is a port of libyaml,
//! as what kubectl uses is.

use std::{collections::HashSet, mem};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::{
    position::{Positions, child, entry},
    scalar,
};

/// A document and where its fields stand.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) positions: Positions,
    /// What is wrong with how it is written, although it can be read.
    pub(super) faults: Vec<Fault>,
}

/// Something wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) field: String,
    pub(super) message: String,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Syntax {
    #[default]
    Yaml,
    Json,
}

/// The documents of a file; a fault in one leaves the others alone.
pub(super) fn documents(text: &str, syntax: Syntax) -> Vec<Result<Document, Vec<Fault>>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parts = match syntax {
        Syntax::Yaml => split(text),
        Syntax::Json => vec![(0, text)],
    };
    let parts = parts.into_iter().filter(|(_, part)| !is_blank(part));
    parts.map(|(lines_before, part)| document(part, lines_before, syntax)).collect()
}

/// Cuts at the lines that begin a document, as kubectl does before it parses: each part with the number of lines before.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut lines_before, mut offset) = (0, 0, 0);
    for (line, content) in text.split_inclusive('\n').enumerate() {
        if content.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            parts.push((lines_before, &text[start..offset]));
            (start, lines_before) = (offset, line);
        }
        offset += content.len();
    }
    parts.push((lines_before, &text[start..]));
    parts
}

/// Whether there is nothing but comments, directives and markers.
fn is_blank(part: &str) -> bool {
    part.lines().all(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        content.is_empty() || content.starts_with('#') || line.starts_with('%') || content == "..."
    })
}

fn document(text: &str, lines_before: usize, syntax: Syntax) -> Result<Document, Vec<Fault>> {
    let mut walk = Walk { syntax, lines_before, ..Walk::default() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| vec![scan_fault(&error, lines_before)])?;
        walk.event(event, span).map_err(|fault| vec![fault])?;
    }
    let value = match syntax {
        Syntax::Yaml => serde_yaml::from_str(text).map_err(|error| yaml_fault(&error, lines_before)),
        Syntax::Json => serde_json::from_str(text).map_err(|error| json_fault(&error)),
    };
    match value {
        Ok(value) => Ok(Document { value, positions: walk.positions, faults: walk.faults }),
        // A tag that means nothing here has no value either; saying the first is enough.
        Err(_) if !walk.faults.is_empty() => Err(walk.faults),
        Err(fault) => Err(vec![fault]),
    }
}

fn scan_fault(error: &ScanError, lines_before: usize) -> Fault {
    Fault { line: lines_before + error.marker().line(), field: String::new(), message: error.info().to_owned() }
}

fn yaml_fault(error: &serde_yaml::Error, lines_before: usize) -> Fault {
    let line = lines_before + error.location().map_or(1, |location| location.line());
    let message = error.to_string();
    // The line is told apart, and counted from the start of the file instead of the document.
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    Fault { line, field: String::new(), message }
}

fn json_fault(error: &serde_json::Error) -> Fault {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    Fault { line: error.line(), field: String::new(), message }
}

/// Follows the events of a document.
#[derive(Default)]
struct Walk {
    syntax: Syntax,
    lines_before: usize,
    documents: usize,
    frames: Vec<Frame>,
    positions: Positions,
    faults: Vec<Fault>,
}

/// What the walk is in the middle of.
enum Frame {
    Map { path: String, seen: HashSet<String>, key: Option<String> },
    List { path: String, next: usize },
}

/// What a node is to the node that holds it.
enum Place {
    Key,
    Value(String),
}

impl Walk {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let line = self.lines_before + span.start.line();
        match event {
            Event::DocumentStart(_) => self.document_start(line)?,
            Event::Scalar(text, style, _, tag) => self.scalar(&text, style, tag.as_deref(), line),
            Event::Alias(_) => drop(self.container_place(line)?),
            Event::SequenceStart(_, tag) => {
                let path = self.container_place(line)?;
                self.tag(tag.as_deref(), &path, line);
                self.frames.push(Frame::List { path, next: 0 });
            }
            Event::MappingStart(_, tag) => {
                let path = self.container_place(line)?;
                self.tag(tag.as_deref(), &path, line);
                self.frames.push(Frame::Map { path, seen: HashSet::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => drop(self.frames.pop()),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn document_start(&mut self, line: usize) -> Result<(), Fault> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(Fault { line, field: String::new(), message: "write --- before the next document".into() })
    }

    /// Where the node that begins now belongs.
    fn place(&mut self, line: usize) -> Place {
        let path = match self.frames.last_mut() {
            None => String::new(),
            Some(Frame::List { path, next }) => {
                *next += 1;
                entry(path, *next - 1)
            }
            Some(Frame::Map { path, key, .. }) => match key.take() {
                None => return Place::Key,
                Some(key) => return Place::Value(child(path, &key)),
            },
        };
        self.positions.note(path.clone(), line);
        Place::Value(path)
    }

    /// The same for what cannot be a key in JSON, which all of it must become.
    fn container_place(&mut self, line: usize) -> Result<String, Fault> {
        match self.place(line) {
            Place::Value(path) => Ok(path),
            Place::Key => Err(self.fault(line, "", "a key must be written out as text".into())),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) {
        let place = self.place(line);
        let path = match place {
            Place::Value(path) => path,
            Place::Key => self.key(text, line),
        };
        self.tag(tag, &path, line);
        let is_plain = style == ScalarStyle::Plain && tag.is_none() && self.syntax == Syntax::Yaml;
        if let Some(kind) = is_plain.then(|| scalar::ambiguity(text)).flatten() {
            let mending = match kind {
                "a boolean" => "write true or false, or quote it",
                "a number" => "write it as a plain number, or quote it",
                _ => "quote it, or write out what it stands for",
            };
            let message = format!("{text} is {kind} in one of YAML 1.1 and 1.2 but not in the other: {mending}");
            let fault = self.fault(line, &path, message);
            self.faults.push(fault);
        }
    }

    fn key(&mut self, text: &str, line: usize) -> String {
        let Some(Frame::Map { path, seen, key }) = self.frames.last_mut() else { return String::new() };
        *key = Some(text.to_owned());
        let path = child(path, text);
        if seen.insert(text.to_owned()) {
            self.positions.note(path.clone(), line);
        } else {
            let first = self.positions.exact(&path).unwrap_or(line);
            let fault = self.fault(line, &path, format!("is there already, on line {first}"));
            self.faults.push(fault);
        }
        path
    }

    fn tag(&mut self, tag: Option<&Tag>, path: &str, line: usize) {
        let Some(tag) = tag else { return };
        let known = matches!(&*tag.suffix, "str" | "int" | "float" | "bool" | "null" | "map" | "seq");
        if !(tag.is_yaml_core_schema() && known) {
            let fault = self.fault(line, path, format!("the tag {tag} means nothing here: leave it out"));
            self.faults.push(fault);
        }
    }

    fn fault(&self, line: usize, field: &str, message: String) -> Fault {
        let field = if field.is_empty() { self.innermost() } else { field };
        Fault { line, field: field.to_owned(), message }
    }

    fn innermost(&self) -> &str {
        match self.frames.last() {
            Some(Frame::Map { path, .. } | Frame::List { path, .. }) => path,
            None => "",
        }
    }
}

impl Document {
    /// Takes the value out.
    pub(super) fn take_value(&mut self) -> Value {
        mem::take(&mut self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Document {
        documents(text, Syntax::Yaml).remove(0).unwrap()
    }

    fn faults(text: &str) -> Vec<(usize, String, String)> {
        read(text).faults.into_iter().map(|fault| (fault.line, fault.field, fault.message)).collect()
    }

    #[test]
    fn lines_are_counted_from_the_start_of_the_file() {
        let text = "# first\n---\na: 1\n---\n# second\nb:\n- c: 1\n  d: [x,\n    y]\n";
        let documents: Vec<_> = documents(text, Syntax::Yaml).into_iter().map(Result::unwrap).collect();
        assert_eq!(documents.len(), 2);
        let positions = &documents[1].positions;
        let lines = ["b", "b[0]", "b[0].c", "b[0].d", "b[0].d[1]"].map(|field| positions.line(field));
        assert_eq!(lines, [6, 7, 7, 8, 9]);
    }

    #[test]
    fn a_document_that_is_no_yaml_leaves_the_others_alone() {
        let read = documents("a: 1\n---\nb: [\n---\nc: 3\n", Syntax::Yaml);
        assert_eq!(read.len(), 3);
        assert!(read[0].is_ok() && read[2].is_ok());
        assert!((3..=4).contains(&read[1].as_ref().unwrap_err()[0].line), "{:?}", read[1]);
    }

    #[test]
    fn ambiguous_scalars_tags_and_duplicate_keys_are_named_with_their_line() {
        let found = faults("a: on\noff: 'no'\nb: !!str x\na: 2\nc: \"on\"\nd: !!str on\n");
        let places: Vec<_> = found.iter().map(|(line, field, _)| (*line, field.as_str())).collect();
        assert_eq!(places, [(1, "a"), (2, "off"), (4, "a")]);
        assert!(found[2].2.contains("line 1"), "{}", found[2].2);
    }

    #[test]
    fn tags_that_mean_nothing_here_are_refused() {
        let faults = documents("a: 1\nb: !include x\n", Syntax::Yaml).remove(0).unwrap_err();
        assert_eq!((faults[0].line, &*faults[0].field), (2, "b"));
        assert!(faults[0].message.contains("!include"), "{}", faults[0].message);
    }

    #[test]
    fn what_kubectl_prints_has_no_faults() {
        let text =
            "a: 2026-01-01T00:00:00Z\nb: nginx:1.25\nc: null\nd: |\n  on\n  no\ne: \"on\"\nf: 10.0.0.1\ng: true\n";
        assert_eq!(faults(text), []);
    }
}
