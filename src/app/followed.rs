//! Files with secrets that may change while the program runs: session keys, tokens of the API.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use tracing::{info, warn};

/// How often a file is looked at. Reading a few lines costs less than the machinery that would tell of changes, and
/// works on every kind of volume.
const LOOK: Duration = Duration::from_secs(1);

/// Makes something of the text of a file.
pub(super) type Parse<T> = fn(&str) -> anyhow::Result<T>;

/// What the file that a flag names says: now, and after each change. A file that cannot be used any more leaves what it
/// said before.
///
/// # Errors
/// When the file cannot be used now.
pub(super) fn follow<T: Send + Sync + 'static>(
    flag: &'static str,
    file: &Path,
    parse: Parse<T>,
) -> anyhow::Result<Arc<ArcSwap<T>>> {
    let (seen, value) = read(flag, file, parse)?;
    let current = Arc::new(ArcSwap::from_pointee(value));
    tokio::spawn(keep_up(flag, file.to_owned(), parse, seen, current.clone()));
    Ok(current)
}

async fn keep_up<T: Send + Sync + 'static>(
    flag: &'static str,
    file: PathBuf,
    parse: Parse<T>,
    mut seen: String,
    current: Arc<ArcSwap<T>>,
) {
    let mut fault = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let path = file.clone();
        // A volume that hangs must not hold up a thread that serves.
        let answer = tokio::task::spawn_blocking(move || read(flag, &path, parse)).await;
        match answer.expect("reading does not panic, and nobody cancels it") {
            Ok((text, _)) if text == seen => {}
            Ok((text, value)) => {
                current.store(Arc::new(value));
                info!(file = %file.display(), "{flag} was read again");
                seen = text;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != fault {
                    warn!(error, "what the file said before still holds");
                }
                fault = error;
                continue;
            }
        }
        fault.clear();
    }
}

fn read<T>(flag: &str, file: &Path, parse: Parse<T>) -> anyhow::Result<(String, T)> {
    let whose = || format!("{flag} {}", file.display());
    let text = std::fs::read_to_string(file).with_context(whose)?;
    let value = parse(&text).with_context(whose)?;
    Ok((text, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> anyhow::Result<u32> {
        Ok(text.parse()?)
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again_and_a_broken_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "1").unwrap();
        let current = follow("--number-file", file.path(), number).unwrap();
        std::fs::write(&file, "garbage").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(**current.load(), 1, "a broken file changes nothing");
        std::fs::write(&file, "2").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(**current.load(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_used_at_the_start_is_an_error_with_its_name() {
        let error = follow("--number-file", Path::new("/nonexistent/number"), number).err().unwrap();
        assert!(format!("{error:#}").contains("--number-file /nonexistent/number"), "{error:#}");
    }
}
