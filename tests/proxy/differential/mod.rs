//! A head is read in two ways: whole, without hyper, and in pieces, with it. Thousands of mutated handshakes are sent
//! in both ways and must have the same outcome; and no backend may receive what a strict parser rejects, or fields that
//! only a proxy may send.

mod mutate;
mod strict;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRng, TestRunner};
use switchyard::{
    proxy::Settings,
    table::{Endpoint, HostPattern, PathPattern, RouteTable},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use self::strict::StrictHead;
use crate::support::*;

const CASES: u32 = 2500;

/// How a head is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// Whole, as the first on its connection.
    Whole,
    /// Whole, as the second.
    Second,
    /// In two pieces, the first of which is sent together with a preceding request.
    Cut(usize),
    /// In two pieces, as the first on its connection.
    FirstCut(usize),
}

/// The result of a head.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: Option<u16>,
    /// Whether the response announces the end of the connection.
    closes: bool,
    backend: Option<Reached>,
}

/// A request as an endpoint received it, with its fields sorted by name, as lines.
#[derive(Debug, PartialEq, Eq)]
struct Reached {
    endpoint: &'static str,
    head: Vec<String>,
}

/// A proxy with two rules, and the requests that their backends receive.
struct Bench {
    harness: Harness,
    received: UnboundedReceiver<(&'static str, Vec<u8>)>,
    token: String,
    is_trusted: bool,
}

impl Bench {
    async fn start(is_trusted: bool) -> Self {
        let (sender, received) = unbounded_channel();
        let (main, admin) = (backend("main", sender.clone()).await, backend("admin", sender).await);
        let trusted = if is_trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let settings = Settings {
            trusted_proxies: trusted,
            head_timeout: Duration::from_secs(2),
            continue_timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        let harness = Harness::start(two_rules(&main, &admin), settings);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let token = harness.keys.load().issue(&main.id, &persistence().scope, now);
        Self { harness, received, token, is_trusted }
    }

    /// Sends a head, and waits for the outcome.
    async fn outcome(&mut self, head: &[u8], sending: Sending) -> Result<Outcome, TestCaseError> {
        let mut client = self.harness.client().await;
        let before = get("/before", "");
        match sending {
            Sending::Whole => client.send(head).await,
            Sending::Second => {
                client.send(before).await;
                assert_eq!(answer(&mut client).await.0, Some(200));
                client.send(head).await;
            }
            Sending::Cut(at) => {
                client.send([before.as_bytes(), &head[..at]].concat()).await;
                assert_eq!(answer(&mut client).await.0, Some(200));
                client.send(&head[at..]).await;
            }
            Sending::FirstCut(at) => {
                client.send(&head[..at]).await;
                taken(&client.stream).await;
                client.send(&head[at..]).await;
            }
        }
        let (status, closes) = answer(&mut client).await;
        client.reset();
        Ok(Outcome { status, closes, backend: self.reached(head)? })
    }

    /// The request that reached a backend; it has been answered, so it has already arrived here.
    fn reached(&mut self, sent: &[u8]) -> Result<Option<Reached>, TestCaseError> {
        let mut reached = None;
        while let Ok((endpoint, head)) = self.received.try_recv() {
            if head.starts_with(b"GET /before ") {
                continue;
            }
            let fail = |why: String| TestCaseError::fail(format!("{why}: {}", String::from_utf8_lossy(&head)));
            let strict = StrictHead::parse(&head).map_err(fail)?;
            strict.check_folded(self.is_trusted).map_err(fail)?;
            if !is_first_line_of(sent, &strict) {
                return Err(fail("another target".into()));
            }
            let mut fields = strict.fields;
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            let lines = fields.iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii()));
            let first = format!("{} {}", strict.method, strict.target.escape_ascii());
            let head = std::iter::once(first).chain(lines).collect();
            if reached.replace(Reached { endpoint, head }).is_some() {
                return Err(fail("a second request".into()));
            }
        }
        Ok(reached)
    }
}

/// Everything goes to one endpoint, except `/admin`.
fn two_rules(main: &Arc<Endpoint>, admin: &Arc<Endpoint>) -> RouteTable {
    let mut table = RouteTable::default();
    for (prefix, endpoint) in [("/", main), ("/admin", admin)] {
        let mut rule = rule(std::slice::from_ref(endpoint));
        rule.policy.persistence = Some(persistence());
        table.claim(&HostPattern::parse(HOST), &PathPattern::prefix(prefix), Arc::new(rule));
    }
    table
}

/// A backend that answers requests, and reports them.
async fn backend(name: &'static str, received: UnboundedSender<(&'static str, Vec<u8>)>) -> Arc<Endpoint> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let received = received.clone();
            tokio::spawn(async move {
                while let Some(head) = read_head(&mut stream).await {
                    let (answer, is_last) = respond(&head);
                    let _ = received.send((name, head));
                    let _ = stream.write_all(answer.as_bytes()).await;
                    if is_last {
                        let _ = stream.shutdown().await;
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
    endpoint(name, address)
}

async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            head.truncate(end + 4);
            return Some(head);
        }
        if soon(stream.read_buf(&mut head)).await.is_ok_and(|count| count == 0) {
            return None;
        }
    }
}

/// The response to a request, and whether it is the last on its connection, as it is if a body or frames may follow.
fn respond(head: &[u8]) -> (String, bool) {
    let plain = |more| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{more}\r\n");
    let Ok(head) = StrictHead::parse(head) else { return (plain("Connection: close\r\n"), true) };
    let key = head.all("sec-websocket-key").first().copied().filter(|_| !head.all("upgrade").is_empty());
    let Some(key) = key else {
        let has_body = !head.all("content-length").is_empty() || !head.all("transfer-encoding").is_empty();
        return (plain(if has_body { "Connection: close\r\n" } else { "" }), has_body);
    };
    let guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    let accept = STANDARD.encode(aws_lc_rs::digest::digest(digest, &[key, guid].concat()));
    (switching("").replace(ACCEPT, &accept), true)
}

/// The status of the final response, and whether it announces the end of the connection, as a 101 does implicitly.
async fn answer(client: &mut Peer<TcpStream>) -> (Option<u16>, bool) {
    while let Some(head) = client.try_head().await {
        let status = head.status();
        if status >= 200 || status == 101 {
            let closes = status != 101 && head.all("connection").iter().any(|value| value.contains("close"));
            return (Some(status), closes);
        }
    }
    (None, true)
}

/// Whether a request has the method and the target that were sent: of an absolute form, the path and the query, without
/// the fragment.
fn is_first_line_of(sent: &[u8], head: &StrictHead) -> bool {
    let line = sent.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).find(|line| !line.is_empty());
    let mut parts = line.unwrap_or_default().split(|byte| *byte == b' ');
    let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let target = if target.first() == Some(&b'/') { target.to_vec() } else { from_path(target) };
    method == head.method.as_bytes() && target == head.target
}

fn from_path(absolute: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(absolute);
    let Some((_, rest)) = text.split_once("://") else { return absolute.to_vec() };
    let target = rest.find(['/', '?']).map_or("", |start| &rest[start..]);
    let slash = if target.starts_with('/') { "" } else { "/" };
    [slash, target].concat().into_bytes()
}

/// Waits until the peer of a connection has read everything that was sent to it: neither socket holds any of it.
async fn taken(client: &TcpStream) {
    let hex = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
    let (own, peer) = (hex(client.local_addr().unwrap()), hex(client.peer_addr().unwrap()));
    let holds = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, from, to, _, queues, ..] = columns[..] else { return false };
        let Some((to_send, to_read)) = queues.split_once(':') else { return false };
        let is_held = |queue: &str| !queue.trim_start_matches('0').is_empty();
        from.ends_with(&own) && to.ends_with(&peer) && is_held(to_send)
            || from.ends_with(&peer) && to.ends_with(&own) && is_held(to_read)
    };
    let is_idle = |sockets: &str| !sockets.lines().any(holds);
    soon(async {
        while !is_idle(&std::fs::read_to_string("/proc/self/net/tcp").unwrap()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The characters that hyper rejects in a target. The proxy looks for them only where a head certainly begins, which is
/// not so after another request in the same piece.
fn has_refused_target(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    lines.next().is_some_and(|line| line.iter().any(|byte| b"\"<>`".contains(byte)))
}

#[test]
fn mutated_handshakes_come_out_the_same_whichever_way_they_are_read() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut benches = runtime.block_on(async { [Bench::start(false).await, Bench::start(true).await] });
    let benches = std::cell::RefCell::new(&mut benches);
    let seed = std::env::var("DIFFERENTIAL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(17_u64);
    let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let algorithm = config.rng_algorithm;
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(algorithm, &bytes));
    let (count, reached) = (std::cell::Cell::new(0_usize), std::cell::Cell::new(0_usize));
    let result = runner.run(&mutate::heads(), |(head, cut)| {
        let number = count.replace(count.get() + 1);
        let bench = &mut benches.borrow_mut()[number % 2];
        let text = String::from_utf8_lossy(&head);
        let head =
            if text.contains(mutate::TOKEN) { text.replace(mutate::TOKEN, &bench.token).into_bytes() } else { head };
        let at = 1 + cut.index(head.len() - 1);
        let other = match number {
            number if number % 32 < 2 => Sending::FirstCut(at),
            _ if has_refused_target(&head) => Sending::Second,
            _ => Sending::Cut(at),
        };
        runtime.block_on(async {
            let whole = bench.outcome(&head, Sending::Whole).await?;
            reached.set(reached.get() + usize::from(whole.backend.is_some()));
            let again = bench.outcome(&head, other).await?;
            let sent = String::from_utf8_lossy(&head);
            proptest::prop_assert_eq!(&whole, &again, "{:?} of {:?}", other, sent);
            Ok(())
        })
    });
    if let Err(TestError::Fail(why, (head, _))) = &result {
        panic!("DIFFERENTIAL_SEED={seed}: {why}\n{:?}", String::from_utf8_lossy(head));
    }
    result.unwrap();
    assert!(reached.get() > usize::try_from(CASES / 4).unwrap(), "{} reach a backend", reached.get());
}
