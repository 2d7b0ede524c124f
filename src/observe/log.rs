//! Where log lines go, and in which form.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// What libraries say of the API server at each try; `source` says it once, and what to do about it.
const LIBRARIES: &str = "kube_client::client::builder=off,kube_runtime=error";

/// Sends log lines to standard error: standard output is for what a program may read.
///
/// # Errors
/// When `level` is no filter such as `info` or `info,switchyard::proxy=debug`.
pub fn init(json: bool, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{level}"));
    let filter = filter.map_err(|error| anyhow::anyhow!("--log-level {level:?}: {error}"))?;
    let lines = fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    if json {
        lines.json().flatten_event(true).init();
    } else {
        lines.init();
    }
    Ok(())
}
