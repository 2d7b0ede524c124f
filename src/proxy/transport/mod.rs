//! Connections as the rest of the proxy sees them: a [`stream`] in plaintext or over TLS, whose [`records`] are pure.

pub(crate) mod records;
pub(crate) mod stream;
