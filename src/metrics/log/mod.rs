//! Where log lines go, and in which form.
//!
//! Names of objects, paths and messages of peers reach the log. None of them may begin a line of its own or drive the
//! terminal that shows it: `escape` says which characters are written as escapes.

mod escape;
mod fields;

use std::io::IsTerminal;

use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

use self::{escape::EscapingLines, fields::EscapedFields};

/// What libraries say that only their authors can use, or that `source` says better: once, and with what to do about
/// it. A filter that names one of them wins.
const LIBRARIES: &str = "kube_client::client::builder=off,kube_runtime=error,notify=error";

/// Sends log lines to standard error: standard output is for what a program may read.
///
/// # Errors
/// When `level` is no filter such as `info` or `info,switchyard::proxy=debug`.
pub fn init(json: bool, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(with_quiet_libraries(level));
    let filter = filter.map_err(|error| anyhow::anyhow!("--log-level {level:?}: {error}"))?;
    let form = if json { Form::Json } else { Form::Text { colours: std::io::stderr().is_terminal() } };
    lines(form, filter, std::io::stderr).init();
    Ok(())
}

/// The form of lines.
#[derive(Clone, Copy, Debug)]
enum Form {
    Text { colours: bool },
    Json,
}

fn lines<W>(form: Form, filter: EnvFilter, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    match form {
        // Field by field, since the line's own colours are escape sequences as well.
        Form::Text { colours } => lines.with_ansi(colours).fmt_fields(EscapedFields).with_writer(writer).into(),
        // Whole lines: JSON itself escapes only what is below U+0020, and what is above occurs in strings alone.
        Form::Json => lines.with_ansi(false).json().flatten_event(true).with_writer(EscapingLines(writer)).into(),
    }
}

fn with_quiet_libraries(level: &str) -> String {
    if level.eq_ignore_ascii_case("off") { level.to_owned() } else { format!("{LIBRARIES},{level}") }
}

#[cfg(test)]
mod tests;
