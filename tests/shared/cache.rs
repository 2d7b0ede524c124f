//! Where what is made once and kept lies: outside of the checkout.

use std::{env, path::PathBuf};

use aws_lc_rs::digest::Context;

/// The cache folder, as `tests/control-plane/build.sh` and the Makefile know it; an empty variable counts as not set.
pub(crate) fn folder() -> PathBuf {
    let from = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("SWITCHYARD_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("switchyard")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/switchyard")))
        .expect("SWITCHYARD_CACHE, XDG_CACHE_HOME or HOME is set")
}

/// The name of what follows from the hashed sources: the first 16 hexadecimal digits.
pub(crate) fn key(sources: Context) -> String {
    let hash = sources.finish();
    let (first, _) = hash.as_ref().split_first_chunk().expect("a digest has 8 bytes and more");
    format!("{:016x}", u64::from_be_bytes(*first))
}
