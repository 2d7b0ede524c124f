//! Real third-party clients against the real binary: `ws`, `sockjs-client` and `engine.io-client` from npm, Python's
//! `websockets`, and `fetch`, over http and https, to three backends.
//!
//! Needs Node with npm, and Python for one test; the packages are installed once into a cache folder
//! (`shared::toolbox`). A test is skipped if its language is missing, and fails if `CI` is set. Each client program
//! runs named checks and prints the result; it also runs without the proxy, to show whose failure it is.

mod bed;
#[path = "../shared/mod.rs"]
mod shared;

use bed::{Balancing, Bed, Client, Service};
use shared::toolbox::Toolbox;

#[test]
fn the_programs_agree_without_a_proxy() {
    let Some(tools) = Toolbox::or_skip() else { return };
    for (service, client) in [
        (Service::Echo, Client::Node("ws-client.js")),
        (Service::SockJs, Client::Node("sockjs-client.js")),
        (Service::EngineIo, Client::Node("engine-client.js")),
        (Service::Events, Client::Node("events-client.js")),
    ] {
        Bed::without_proxy(&tools, service).run(&tools, client).passes();
    }
}

#[test]
fn the_python_program_agrees_without_a_proxy() {
    let Some(tools) = Toolbox::with_python_or_skip() else { return };
    Bed::without_proxy(&tools, Service::Echo).run(&tools, Client::Python("websockets_client.py")).passes();
}

#[test]
fn npm_ws_clients_talk_through_ws_and_wss() {
    let Some(tools) = Toolbox::or_skip() else { return };
    Bed::start(&tools, &[Service::Echo], Balancing::Persistent).run(&tools, Client::Node("ws-client.js")).passes();
}

#[test]
fn python_websockets_clients_talk_through_ws_and_wss() {
    let Some(tools) = Toolbox::with_python_or_skip() else { return };
    let bed = Bed::start(&tools, &[Service::Echo], Balancing::Persistent);
    bed.run(&tools, Client::Python("websockets_client.py")).passes();
}

/// Old browsers fall back to plain HTTP: a session then consists of many requests, which must all reach one backend.
#[test]
fn sockjs_sessions_hold_on_every_transport() {
    let Some(tools) = Toolbox::or_skip() else { return };
    let bed = Bed::start(&tools, &[Service::SockJs], Balancing::Persistent);
    bed.run(&tools, Client::Node("sockjs-client.js")).passes();
    bed.has_no_complaints();
}

#[test]
fn engine_io_sessions_poll_and_then_upgrade() {
    let Some(tools) = Toolbox::or_skip() else { return };
    let bed = Bed::start(&tools, &[Service::EngineIo], Balancing::Persistent);
    bed.run(&tools, Client::Node("engine-client.js")).passes();
    bed.has_no_complaints();
}

/// The assumption of the test above: the session cookie keeps these sessions on their backend, not chance.
#[test]
fn engine_io_sessions_are_lost_without_persistence() {
    let Some(tools) = Toolbox::or_skip() else { return };
    let bed = Bed::start(&tools, &[Service::EngineIo], Balancing::RoundRobin);
    bed.run(&tools, Client::Node("engine-client.js")).fails();
    bed.complains_of("Session ID unknown");
}

/// A proxy must not close a connection because it looks idle: a socket, a long poll or a stream.
#[test]
fn idle_clients_stay_connected() {
    let Some(tools) = Toolbox::or_skip() else { return };
    let bed = Bed::start(&tools, &[Service::Echo, Service::SockJs, Service::EngineIo], Balancing::Persistent);
    bed.run(&tools, Client::Node("idle-client.js")).passes();
    bed.has_no_complaints();
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let Some(tools) = Toolbox::or_skip() else { return };
    let bed = Bed::start(&tools, &[Service::Events], Balancing::Persistent);
    bed.run(&tools, Client::Node("events-client.js")).passes();
    bed.has_no_complaints();
}
