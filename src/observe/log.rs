//! Where log lines go, and in which form.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// Sends log lines to standard error: standard output is for what a program may read.
///
/// # Errors
/// When `level` is no filter such as `info` or `info,switchyard::proxy=debug`.
pub fn init(json: bool, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(with_quiet_watch(level))
        .map_err(|error| anyhow::anyhow!("--log-level {level:?}: {error}"))?;
    let lines = fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    if json {
        lines.json().flatten_event(true).init();
    } else {
        lines.init();
    }
    Ok(())
}

/// The watcher of directories tells at `info` what only its authors can use, unless somebody asks for it by name.
fn with_quiet_watch(level: &str) -> String {
    let any = |is_it: fn(&str) -> bool| level.split(',').any(is_it);
    let tells_all =
        any(|directive| ["info", "debug", "trace"].iter().any(|level| directive.eq_ignore_ascii_case(level)));
    if tells_all && !any(|directive| directive.starts_with("notify")) {
        format!("{level},notify=warn")
    } else {
        level.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watcher_is_heard_only_when_it_is_named_or_warns() {
        for (level, filter) in [
            ("info", "info,notify=warn"),
            ("switchyard=trace,DEBUG", "switchyard=trace,DEBUG,notify=warn"),
            ("info,notify=info", "info,notify=info"),
            ("notify=trace,trace", "notify=trace,trace"),
            ("off", "off"),
            ("error", "error"),
            ("switchyard=debug", "switchyard=debug"),
        ] {
            assert_eq!(with_quiet_watch(level), filter);
        }
    }
}
