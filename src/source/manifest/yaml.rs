//! Parses a file into values with positions.
//!
//! Two parsers read every document: the event parser for positions and for details that the plain tree loses (quotes,
//! tags, duplicate keys), `serde_yaml` for the values. The latter is a port of libyaml, like kubectl's parser.

use std::mem;

use saphyr_parser::{Parser, ScanError};
use serde_json::Value;

use super::{
    position::Positions,
    syntax::{Syntax, SyntaxFault},
    walk::DocumentWalk,
};

/// A document and the positions of its fields.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) positions: Positions,
    /// Syntax problems of a readable document.
    pub(super) faults: Vec<SyntaxFault>,
}

/// The documents of a file; a fault in one does not affect the others.
pub(super) fn documents(text: &str, syntax: Syntax) -> Vec<Result<Document, Vec<SyntaxFault>>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parts = match syntax {
        Syntax::Yaml => split(text),
        Syntax::Json => vec![(0, text)],
    };
    let parts = parts.into_iter().filter(|(_, part)| !is_blank(part));
    parts.map(|(lines_before, part)| document(part, lines_before, syntax)).collect()
}

/// Splits at the lines that start a document, as kubectl does before parsing: each part with the number of lines before
/// it.
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

/// Whether it has only comments, directives and markers.
fn is_blank(part: &str) -> bool {
    part.lines().all(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        content.is_empty() || content.starts_with('#') || line.starts_with('%') || content == "..."
    })
}

fn document(text: &str, lines_before: usize, syntax: Syntax) -> Result<Document, Vec<SyntaxFault>> {
    let mut walk = DocumentWalk::new(syntax, lines_before);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| vec![scan_fault(&error, lines_before)])?;
        walk.event(event, span).map_err(|fault| vec![fault])?;
    }
    let value = match syntax {
        Syntax::Yaml => serde_yaml::from_str(text).map_err(|error| yaml_fault(&error, lines_before)),
        Syntax::Json => serde_json::from_str(text).map_err(|error| json_fault(&error)),
    };
    match value {
        Ok(mut value) => {
            whole_numbers(&mut value);
            Ok(Document { value, positions: walk.positions, faults: walk.faults })
        }
        // An unsupported tag has no value either; one message is enough.
        Err(_) if !walk.faults.is_empty() => Err(walk.faults),
        Err(fault) => Err(vec![fault]),
    }
}

/// Writes `8080.0` as `8080`, as kubectl does before it sends objects.
pub fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0).map(|float| format!("{float:.0}"));
            if let Some(whole) = whole.and_then(|whole| whole.parse::<i64>().ok()) {
                *value = whole.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn scan_fault(error: &ScanError, lines_before: usize) -> SyntaxFault {
    SyntaxFault { line: lines_before + error.marker().line(), field: String::new(), message: error.info().to_owned() }
}

fn yaml_fault(error: &serde_yaml::Error, lines_before: usize) -> SyntaxFault {
    let line = lines_before + error.location().map_or(1, |location| location.line());
    let message = error.to_string();
    // The line is passed separately, counted from the start of the file instead of the document.
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    SyntaxFault { line, field: String::new(), message }
}

fn json_fault(error: &serde_json::Error) -> SyntaxFault {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    SyntaxFault { line: error.line(), field: String::new(), message }
}

impl Document {
    /// Takes the value.
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
    fn what_would_take_the_machine_down_is_refused() {
        let deep = ["[", "{a: ", "- ", "? "].map(|opening| opening.repeat(20_000));
        let key = format!("{}: 1\n", "k".repeat(5_000));
        let line = |n: usize| format!("a{n}: &a{n} [{}]", vec![format!("*a{}", n - 1); 9].join(", "));
        let bomb = ["a0: &a0 [x]".to_owned()].into_iter().chain((1..40).map(line)).collect::<Vec<_>>().join("\n");
        for text in deep.into_iter().chain([key, bomb]) {
            assert!(documents(&text, Syntax::Yaml).remove(0).is_err(), "{}", &text[..20]);
        }
    }

    #[test]
    fn what_kubectl_prints_has_no_faults() {
        let text =
            "a: 2026-01-01T00:00:00Z\nb: nginx:1.25\nc: null\nd: |\n  on\n  no\ne: \"on\"\nf: 10.0.0.1\ng: true\n";
        assert_eq!(faults(text), []);
    }
}
