//! The admin port with clients that hold on to it: whatever they do, probes get a response.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use switchyard::{
    admin::{Admin, AdminLimits, Readiness},
    source::Report,
};

use crate::shared::plain;

/// The size of a response that no socket accepts as a whole.
const LARGE: usize = 8 << 20;

/// An admin port with metrics of any size, which counts the renderings.
struct Port {
    address: SocketAddr,
    renderings: Arc<AtomicUsize>,
}

impl Port {
    fn new(size: usize, limits: AdminLimits) -> Self {
        let renderings = Arc::<AtomicUsize>::default();
        let counted = renderings.clone();
        let metrics = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            "m".repeat(size)
        });
        Self::with(metrics, renderings, limits)
    }

    fn with(metrics: Arc<dyn Fn() -> String + Send + Sync>, renderings: Arc<AtomicUsize>, limits: AdminLimits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let admin = Admin {
            ready: Arc::new(Readiness::default()),
            metrics,
            reports: tokio::sync::watch::channel(Report::default()).1,
            file_problems: Arc::new(Vec::new),
            tunnels: Arc::new(|| Box::new(std::iter::empty())),
            tokens: None,
        };
        admin.start(listener, limits).unwrap();
        Self { address, renderings }
    }

    /// A connection on which this text has been sent.
    fn begin(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn is_alive(&self) -> bool {
        plain::get(self.address, "localhost", "/livez", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }
}

fn limits() -> AdminLimits {
    // Only a limit that a test changes can end a connection.
    let never = Duration::from_secs(3600);
    AdminLimits { head: never, exchange: never, ..AdminLimits::default() }
}

/// Reads to the end, which is a reset if the server had to cut the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn heads_that_never_end_take_a_few_connections_and_keep_no_probe_out() {
    let port = Port::new(1, limits());
    let half_sent: Vec<_> = (0..300).map(|_| port.begin("GET /livez HTTP/1.1\r\nHost: local")).collect();
    for _ in 0..3 {
        assert!(port.is_alive());
    }
    // All but the maximum number of connections, less one for a probe, were closed without a response.
    for stream in half_sent.into_iter().take(300 - 64) {
        assert_eq!(rest(stream), b"");
    }
}

#[test]
fn clients_that_never_read_share_a_few_renderings_and_keep_no_probe_out() {
    let port = Port::new(LARGE, limits());
    let unread: Vec<_> = (0..300).map(|_| port.begin(SCRAPE)).collect();
    for _ in 0..3 {
        assert!(port.is_alive());
    }
    // The last ones are still connected, and get the whole response once they read.
    let last = unread.into_iter().next_back().unwrap();
    let answer = rest(last);
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > LARGE, "{} bytes", answer.len());
    // A client that is shut out makes room for another rendering, but only once nobody reads its rendering any more.
    let renderings = port.renderings.load(Ordering::Relaxed);
    assert!(renderings < 150, "{renderings} renderings of 300 requests");
}

#[test]
fn as_many_clients_as_there_may_be_hold_no_more_than_the_limit_of_unread_bytes() {
    let port = Port::new(LARGE, limits());
    let unread: Vec<_> = (0..60).map(|_| port.begin(SCRAPE)).collect();
    for mut stream in unread {
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        // Stays open until the process ends, and is never read.
        std::mem::forget(stream);
    }
    // 16 MiB may be unread; after that, one more rendering is made.
    assert!(port.renderings.load(Ordering::Relaxed) <= 3);
    assert!(port.is_alive());
}

#[test]
fn a_probe_does_not_wait_for_a_rendering() {
    let (begun, begins) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let (begun, gone) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(gone));
    let metrics = Arc::new(move || {
        begun.lock().unwrap().send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        "slow".to_owned()
    });
    let port = Port::with(metrics, Arc::default(), limits());
    let scrape = port.begin(SCRAPE);
    begins.recv().unwrap();
    for _ in 0..10 {
        assert!(port.is_alive());
    }
    go.send(()).unwrap();
    assert!(rest(scrape).ends_with(b"\r\n\r\nslow"));
}

#[test]
fn a_head_has_a_deadline() {
    let port = Port::new(1, AdminLimits { head: Duration::from_millis(50), ..limits() });
    let answer = rest(port.begin("GET /livez HTTP/1.1\r\nHost: local"));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert!(rest(port.begin("")).is_empty());
}

#[test]
fn a_client_that_does_not_read_is_cut_off_at_the_end_of_the_exchange() {
    let exchange = Duration::from_millis(200);
    let mut head = [0; 12];
    // No second rendering is allowed before the first is freed, which happens when its only reader's connection ends.
    let port = Port::new(LARGE, AdminLimits { exchange, unread: 0, ..limits() });
    let first = port.begin(SCRAPE);
    let mut renderings = 0;
    while renderings < 2 {
        let mut next = port.begin(SCRAPE);
        let _ = next.read_exact(&mut head);
        renderings = port.renderings.load(Ordering::Relaxed);
    }
    assert!(rest(first).len() < LARGE);
}

#[test]
fn a_connection_serves_one_request() {
    let port = Port::new(1, limits());
    let answer = rest(
        port.begin("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    );
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[test]
fn a_page_of_another_site_sees_no_metrics_through_a_browser_on_this_machine() {
    let port = Port::new(1, limits());
    let status = |host: &str| plain::get(port.address, host, "/metrics", "").unwrap()[..12].to_owned();
    for host in ["localhost", "127.0.0.1:9090", "[::1]:9090", "10.0.0.7:9090"] {
        assert_eq!(status(host), "HTTP/1.1 200", "{host}");
    }
    for host in ["evil.example", "evil.example:9090", "localhost.evil.example"] {
        assert_eq!(status(host), "HTTP/1.1 403", "{host}");
    }
    let probe = plain::get(port.address, "evil.example", "/livez", "").unwrap();
    assert!(probe.starts_with("HTTP/1.1 200 "), "a probe may have any host");
}
