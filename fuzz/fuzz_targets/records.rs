//! The record layer of TLS behind a real handshake: with a client by rustls, with one whose bytes are changed on the
//! way, and with one that has the keys and keeps to no rules.
#![no_main]

mod proxy;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<proxy::Step>)| {
    let (suite, steps) = input;
    proxy::run(suite, &steps);
});
