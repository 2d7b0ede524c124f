//! RFC 6455 through the proxy: fuzzing clients get the same from an echo server through the proxy as without it, over
//! ws and wss.
//!
//! Needs Node and Python like the client tests, and is skipped or fails in the same way. The programs compare two runs,
//! so differences between servers (limits, codes) are not failures, but anything the proxy adds or loses is.

mod bed;
mod bridge;
#[path = "../shared/mod.rs"]
mod shared;

use bed::{Bed, Server};
use serde_json::json;
use shared::toolbox::Toolbox;

#[test]
fn autobahn_finds_python_websockets_as_it_is() {
    finds_the_server_as_it_is("autobahn.py", Server::Websockets);
}

#[test]
fn autobahn_finds_npm_ws_as_it_is() {
    finds_the_server_as_it_is("autobahn.py", Server::Ws);
}

#[test]
fn breaches_ends_and_random_streams_reach_python_websockets_as_they_are() {
    finds_the_server_as_it_is("wire.py", Server::Websockets);
}

#[test]
fn breaches_ends_and_random_streams_reach_npm_ws_as_they_are() {
    finds_the_server_as_it_is("wire.py", Server::Ws);
}

#[test]
fn each_side_sees_how_the_other_one_ends() {
    finds_the_server_as_it_is("ends.py", Server::Scripted);
}

#[test]
fn messages_of_any_size_arrive_whole() {
    let Some(tools) = Toolbox::with_python_or_skip() else { return };
    let bed = Bed::start(&tools, Server::Ws);
    bed.run(&tools, "messages.py", &json!({ "echo": bed.urls() })).passes();
}

#[test]
fn compression_is_agreed_on_end_to_end() {
    let Some(tools) = Toolbox::with_python_or_skip() else { return };
    let bed = Bed::start(&tools, Server::Raw);
    bed.run(&tools, "messages.py", &json!({ "raw": bed.urls() })).passes();
}

fn finds_the_server_as_it_is(program: &str, server: Server) {
    let Some(tools) = Toolbox::with_python_or_skip() else { return };
    let bed = Bed::start(&tools, server);
    bed.run(&tools, program, &bed.plan()).passes();
}
