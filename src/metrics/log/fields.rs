//! The fields of an event or a span in text: `message name=value other="text"`.

use std::{
    error::Error,
    fmt::{self, Debug, Write as _},
    iter,
};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

use super::escape::Escaping;

/// Switches italics and dimmed text on and off.
const ITALIC: &str = "\x1b[3m";
const DIMMED: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Writes fields as the subscriber does by default, but keeps values on their line. The default escapes only the
/// message, and not even its line feeds.
#[derive(Debug)]
pub(super) struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = FieldWriter { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct FieldWriter<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !std::mem::replace(&mut self.is_first, false) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            // A name that is a Rust keyword is written r#type.
            let name = name.strip_prefix("r#").unwrap_or(name);
            let colours = self.writer.has_ansi_escapes();
            let [italic, dimmed, reset] = if colours { [ITALIC, DIMMED, RESET] } else { [""; 3] };
            write!(self.writer, "{italic}{name}{reset}{dimmed}={reset}")?;
        }
        write!(Escaping(&mut self.writer), "{value:?}")
    }
}

impl Visit for FieldWriter<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Those of the `log` crate are already in the line: target, file and so on.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let causes = iter::successors(Some(value), |error: &&(dyn Error + 'static)| (*error).source());
        let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        self.record_debug(field, &format_args!("{text}"));
    }
}
