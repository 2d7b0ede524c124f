//! The keys of session cookies: from a file that may change, or made up.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use tracing::{info, warn};

use crate::table::SessionKeys;

/// How often the file is looked at. Reading a few lines costs less than the machinery that would tell of changes, and
/// works on every kind of volume.
const LOOK: Duration = Duration::from_secs(1);

/// The keys of this moment.
pub(super) type Keys = Arc<ArcSwap<SessionKeys>>;

/// Reads the keys, or makes one up where there is no file; gives what the file says along with them.
pub(super) fn load(file: Option<&Path>) -> anyhow::Result<(Keys, String)> {
    let (text, keys) = if let Some(file) = file {
        read(file)?
    } else {
        warn!(
            "no --session-key-file: session cookies are signed with a random key, so they end with this process and \
             do not hold on other replicas"
        );
        (String::new(), SessionKeys::random())
    };
    Ok((Arc::new(ArcSwap::from_pointee(keys)), text))
}

/// Follows the file, which said `seen` when the keys were made of it, for ever. A file that cannot be used leaves the
/// keys as they are.
pub(super) async fn follow(file: PathBuf, mut seen: String, keys: Keys) {
    let mut fault = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let path = file.clone();
        // A volume that hangs must not hold up a thread that serves.
        let answer = tokio::task::spawn_blocking(move || read(&path)).await;
        match answer.expect("reading does not panic, and nobody cancels it") {
            Ok((text, _)) if text == seen => {}
            Ok((text, fresh)) => {
                keys.store(Arc::new(fresh));
                info!(file = %file.display(), "session keys were read again");
                seen = text;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if error != fault {
                    warn!(error, "the session keys stay as they are");
                }
                fault = error;
                continue;
            }
        }
        fault.clear();
    }
}

fn read(file: &Path) -> anyhow::Result<(String, SessionKeys)> {
    let whose = || format!("--session-key-file {}", file.display());
    let text = std::fs::read_to_string(file).with_context(whose)?;
    let keys = SessionKeys::parse(&text).with_context(whose)?;
    Ok((text, keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{EndpointId, ObjectName};

    const ONE: &str = "b25lIG9uZSBvbmUgb25lIG9uZSBvbmUgb25lIG9uZSE=";
    const TWO: &str = "dHdvIHR3byB0d28gdHdvIHR3byB0d28gdHdvIHR3byE=";

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again_and_a_broken_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, ONE).unwrap();
        let (keys, text) = load(Some(file.path())).unwrap();
        let endpoint = EndpointId::new(&ObjectName::new("shop", "chat"), 80, &"uid");
        let token = keys.load().issue(&endpoint, "scope", 0);
        let holds = |keys: &Keys| keys.load().read(&token, "scope", 0, None).is_some();
        let following = tokio::spawn(follow(file.path().to_owned(), text, keys.clone()));
        std::fs::write(&file, "garbage").unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert!(holds(&keys), "a broken file changes nothing");
        std::fs::write(&file, TWO).unwrap();
        tokio::time::sleep(LOOK * 3).await;
        assert!(!holds(&keys), "the new keys are in use");
        following.abort();
    }

    #[test]
    fn a_file_that_cannot_be_used_at_the_start_is_an_error_with_its_name() {
        let error = load(Some(Path::new("/nonexistent/keys"))).unwrap_err();
        assert!(format!("{error:#}").contains("--session-key-file /nonexistent/keys"), "{error:#}");
    }
}
