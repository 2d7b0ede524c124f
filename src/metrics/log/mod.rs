//! The destination and format of log lines.
//!
//! Object names, paths and messages of peers appear in the log. None of them may start a line or control the terminal
//! that shows it: `escape` defines which characters are escaped.

mod escape;
mod fields;

use std::io::IsTerminal;

use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

use self::{escape::EscapingLines, fields::EscapedFields};

/// Library messages that only their authors can use, or that `source` reports better: once, and with a remedy. A filter
/// that names one of these libraries overrides this.
const LIBRARIES: &str = "kube_client::client::builder=off,kube_runtime=error,notify=error";

/// Sends log lines to standard error: standard output is reserved for machine-readable output.
///
/// # Errors
/// If `level` is not a filter such as `info` or `info,switchyard::proxy=debug`.
pub fn init(json: bool, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(with_quiet_libraries(level));
    let filter = filter.map_err(|error| anyhow::anyhow!("--log-level {level:?}: {error}"))?;
    let form = if json { Form::Json } else { Form::Text { colours: std::io::stderr().is_terminal() } };
    lines(form, filter, std::io::stderr).init();
    Ok(())
}

/// Format of the lines.
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
        // Field by field, because the colours of the line itself are escape sequences too.
        Form::Text { colours } => lines.with_ansi(colours).fmt_fields(EscapedFields).with_writer(writer).into(),
        // Whole lines: JSON only escapes what is below U+0020, and other unsafe characters occur only in strings.
        Form::Json => lines.with_ansi(false).json().flatten_event(true).with_writer(EscapingLines(writer)).into(),
    }
}

fn with_quiet_libraries(level: &str) -> String {
    if level.eq_ignore_ascii_case("off") { level.to_owned() } else { format!("{LIBRARIES},{level}") }
}

#[cfg(test)]
mod tests;
