//! Where log lines go, and in which form.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

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
    let lines = fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    if json {
        lines.json().flatten_event(true).init();
    } else {
        lines.init();
    }
    Ok(())
}

fn with_quiet_libraries(level: &str) -> String {
    if level.eq_ignore_ascii_case("off") { level.to_owned() } else { format!("{LIBRARIES},{level}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_names_a_library_wins() {
        let filter = |level| EnvFilter::try_new(with_quiet_libraries(level)).unwrap().to_string();
        assert!(filter("info").contains("notify=error"));
        let named = filter("info,notify=debug");
        assert!(named.contains("notify=debug") && !named.contains("notify=error"), "{named}");
        assert_eq!(filter("off"), "off");
    }
}
