//! The most expensive request heads that a client can send, and the cost of each for a running program.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{
    process::START_DEADLINE,
    standalone::{Standalone, service},
};

const MAX_HEAD: usize = 64 * 1024;
const HANDSHAKE: &str = "Host: localhost\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// The source address in `--trusted-proxies`.
const TRUSTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ROUTE: &str = "---
apiVersion: switchyard.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: chat, namespace: shop}
spec:
  hostnames: [localhost]
  rules:
  - backendRefs: [{name: chat, port: 80}]
    sessionPersistence: {type: Cookie, cookie: {name: sticky}}
";

/// A head of the maximum size.
pub(crate) struct CostlyHead {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Whether it comes from a trusted proxy.
    pub(crate) is_trusted: bool,
}

/// An ordinary handshake of the maximum size, as the reference for the others.
pub(crate) fn plain() -> CostlyHead {
    let filler = |number| format!("X-Filler-{number}: {}\r\n", "x".repeat(6000));
    head("ten long fields", false, "/ws", "Upgrade: websocket\r\n", &(0..10).map(filler).collect::<Vec<_>>().concat())
}

/// A small head, for the cost of a connection and its request.
pub(crate) fn small() -> CostlyHead {
    head("small head", false, "/ws", "Upgrade: websocket\r\n", "")
}

/// Each targets a different loop.
pub(crate) fn costly() -> Vec<CostlyHead> {
    let field = |name: &'static str, field: &str, value: &str, is_trusted| {
        head(name, is_trusted, "/ws", "Upgrade: websocket\r\n", &filled(&format!("{field}: "), value, "\r\n"))
    };
    let path =
        |name: &'static str, piece: &str| head(name, false, &filled("/", piece, ""), "Upgrade: websocket\r\n", "");
    let fields = |count: usize, name: &str| {
        (0..count).map(|number| format!("{name}{number}: 1\r\n")).collect::<Vec<_>>().concat()
    };
    let options = filled("Connection: ", "z,", "\r\n");
    let forged = "sticky=AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJQ; ";
    vec![
        head(
            "30,000 Connection options, 88 fields",
            false,
            "/ws",
            "Upgrade: websocket\r\n",
            &(fields(88, "X-") + &options),
        ),
        head(
            "64 Connection options, 88 long names",
            false,
            "/ws",
            "Upgrade: websocket\r\n",
            &format!("Connection: {}z\r\n{}", "z,".repeat(62), fields(88, &"X-Long".repeat(110))),
        ),
        head("95 fields with long names", false, "/ws", "Upgrade: websocket\r\n", &fields(95, &"X-Long".repeat(110))),
        field("forged session cookies", "Cookie", forged, false),
        field("empty session cookies", "Cookie", "sticky=;", false),
        field("other cookies", "Cookie", "a;", false),
        field("X-Forwarded-For of a stranger", "X-Forwarded-For", "::1,", false),
        field("X-Forwarded-For of a trusted proxy", "X-Forwarded-For", "127.0.0.2,", true),
        field("commas in X-Forwarded-For", "X-Forwarded-For", ",", true),
        field("commas in X-Forwarded-Proto", "X-Forwarded-Proto", ",", true),
        field("commas in X-Forwarded-Host", "X-Forwarded-Host", ",", true),
        field("commas in Forwarded", "Forwarded", ",", true),
        field("semicolons in Forwarded", "Forwarded", ";", true),
        field("quotes in Forwarded", "Forwarded", "\"\\\",;", true),
        field("commas in Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol", ",", false),
        field("commas in Upgrade", "Upgrade", ",", false),
        field("commas in Accept", "Accept", ",", false),
        field("semicolons in a value", "X-A", ";", false),
        path("path of /", "/"),
        path("path of %25", "%25"),
        path("path of %2e", "%2e"),
        path("path of %41", "%41"),
        path("path of ;", ";"),
        path("path of a.", "a."),
        path("path of %", "%"),
        path("path of \"", "\""),
        head("plain request, commas in Accept", false, "/", "", &filled("Accept: ", ",", "\r\n")),
        head("plain request, ranges in Accept", false, "/", "", &filled("Accept: ", "a/b;q=0.1,", "\r\n")),
        head("refused request, ranges in Accept", false, "/a/../b", "", &filled("Accept: ", "a/b;q=0.1,", "\r\n")),
        head("refused path of /, then dots", false, &filled("/", "/", "/../b"), "", ""),
        head("refused path of %25, then dots", false, &filled("/", "%25", "/../b"), "", ""),
        head("plain request, 95 long names", false, "/", "", &fields(95, &"X-Long".repeat(110))),
        head("plain request, commas in TE", false, "/", "", &filled("TE: ", ",", "\r\n")),
    ]
}

/// A head of the maximum size: repetitions of `piece` between a start and an end.
fn filled(start: &str, piece: &str, end: &str) -> String {
    let room = MAX_HEAD - HANDSHAKE.len() - 1200;
    format!("{start}{}{end}", piece.repeat(room / piece.len()))
}

fn head(name: &'static str, is_trusted: bool, target: &str, upgrade: &str, more: &str) -> CostlyHead {
    let rest = if upgrade.is_empty() { "Host: localhost\r\n" } else { HANDSHAKE };
    let bytes = format!("GET {target} HTTP/1.1\r\n{rest}{more}{upgrade}\r\n").into_bytes();
    assert!(bytes.len() <= MAX_HEAD, "{name} has {} bytes", bytes.len());
    CostlyHead { name, bytes, is_trusted }
}

/// A running program whose serving thread is observed.
pub(crate) struct Watched {
    address: SocketAddr,
    /// The kernel's statistics of the thread.
    schedule: String,
    _program: Standalone,
}

impl Watched {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(thread::spawn(|| answer(stream)))));
        let trusted = format!("{TRUSTED}/32");
        let arguments = ["--threads=1", "--trusted-proxies", &trusted];
        let manifests = ROUTE.to_owned() + &service("chat", &[port.to_string()]);
        let program = Standalone::serving_with(&manifests, &arguments);
        let address = (Ipv4Addr::LOCALHOST, program.http.parse().expect("a port")).into();
        let schedule = serving_thread(program.id());
        Self { address, schedule, _program: program }
    }

    /// The CPU time of serving a head, including the kernel's: the minimum over some rounds.
    pub(crate) fn cost(&self, head: &CostlyHead, rounds: usize) -> Duration {
        (0..rounds).map(|_| self.once(head)).min().expect("there are rounds")
    }

    fn once(&self, head: &CostlyHead) -> Duration {
        let before = self.idle();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("sockets can be made");
        let source = if head.is_trusted { TRUSTED } else { Ipv4Addr::LOCALHOST };
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("all of 127.0.0.0/8 is loopback");
        socket.connect(&self.address.into()).expect("the program listens");
        let mut client = TcpStream::from(socket);
        client.write_all(&head.bytes).expect("the program reads");
        let mut answer = [0; 4096];
        assert!(client.read(&mut answer).expect("there is a response") > 0, "no response to {}", head.name);
        drop(client);
        self.idle().saturating_sub(before)
    }

    /// The thread's total CPU time, once it is waiting again: only then is the kernel's account complete.
    fn idle(&self) -> Duration {
        let mut last = self.ran();
        loop {
            thread::sleep(Duration::from_millis(2));
            let now = self.ran();
            if now == last {
                return Duration::from_nanos(now);
            }
            last = now;
        }
    }

    fn ran(&self) -> u64 {
        let schedule = fs::read_to_string(&self.schedule).expect("the thread exists");
        schedule.split(' ').next().and_then(|ran| ran.parse().ok()).expect("nanoseconds come first")
    }
}

/// The serving thread, which may have started without having its name yet.
fn serving_thread(process: u32) -> String {
    let end = Instant::now() + START_DEADLINE;
    let is_serving = |task: &String| fs::read_to_string(format!("{task}/comm")).is_ok_and(|name| name == "serve-0\n");
    loop {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the program runs").flatten();
        let mut tasks = tasks.map(|task| task.path().to_string_lossy().into_owned());
        if let Some(task) = tasks.find(is_serving) {
            return task + "/schedstat";
        }
        assert!(Instant::now() < end, "no thread serves");
        thread::yield_now();
    }
}

/// Answers a handshake or a plain request, and waits for the end.
fn answer(mut stream: TcpStream) {
    let (mut received, mut buffer) = (Vec::new(), vec![0; MAX_HEAD]);
    while !received.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => received.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let is_upgrade = received.windows(10).any(|window| window.eq_ignore_ascii_case(b"\r\nupgrade:"));
    let plain = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let _ = stream.write_all(if is_upgrade { SWITCHING } else { plain }.as_bytes());
    let _ = stream.read(&mut buffer);
}
