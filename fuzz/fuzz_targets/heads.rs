//! Request heads: parsed and rewritten line by line as in `proxy/http/codec.rs`, with a limit on the cost, and
//! a strict parser's verdict on the result.
#![no_main]

mod head;
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../src/choices/mod.rs"]
mod choices;
/// As in the package above, since what treats heads is visible in the proxy only.
#[allow(dead_code, unused_imports)]
mod proxy {
    #[rustfmt::skip]
    #[path = "../../../src/proxy/fields/mod.rs"]
    pub mod fields;
    #[path = "../request/mod.rs"]
    pub mod request;
}
#[allow(dead_code, unused_imports)]
#[rustfmt::skip]
#[path = "../../src/table/mod.rs"]
mod table;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (is_trusted, head) = head::expand(input);
    head::run(&head, is_trusted);
});
