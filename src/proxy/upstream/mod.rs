//! Requests on their way to backends: dialling, the pool of connections, and the exchange on one of them.

pub(crate) mod dial;
pub(crate) mod plain;
pub(crate) mod pool;
pub(crate) mod restoring;
pub(crate) mod upgrade;
