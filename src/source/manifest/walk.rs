//! Follows the events of a document, for the positions of its fields and for details that the plain tree loses.

use std::collections::HashSet;

use saphyr_parser::{Event, ScalarStyle, Span, Tag};

use super::{
    position::{Positions, child, entry},
    scalar,
    syntax::{Syntax, SyntaxFault},
};

/// The other parser allows a little more; real files stay far below.
const MAX_DEPTH: usize = 100;
/// The longest key that YAML allows on one line.
const MAX_KEY_LENGTH: usize = 1024;

/// Follows the events of a document.
#[derive(Default)]
pub(super) struct DocumentWalk {
    syntax: Syntax,
    lines_before: usize,
    documents: usize,
    frames: Vec<Frame>,
    pub(super) positions: Positions,
    pub(super) faults: Vec<SyntaxFault>,
}

/// What the walk is inside of.
enum Frame {
    Map { path: String, seen: HashSet<String>, key: Option<String> },
    List { path: String, next: usize },
}

/// The role of a node in its parent.
enum NodePlace {
    Key,
    Value(String),
}

impl DocumentWalk {
    /// A walk through a document that starts after `lines_before` lines of its file.
    pub(super) fn new(syntax: Syntax, lines_before: usize) -> Self {
        Self { syntax, lines_before, ..Self::default() }
    }

    /// Takes the next event.
    pub(super) fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxFault> {
        let line = self.lines_before + span.start.line();
        match event {
            Event::DocumentStart(_) => self.document_start(line)?,
            Event::Scalar(text, style, _, tag) => self.scalar(&text, style, tag.as_deref(), line)?,
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

    fn document_start(&mut self, line: usize) -> Result<(), SyntaxFault> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(SyntaxFault {
            line,
            field: String::new(),
            message: "must be preceded by ---, as every further document".into(),
        })
    }

    /// The place of the node that starts now.
    fn place(&mut self, line: usize) -> NodePlace {
        let path = match self.frames.last_mut() {
            None => String::new(),
            Some(Frame::List { path, next }) => {
                *next += 1;
                entry(path, *next - 1)
            }
            Some(Frame::Map { path, key, .. }) => match key.take() {
                None => return NodePlace::Key,
                Some(key) => return NodePlace::Value(child(path, &key)),
            },
        };
        self.positions.note(path.clone(), line);
        NodePlace::Value(path)
    }

    /// The same for containers, which cannot be keys in JSON.
    fn container_place(&mut self, line: usize) -> Result<String, SyntaxFault> {
        match self.place(line) {
            NodePlace::Value(_) if self.frames.len() > MAX_DEPTH => {
                Err(SyntaxFault { line, field: String::new(), message: "must not be nested so deeply".into() })
            }
            NodePlace::Value(path) => Ok(path),
            NodePlace::Key => Err(self.fault(line, "", "a key must be a plain string".into())),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<(), SyntaxFault> {
        let path = match self.place(line) {
            NodePlace::Value(path) => path,
            NodePlace::Key if text.len() > MAX_KEY_LENGTH => {
                return Err(self.fault(line, "", format!("a key must be at most {MAX_KEY_LENGTH} bytes long")));
            }
            NodePlace::Key => self.key(text, line),
        };
        self.tag(tag, &path, line);
        let is_plain = style == ScalarStyle::Plain && tag.is_none() && self.syntax == Syntax::Yaml;
        if let Some(kind) = is_plain.then(|| scalar::ambiguity(text)).flatten() {
            let advice = match kind {
                "a boolean" => "write true or false, or quote it",
                "a number" => "write it as a plain number, or quote it",
                _ => "quote it, or write out its meaning",
            };
            let message = format!("{text} is {kind} in only one of YAML 1.1 and 1.2: {advice}");
            let fault = self.fault(line, &path, message);
            self.faults.push(fault);
        }
        Ok(())
    }

    fn key(&mut self, text: &str, line: usize) -> String {
        let Some(Frame::Map { path, seen, key }) = self.frames.last_mut() else { return String::new() };
        *key = Some(text.to_owned());
        let path = child(path, text);
        if seen.insert(text.to_owned()) {
            self.positions.note(path.clone(), line);
        } else {
            let first = self.positions.exact(&path).unwrap_or(line);
            let fault = self.fault(line, &path, format!("duplicate of line {first}"));
            self.faults.push(fault);
        }
        path
    }

    fn tag(&mut self, tag: Option<&Tag>, path: &str, line: usize) {
        let Some(tag) = tag else { return };
        let known = matches!(&*tag.suffix, "str" | "int" | "float" | "bool" | "null" | "map" | "seq");
        if !(tag.is_yaml_core_schema() && known) {
            let fault = self.fault(line, path, format!("unsupported tag {tag}: leave it out"));
            self.faults.push(fault);
        }
    }

    fn fault(&self, line: usize, field: &str, message: String) -> SyntaxFault {
        let field = if field.is_empty() { self.innermost() } else { field };
        SyntaxFault { line, field: field.to_owned(), message }
    }

    fn innermost(&self) -> &str {
        match self.frames.last() {
            Some(Frame::Map { path, .. } | Frame::List { path, .. }) => path,
            None => "",
        }
    }
}
