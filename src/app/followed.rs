//! Files that may change while the program runs: session keys, API tokens, hostname owners.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use tracing::{info, warn};

use crate::source::complaint::Complaint;

/// How often a file is checked. Reading a few lines costs less than change notifications, and works on every kind of
/// volume.
const LOOK: Duration = Duration::from_secs(1);

/// Parses the text of a file.
type Parse<T> = fn(&str) -> anyhow::Result<T>;

/// What applies while a file is unusable.
pub(super) enum Meanwhile<T> {
    /// The previous content.
    Before,
    /// This value.
    Only(fn() -> T),
}

/// The content of the file named by a flag: now, and after each change. `changed` is called once a change is in effect.
///
/// # Errors
/// If the file is unusable now.
pub(super) fn follow<T: Send + Sync + 'static>(
    flag: &'static str,
    file: &Path,
    parse: Parse<T>,
    meanwhile: Meanwhile<T>,
    changed: impl Fn() + Send + 'static,
) -> anyhow::Result<Arc<ArcSwap<T>>> {
    let (seen, value) = read(flag, file, parse)?;
    let current = Arc::new(ArcSwap::from_pointee(value));
    let store = {
        let current = current.clone();
        move |value| {
            current.store(Arc::new(value));
            changed();
        }
    };
    tokio::spawn(keep_up(flag, file.to_owned(), parse, meanwhile, seen, store));
    Ok(current)
}

async fn keep_up<T: Send + Sync + 'static>(
    flag: &'static str,
    file: PathBuf,
    parse: Parse<T>,
    meanwhile: Meanwhile<T>,
    mut seen: String,
    store: impl Fn(T) + Send,
) {
    let mut complaint = Complaint::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let path = file.clone();
        // A hanging volume must not block a serving thread.
        let answer = tokio::task::spawn_blocking(move || read(flag, &path, parse)).await;
        let answer = answer.expect("reading does not panic and is never cancelled");
        match answer.map_err(|error| format!("{error:#}")) {
            Ok((text, value)) if complaint.settle() || text != seen => {
                store(value);
                info!(file = %file.display(), "{flag} reloaded");
                seen = text;
            }
            Err(error) if complaint.raise(&error) => match meanwhile {
                Meanwhile::Before => warn!(error, "file is unusable; its previous content still applies"),
                Meanwhile::Only(value) => {
                    store(value());
                    warn!(error, "file is unusable; its previous content no longer applies");
                }
            },
            Ok(_) | Err(_) => {}
        }
    }
}

/// Reads a file once: its text and its parsed content. A leading byte-order mark, which some editors write, is ignored.
pub(super) fn read<T>(flag: &str, file: &Path, parse: Parse<T>) -> anyhow::Result<(String, T)> {
    let whose = || format!("{flag} {}", file.display());
    let text = std::fs::read_to_string(file).with_context(whose)?;
    let value = parse(text.strip_prefix('\u{feff}').unwrap_or(&text)).with_context(whose)?;
    Ok((text, value))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn number(text: &str) -> anyhow::Result<u32> {
        Ok(text.parse()?)
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again_and_one_that_is_broken_leaves_what_was_or_what_is_safe() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "1").unwrap();
        let counted = Arc::new(AtomicU32::new(0));
        let count = {
            let counted = counted.clone();
            move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        };
        let lasting = follow("--number-file", file.path(), number, Meanwhile::Before, count).unwrap();
        let safe = follow("--number-file", file.path(), number, Meanwhile::Only(|| 0), || ()).unwrap();
        let steps = [("garbage", (1, 0), 0), ("", (1, 0), 0), ("1", (1, 1), 1), ("2", (2, 2), 2), ("2", (2, 2), 2)];
        for (text, expected, changes) in steps {
            std::fs::write(&file, text).unwrap();
            tokio::time::sleep(LOOK * 3).await;
            assert_eq!((**lasting.load(), **safe.load()), expected, "{text:?}");
            assert_eq!(counted.load(Ordering::Relaxed), changes, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_at_the_start_is_an_error_with_its_name() {
        let error = follow("--number-file", Path::new("/nonexistent/number"), number, Meanwhile::Before, || ());
        let error = error.err().unwrap();
        assert!(format!("{error:#}").contains("--number-file /nonexistent/number"), "{error:#}");
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "\u{feff}7").unwrap();
        assert_eq!(read("--number-file", file.path(), number).unwrap().1, 7);
    }
}
