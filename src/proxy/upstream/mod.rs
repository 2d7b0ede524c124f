//! Requests to backends: dialling, the pool of connections, and the exchange on one of them.

pub(crate) mod dial;
pub(crate) mod exchange;
pub(crate) mod plain;
pub(crate) mod pool;
mod response_body;
pub(crate) mod restoring;
pub(crate) mod upgrade;
