//! HTTP/1.1 with clients: the [`codec`] for a handshake that arrives whole, and hyper ([`connection`], [`service`]) for
//! everything else.

mod client_io;
mod codec;
pub(crate) mod connection;
mod head_start;
mod incoming;
mod interim;
mod reply;
mod respond;
mod service;
