//! As in the package above, because the record layer is visible only in the proxy.

#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../src/proxy/transport/records/peer.rs"]
mod peer;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../src/proxy/transport/fault.rs"]
mod fault;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../src/proxy/transport/records.rs"]
mod records;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../src/proxy/transport/role.rs"]
mod role;

mod session;

pub use session::{Step, run};

use records::Records;
