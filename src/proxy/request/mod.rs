//! What happens to every request, however it arrived. Nothing here does IO.

pub(crate) mod account;
pub(crate) mod admitted;
pub(crate) mod check;
pub(crate) mod forwarded;
pub(crate) mod handshake;
pub(crate) mod hop_by_hop;
pub(crate) mod match_request;
pub(crate) mod peer;
pub(crate) mod refusal;
pub(crate) mod retarget;
pub(crate) mod session;
