//! The cache for build results, outside the checkout.

use std::{env, path::PathBuf};

use aws_lc_rs::digest::Context;

/// The cache folder, as in `tests/control-plane/build.sh` and the Makefile; an empty variable counts as not set.
pub(crate) fn folder() -> PathBuf {
    let from = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("SWITCHYARD_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("switchyard")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/switchyard")))
        .expect("SWITCHYARD_CACHE, XDG_CACHE_HOME or HOME is set")
}

/// A name derived from the hash of sources: the first 16 hexadecimal digits.
pub(crate) fn key(sources: Context) -> String {
    let hash = sources.finish();
    let (first, _) = hash.as_ref().split_first_chunk().expect("a digest has at least 8 bytes");
    format!("{:016x}", u64::from_be_bytes(*first))
}
