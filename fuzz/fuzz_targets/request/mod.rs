//! What the proxy does to every request, as far as it needs no connection.

#[rustfmt::skip]
#[path = "../../../src/proxy/request/check.rs"]
pub mod check;
#[rustfmt::skip]
#[path = "../../../src/proxy/request/forwarded.rs"]
pub mod forwarded;
#[rustfmt::skip]
#[path = "../../../src/proxy/request/handshake.rs"]
pub mod handshake;
#[rustfmt::skip]
#[path = "../../../src/proxy/request/hop_by_hop.rs"]
pub mod hop_by_hop;
#[rustfmt::skip]
#[path = "../../../src/proxy/request/refusal.rs"]
pub mod refusal;
#[rustfmt::skip]
#[path = "../../../src/proxy/request/session.rs"]
pub mod session;
