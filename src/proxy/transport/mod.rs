//! Connections as the rest of the proxy sees them: a [`stream`] in plaintext or over TLS, whose [`records`] are pure.

mod fault;
pub(crate) mod handshake;
pub(crate) mod records;
mod role;
pub(crate) mod stream;
