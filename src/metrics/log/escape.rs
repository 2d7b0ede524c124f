//! Characters that log lines contain only as escapes, and the writers that escape them.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

use tracing_subscriber::fmt::MakeWriter;

/// Whether a character could start a line, control a terminal, or reorder text: the control characters of both sets (C0
/// with the line feed and ESC, DEL, C1 with CSI), the line and paragraph separators, and the controls and marks of
/// bidirectional text (UAX #9).
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Forwards text, with unsafe characters as in Rust literals: `\n`, `\u{1b}`.
pub(super) struct Escaping<W>(pub W);

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_unsafe) {
            let (safe, from) = rest.split_at(at);
            let mut characters = from.chars();
            self.0.write_str(safe)?;
            characters.next().into_iter().try_for_each(|one| write!(self.0, "{}", one.escape_debug()))?;
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Makes writers that escape what JSON leaves unescaped.
pub(super) struct EscapingLines<W>(pub W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for EscapingLines<W> {
    type Writer = EscapingWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingWriter(self.0.make_writer())
    }
}

/// Forwards lines of JSON, with the unsafe characters that JSON allows in strings as JSON escapes: `\u009b`.
pub(super) struct EscapingWriter<W>(W);

impl<W: Write> Write for EscapingWriter<W> {
    /// Takes a whole line, as the subscriber writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) if text.contains(is_unsafe_in_json) => self.0.write_all(escaped(text).as_bytes())?,
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Characters below U+0020 are already escaped, except the end of the line.
fn is_unsafe_in_json(character: char) -> bool {
    character != '\n' && is_unsafe(character)
}

fn escaped(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len() + 16);
    for character in line.chars() {
        if is_unsafe_in_json(character) {
            // All of them are in the basic plane, so one escape is enough (RFC 8259 §7).
            write!(escaped, "\\u{:04x}", u32::from(character)).expect("writing to a string does not fail");
        } else {
            escaped.push(character);
        }
    }
    escaped
}
