//! The TLS record layer after a real handshake: with rustls as the client, with a client whose bytes are changed in
//! transit, and with one that has the keys but ignores the protocol.
#![no_main]

mod proxy;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<proxy::Step>)| {
    let (suite, steps) = input;
    proxy::run(suite, &steps);
});
