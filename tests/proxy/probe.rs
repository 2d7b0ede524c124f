//! `switchyard probe`, as used in an image without a shell.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, mpsc},
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_tungstenite::tungstenite::accept;

use crate::shared::certificates::Certificates;

/// Whether it succeeded, and its output.
fn probe(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_switchyard")).arg("probe").args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    (output.status.success(), said)
}

fn serving(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
    address
}

fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Gives this answer to every request, and reports what was asked.
fn answering(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let (sender, heads) = mpsc::channel();
    let address = serving(move |mut stream| {
        // The test may have ended.
        let _ = sender.send(head(&mut stream));
        stream.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
    });
    (address, heads)
}

#[test]
fn any_status_below_500_succeeds_by_default() {
    for (answer, is_fine) in [("200 OK", true), ("404 Not Found", true), ("503 Service Unavailable", false)] {
        let (address, _heads) = answering(answer);
        let (succeeded, said) = probe(&[&format!("http://{address}/")]);
        assert!(succeeded == is_fine && said.contains(answer) && said.contains(" ms"), "{said}");
    }
}

#[test]
fn only_the_expected_status_succeeds() {
    let (address, _heads) = answering("503 Service Unavailable");
    let url = format!("http://{address}/");
    assert!(probe(&[&url, "--expect-status=503"]).0);
    let (succeeded, said) = probe(&[&url, "--expect-status=200"]);
    assert!(!succeeded && said.contains("expected status 200, got 503 Service Unavailable"), "{said}");
}

#[test]
fn any_status_succeeds_with_any_status() {
    let (address, _heads) = answering("503 Service Unavailable");
    for scheme in ["http", "ws"] {
        let (succeeded, said) = probe(&[&format!("{scheme}://{address}/"), "--any-status"]);
        assert!(succeeded && said.contains("503 Service Unavailable"), "{said}");
    }
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(!probe(&[&format!("http://{refusing}/"), "--any-status"]).0, "no response is a failure");
}

#[test]
fn one_url_that_fails_is_a_failure_and_the_others_are_still_tried() {
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (address, _heads) = answering("308 Permanent Redirect\r\nLocation: https://chat.example.com/");
    let (succeeded, said) = probe(&[&format!("http://{refusing}/"), &format!("http://{address}/")]);
    assert!(!succeeded && said.contains(&format!("cannot connect to {refusing}")), "{said}");
    assert!(said.contains("308 Permanent Redirect to https://chat.example.com/ after"), "{said}");
}

#[test]
fn no_answer_in_time_is_a_failure() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (succeeded, said) = probe(&[&format!("http://{}/", silent.local_addr().unwrap()), "--timeout=100ms"]);
    assert!(!succeeded && said.contains("no response within --timeout"), "{said}");
}

#[test]
fn the_url_is_requested_wherever_the_connection_goes() {
    let (address, heads) = answering("200 OK");
    assert!(probe(&["http://chat.example.com/ws?x=1", &format!("--connect-to={address}")]).0);
    let head = heads.recv().unwrap();
    assert!(head.starts_with("GET /ws?x=1 HTTP/1.1\r\n") && head.contains("host: chat.example.com\r\n"), "{head}");
}

#[test]
fn a_websocket_has_to_switch_protocols_with_the_right_key() {
    let switching = serving(|stream| drop(accept(stream).unwrap()));
    let (succeeded, said) = probe(&[&format!("ws://{switching}/")]);
    assert!(succeeded && said.contains("101 Switching Protocols"), "{said}");
    let (plain, heads) = answering("200 OK");
    let (succeeded, said) = probe(&[&format!("ws://{plain}/")]);
    assert!(!succeeded && said.contains("expected status 101, got 200 OK"), "{said}");
    assert!(heads.recv().unwrap().contains("upgrade: websocket\r\n"));
    let (wrong, _heads) = answering(
        "101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong",
    );
    let (succeeded, said) = probe(&[&format!("ws://{wrong}/")]);
    assert!(!succeeded && said.contains("does not belong to the handshake"), "{said}");
}

#[test]
fn certificates_are_checked_unless_disabled() {
    let (certificates, others) = (Certificates::for_localhost(), Certificates::for_localhost());
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificates.chain.as_bytes()).unwrap()];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let address = serving(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        if !head(&mut stream).is_empty() {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
    });
    let (url, connect) = (format!("https://localhost:{}/", address.port()), format!("--connect-to={address}"));
    let folder = tempfile::tempdir().unwrap();
    let trusting = |authority: &str| {
        std::fs::write(folder.path().join("ca.crt"), authority).unwrap();
        let flag = format!("--ca-file={}", folder.path().join("ca.crt").display());
        probe(&[&url, &connect, &flag])
    };
    let (succeeded, said) = trusting(&certificates.authority);
    assert!(succeeded && said.contains("204 No Content"), "{said}");
    let (succeeded, said) = trusting(&format!("\u{feff}{}", certificates.authority));
    assert!(succeeded, "a byte-order mark is ignored: {said}");
    let (succeeded, said) = trusting(&others.authority);
    assert!(!succeeded && said.contains("TLS handshake failed: ") && said.contains("certificate"), "{said}");
    let (succeeded, said) = trusting("");
    assert!(!succeeded && said.contains("contains no certificate"), "{said}");
    let (succeeded, said) = probe(&[&url, &connect, "--insecure"]);
    assert!(succeeded, "{said}");
}
