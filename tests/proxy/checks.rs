//! Refused requests, and their responses.

use std::{sync::Arc, time::Duration};

use switchyard::{
    proxy::Settings,
    table::{HostPattern, InsecurePolicy, NonUpgrade, ObjectName, RouteTable},
};

use crate::support::*;

/// A proxy whose backend must not be contacted.
async fn unreached() -> Harness {
    Harness::with_rule(rule(&[endpoint("none", refusing().await)]))
}

/// The status of the response, and whether the connection is closed after it.
async fn refused(harness: &Harness, request: &str) -> (u16, bool) {
    let (mut client, head) = harness.ask(request).await;
    client.body(&head).await;
    let closes = head.field("connection").is_some_and(|value| value.contains("close"));
    if closes {
        assert_eq!(client.rest().await, "", "nothing follows the response");
    }
    (head.status(), closes)
}

#[tokio::test]
async fn heads_without_one_good_host_are_400() {
    let harness = unreached().await;
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: user@a\r\n", "Host: \r\n", "Host: a:99999\r\n"]
    {
        let (status, _) = refused(&harness, &format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(status, 400, "{fields}");
    }
}

#[tokio::test]
async fn ambiguous_paths_are_400() {
    let harness = unreached().await;
    for path in ["/a/../b", "/%2e%2E/b", "/a%2Fb", "/a%5cb", "/a%00"] {
        assert_eq!(refused(&harness, &get(path, "")).await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn what_could_smuggle_a_request_is_refused_and_closed() {
    let harness = unreached().await;
    let cases = [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        ("Content-Length: 1, 2\r\n", 400),
        ("Content-Length: +1\r\n", 400),
        ("Content-Length: x\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\n", 501),
        ("Transfer-Encoding: identity\r\n", 501),
        ("Transfer-Encoding : chunked\r\n", 400),
    ];
    for (fields, status) in cases {
        let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n");
        assert_eq!(refused(&harness, &request).await, (status, true), "{fields}");
    }
}

#[tokio::test]
async fn a_length_beside_chunked_is_not_passed_on_and_the_connection_closes() {
    for fields in
        ["Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"]
    {
        let backend = RawBackend::bind().await;
        let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
        let mut client = harness.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n2\r\nhi\r\n0\r\n\r\n")).await;
        let mut peer = backend.accept().await;
        let asked = peer.head().await;
        assert_eq!((asked.field("content-length"), asked.field("transfer-encoding")), (None, Some("chunked")));
        peer.expect("2\r\nhi\r\n0\r\n\r\n").await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let head = client.head().await;
        assert_eq!(head.field("connection"), Some("close"));
        assert_eq!(client.rest().await, "ok");
    }
}

#[tokio::test]
async fn faulty_handshakes_get_the_reason() {
    let harness = unreached().await;
    let good = handshake("/ws", "");
    let cases = [
        (good.replace("GET", "PUT"), 405, "GET"),
        (good.replace("Upgrade: websocket\r\n", ""), 426, "Upgrade"),
        (good.replace("Connection: Upgrade\r\n", ""), 426, "Connection"),
        (good.replace("Version: 13", "Version: 8"), 426, "Version must be 13"),
        (good.replace(KEY, "short"), 400, "Sec-WebSocket-Key"),
        (good.replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""), 400, "Sec-WebSocket-Key"),
        (handshake("/ws", "Content-Length: 5\r\n"), 400, "body"),
        (handshake("/ws", "Transfer-Encoding: chunked\r\n"), 400, "body"),
    ];
    for (request, status, word) in cases {
        let (mut client, head) = harness.ask(&request).await;
        let body = client.body(&head).await;
        assert_eq!(head.status(), status, "{request}");
        assert!(body.contains(word), "{body}");
        if status == 426 {
            assert_eq!((head.field("upgrade"), head.field("connection")), (Some("websocket"), Some("Upgrade")));
        }
        if word == "Version must be 13" {
            assert_eq!(head.field("sec-websocket-version"), Some("13"));
        }
        if word == "body" {
            assert_eq!(client.rest().await, "", "closed, so that no late body is read as frames");
        }
    }
}

#[tokio::test]
async fn plain_requests_at_a_rule_for_upgrades_only_are_426() {
    let mut rule = rule(&[endpoint("none", refusing().await)]);
    rule.policy.non_upgrade = NonUpgrade::Reject;
    let harness = Harness::with_rule(rule);
    let (mut client, head) = harness.ask(&get("/", "")).await;
    assert_eq!((head.status(), head.field("upgrade")), (426, Some("websocket")));
    assert!(client.body(&head).await.contains("proxy or CDN"));
}

#[tokio::test]
async fn unknown_hosts_and_paths_are_404_without_a_hint() {
    let harness = unreached().await;
    let mut answers = Vec::new();
    for request in [get("/", "").replace(HOST, "other.example.com"), get("/", "").replace(HOST, "localhost")] {
        let (mut client, head) = harness.ask(&request).await;
        assert_eq!(head.status(), 404);
        answers.push(client.body(&head).await);
    }
    assert_eq!(answers[0], answers[1]);
    let (mut client, head) = harness.ask(&get("/", "Accept: application/json\r\n").replace(HOST, "x")).await;
    assert_eq!(head.field("content-type"), Some("application/json"));
    assert_eq!(client.body(&head).await, "{\"error\":\"no route matches\"}\n");
    assert!(harness.counted(r#"requests_total{namespace="",route="",code="404"} 3"#));
}

#[tokio::test]
async fn faults_of_the_configuration_are_503_and_state_the_cause() {
    let mut broken = rule(&[]);
    broken.fault = Some("filters are not supported".into());
    let mut table = table(broken);
    table.claim_unreadable(&HostPattern::parse("b.example.com"), ObjectName::new("shop", "broken").into());
    let harness = Harness::with_table(table);
    for (host, cause) in
        [(HOST, "the rule for this request is not valid"), ("b.example.com", "the route for this host")]
    {
        let (mut client, head) = harness.ask(&get("/", "").replace(HOST, host)).await;
        assert_eq!(head.status(), 503);
        assert!(client.body(&head).await.contains(cause));
    }
    harness.table.publish(crate::support::table(rule(&[])).into());
    let (mut client, head) = harness.ask(&get("/", "")).await;
    assert_eq!(head.status(), 503);
    assert!(client.body(&head).await.contains("no endpoint is ready"));
}

#[tokio::test]
async fn heads_that_are_too_large_are_431_and_targets_414() {
    let harness = unreached().await;
    let many = |count: usize| "X: 1\r\n".repeat(count - 1);
    assert_eq!(refused(&harness, &get("/", &many(101))).await, (431, true));
    assert_eq!(refused(&harness, &get("/", &many(100))).await, (503, false));
    let large = |size: usize| format!("X: {}\r\n", "x".repeat(size));
    assert_eq!(refused(&harness, &get("/", &large(66_000))).await, (431, true));
    assert_eq!(refused(&harness, &get("/", &large(70_000))).await, (431, true));
    assert_eq!(refused(&harness, &get("/", &large(200_000))).await, (431, true));
    assert_eq!(refused(&harness, &get("/", &large(65_000))).await, (503, false));
    assert_eq!(refused(&harness, &get(&format!("/{}", "a".repeat(66_000)), "")).await, (414, true));
    assert!(harness.counted(r#"requests_total{namespace="",route="",code="431"} 4"#));
}

#[tokio::test]
async fn connect_and_other_protocols_are_refused() {
    let harness = unreached().await;
    assert_eq!(refused(&harness, &format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.0, 501);
    assert_eq!(refused(&harness, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, (505, true));
    assert_eq!(refused(&harness, "nonsense\r\n\r\n").await, (400, true));
}

#[tokio::test]
async fn the_authority_of_the_target_wins_over_host() {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.endpoint("a")]));
    let mut client = harness.client().await;
    client.send(format!("GET http://{HOST}/x?y HTTP/1.1\r\nHost: other.example.com\r\n\r\n")).await;
    let (_peer, asked) = backend.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!((asked.first(), asked.field("host")), ("GET /x?y HTTP/1.1", Some(HOST)));
    assert_eq!(client.head().await.status(), 204);
}

fn with_policy(policy: InsecurePolicy, rule: switchyard::table::Rule) -> RouteTable {
    let mut table = table(rule);
    table.set_tls(&HostPattern::parse(HOST), host_tls(Err("no Secret".into()), policy));
    table
}

#[tokio::test]
async fn plaintext_requests_follow_the_policy_of_the_host() {
    let settings = Settings { public_https_port: Some(8443), ..Settings::default() };
    let redirect = Harness::start(with_policy(InsecurePolicy::Redirect, rule(&[])), settings);
    let location = async |request: String| {
        let (_, head) = redirect.ask(&request).await;
        (head.status(), head.field("location").unwrap_or_default().to_owned())
    };
    let plain = location(get("/a?b=c", "").replace(HOST, "Chat.example.com:80")).await;
    assert_eq!(plain, (308, "https://Chat.example.com:8443/a?b=c".to_owned()));
    let upgrade = location(handshake("/ws", "")).await;
    assert_eq!(upgrade, (308, format!("wss://{HOST}:8443/ws")));
    assert_eq!(location(get("/", "X-Forwarded-Proto: https\r\n")).await.0, 308, "an untrusted peer is not believed");
    let deny = Harness::with_table(with_policy(InsecurePolicy::Deny, rule(&[])));
    assert_eq!(deny.ask(&get("/", "")).await.1.status(), 403);
    let allow = Harness::with_table(with_policy(InsecurePolicy::Allow, rule(&[])));
    assert_eq!(allow.ask(&get("/", "")).await.1.status(), 503, "routed, to no endpoint");
}

#[tokio::test]
async fn the_proto_of_a_trusted_proxy_makes_a_request_secure_and_is_forwarded() {
    let backend = RawBackend::bind().await;
    let settings = Settings { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..Settings::default() };
    let harness = Harness::start(with_policy(InsecurePolicy::Deny, rule(&[backend.endpoint("a")])), settings);
    let mut client = harness.client().await;
    client.send(get("/", "X-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\n")).await;
    let (_peer, asked) = backend.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(asked.field("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(asked.field("x-forwarded-proto"), Some("https"));
    assert_eq!(client.head().await.status(), 204);
}

#[tokio::test]
async fn slow_heads_get_408_and_idle_connections_close_in_silence() {
    let settings = Settings {
        head_timeout: Duration::from_millis(50),
        keep_alive_timeout: Duration::from_millis(150),
        ..Settings::default()
    };
    let served = RawBackend::bind().await.serve(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into());
    let harness = Harness::start(table(rule(&[endpoint("a", served.address)])), settings);
    let mut slow = harness.client().await;
    slow.send("GET / HTTP/1.1\r\nHost").await;
    assert_eq!(slow.head().await.status(), 408);
    let mut silent = harness.client().await;
    assert_eq!(silent.rest().await, "");
    let (mut idle, head) = harness.ask(&get("/", "")).await;
    let since = std::time::Instant::now();
    assert_eq!(idle.body(&head).await, "ok");
    assert_eq!(idle.rest().await, "");
    assert!(since.elapsed() >= Duration::from_millis(120), "the limit for heads does not apply to idle connections");
}

#[tokio::test]
async fn an_error_answer_survives_what_the_client_still_sends() {
    let harness = Arc::new(unreached().await);
    let mut client = harness.client().await;
    let body = "x".repeat(100_000);
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: gzip\r\n\r\n{body}")).await;
    assert_eq!(client.head().await.status(), 501);
}

/// The kernel's timer for the connection between these two loopback ports, from the first one's point of view.
fn kernel_timer(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = format!(" 0100007F:{local:04X} 0100007F:{remote:04X} ");
    let line = table.lines().find(|line| line.contains(&ends))?;
    line.split_whitespace().nth(5).map(|timer| timer[..2].to_owned())
}

#[tokio::test]
async fn the_kernel_probes_silent_clients() {
    let harness = Harness::with_table(RouteTable::default());
    let (client, _) = harness.ask(&get("/", "")).await;
    let port = client.stream.local_addr().unwrap().port();
    // Another timer may run first, for a delayed acknowledgement; 02 is the keepalive timer.
    soon(async {
        while kernel_timer(harness.http.port(), port).as_deref() != Some("02") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
