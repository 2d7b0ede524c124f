//! What real clients and backends send, and some proxies get wrong: each case is from a public report about a proxy.

use std::time::Duration;

use switchyard::{
    proxy::{ProtectedFields, Settings},
    table::{EscapedSlashes, HostPattern, ObjectName, PathPattern, RouteTable, WeightedBackend},
};

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy in front of one backend, for all hosts.
async fn for_any_host() -> (RawBackend, Harness) {
    let backend = RawBackend::bind().await;
    let mut table = RouteTable::default();
    table.claim(&HostPattern::Any, &PathPattern::prefix("/"), rule(&[backend.own_endpoint()]).into());
    (backend, Harness::with_table(table))
}

async fn one_backend() -> (RawBackend, Harness) {
    let backend = RawBackend::bind().await;
    let harness = Harness::with_rule(rule(&[backend.own_endpoint()]));
    (backend, harness)
}

/// Clients that use both ways through the proxy's code: with the first head of a connection, and with a later one.
async fn clients(harness: &Harness, backend: &RawBackend) -> [Peer<tokio::net::TcpStream>; 2] {
    let mut later = harness.client().await;
    later.send(get("/before", "")).await;
    let (_peer, _) = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    assert_eq!(later.head().await.status(), 200);
    [harness.client().await, later]
}

#[tokio::test]
async fn keys_with_unused_bits_open_sockets() {
    // The key of RFC 6455 §4.1, and the matching accept.
    let (key, accept) = ("AQIDBAUGBwgJCgsMDQ4PEC==", "OfS0wDaT5NoxF2gqm7Zj2YtetzM=");
    let (backend, harness) = one_backend().await;
    for mut client in clients(&harness, &backend).await {
        client.send(handshake("/ws", "").replace(KEY, key)).await;
        let (_peer, asked) = backend.answer(&switching("").replace(ACCEPT, accept)).await;
        assert_eq!(asked.field("sec-websocket-key"), Some(key));
        let head = client.head().await;
        assert_eq!((head.status(), head.field("sec-websocket-accept")), (101, Some(accept)));
    }
}

#[tokio::test]
async fn repeated_lengths_of_a_response_are_one_also_without_a_body() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    // hyper omits the length of a 304, where it is optional (RFC 9110 §15.4.5).
    for (method, status, length) in [("HEAD", 200, Some("5")), ("GET", 304, None)] {
        client.send(get("/", "").replace("GET", method)).await;
        let lengths = "Content-Length: 5\r\n".repeat(2);
        let (_peer, _) = backend.answer(&format!("HTTP/1.1 {status} X\r\n{lengths}Connection: close\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.field("content-length")), (status, length));
    }
}

#[tokio::test]
async fn malformed_lengths_of_a_response_are_502() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    for method in ["HEAD", "GET"] {
        for length in ["x", "-5", "5, 6", "+5"] {
            client.send(get("/", "").replace("GET", method)).await;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let (_peer, _) = backend.answer(&answer).await;
            let head = client.head().await;
            assert_eq!(head.status(), 502, "{method} {length}");
            if method == "GET" {
                client.body(&head).await;
            }
        }
    }
}

#[tokio::test]
async fn interim_responses_come_before_the_one_they_announce() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let (mut peer, _) =
        backend.answer("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: 1\r\n\r\n").await;
    let hints = client.head().await;
    assert_eq!((hints.status(), hints.field("link")), (103, Some("</a.css>")));
    assert_eq!((hints.field("connection"), hints.field("x")), (None, None), "they end at this hop");
    peer.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n").await;
    peer.send(OK).await;
    for status in [102, 103, 200] {
        assert_eq!(client.head().await.status(), status);
    }
    client.expect("ok").await;
    client.send(get("/next", "")).await;
    peer.head().await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200, "the connection is still usable");
}

#[tokio::test]
async fn interim_responses_are_not_for_old_clients() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    client.send(get("/", "").replace("HTTP/1.1", "HTTP/1.0")).await;
    let (_peer, _) = backend.answer(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn an_interim_response_does_not_disturb_a_body_that_waits_for_its_100() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    client.send(format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")).await;
    let (mut peer, _) = backend.answer("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 103);
    assert_eq!(client.head().await.status(), 100);
    client.send("body").await;
    peer.expect("body").await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn equivalent_paths_go_to_the_same_rule_and_are_forwarded_as_sent() {
    let (admin, public) = (RawBackend::bind().await, RawBackend::bind().await);
    let mut table = table(rule(&[public.own_endpoint()]));
    let host = HostPattern::parse(HOST);
    table.claim(&host, &PathPattern::prefix("/admin"), rule(&[admin.own_endpoint()]).into());
    let harness = Harness::with_table(table);
    for path in ["/admin", "/%61dmin", "//admin", "/%61%64%6D%69%6e//x?y=//%61"] {
        for mut client in clients(&harness, &public).await {
            client.send(handshake(path, "")).await;
            let (_peer, asked) = admin.answer(&switching("")).await;
            assert_eq!(asked.first(), format!("GET {path} HTTP/1.1"));
            assert_eq!(client.head().await.status(), 101);
        }
    }
}

#[tokio::test]
async fn dot_segments_do_not_leave_a_prefix_in_any_encoding() {
    let (_backend, harness) = one_backend().await;
    for path in ["/pub/..;/admin", "/pub/%2e%2e;/admin", "/pub/%252e%252e/admin", "/pub/%c0%ae%c0%ae/admin"] {
        assert_eq!(harness.ask(&get(path, "")).await.1.status(), 400, "{path}");
        assert_eq!(harness.ask(&handshake(path, "")).await.1.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn escaped_slashes_are_kept_where_the_rule_says_so() {
    let backend = RawBackend::bind().await;
    let mut rule = rule(&[backend.own_endpoint()]);
    let reject = Harness::with_rule(rule.clone());
    rule.policy.escaped_slashes = EscapedSlashes::Keep;
    let keep = Harness::with_rule(rule);
    let path = "/cool/https%3A%2F%2Foffice.example.com/ws%5c?x=%2F";
    for request in [get(path, ""), handshake(path, "")] {
        assert_eq!(reject.ask(&request).await.1.status(), 400);
        assert_eq!(keep.ask(&request.replace("/ws", "%2f..%2Fws")).await.1.status(), 400, "dot segments get 400");
    }
    for mut client in clients(&keep, &backend).await {
        client.send(handshake(path, "")).await;
        let (_peer, asked) = backend.answer(&switching("")).await;
        assert_eq!(asked.first(), format!("GET {path} HTTP/1.1"));
        assert_eq!(client.head().await.status(), 101);
    }
}

const CLAIMS: [&str; 14] = [
    "X-Real-IP",
    "X_Real_IP",
    "X_Forwarded_For",
    "X-Forwarded_For",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "True-Client-IP",
    "Front-End-Https",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Team",
    "X.Team",
];

fn claims() -> String {
    CLAIMS.map(|name| format!("{name}: evil\r\n")).concat()
}

#[tokio::test]
async fn untrusted_clients_cannot_send_fields_that_backends_trust() {
    let backend = RawBackend::bind().await;
    let protected_fields = ProtectedFields::with(["x-team".to_owned()]);
    let settings = Settings { protected_fields, ..Settings::default() };
    let harness = Harness::start(table(rule(&[backend.own_endpoint()])), settings);
    for request in [get("/", &claims()), handshake("/", &claims())] {
        for mut client in clients(&harness, &backend).await {
            client.send(&request).await;
            let (_peer, asked) =
                backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            assert!(!asked.0.contains("evil"), "{}", asked.0);
            assert_eq!(asked.field("x-real-ip"), Some("127.0.0.1"));
        }
    }
}

#[tokio::test]
async fn such_fields_of_trusted_proxies_stay() {
    let backend = RawBackend::bind().await;
    let settings = Settings { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..Settings::default() };
    let harness = Harness::start(table(rule(&[backend.own_endpoint()])), settings);
    let (mut client, more) = (harness.client().await, "X-Forwarded-For: 203.0.113.9, 192.0.2.7:4711\r\n");
    client.send(get("/", more)).await;
    let (mut peer, asked) = backend.answer(OK).await;
    assert_eq!(asked.field("x-real-ip"), Some("192.0.2.7"), "the client's address, as seen by the trusted proxy");
    assert_eq!(client.head().await.status(), 200);
    client.send(get("/", "X-Real-IP: 203.0.113.9\r\nX-Forwarded-Ssl: on\r\nX_Real_IP: evil\r\n")).await;
    let asked = peer.head().await;
    assert_eq!((asked.field("x-real-ip"), asked.field("x-forwarded-ssl")), (Some("203.0.113.9"), Some("on")));
    assert_eq!(asked.field("x_real_ip"), None, "a proxy forwards it without noticing");
}

#[tokio::test]
async fn trailers_bring_nothing_in_that_fields_could_not() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n")).await;
    client.send("Trailer: X-Sum, X-Real-IP, X-Forwarded-For\r\n\r\n2\r\nhi\r\n").await;
    client.send("0\r\nX-Sum: 1\r\nX-Real-IP: evil\r\nX-Forwarded-For: evil\r\n\r\n").await;
    let mut peer = backend.accept().await;
    peer.head().await;
    peer.expect("2\r\nhi\r\n0\r\n").await;
    let trailers = peer.bytes("X-Sum: 1\r\n\r\n".len()).await;
    assert_eq!(String::from_utf8(trailers).unwrap().to_ascii_lowercase(), "x-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn a_connection_that_a_client_has_authenticated_is_not_shared() {
    for challenge in ["NTLM", "Negotiate", "Basic realm=\"a, b\", ntlm TlRMTVNTUAAC"] {
        let (backend, harness) = one_backend().await;
        let (mut first, mut second) = (harness.client().await, harness.client().await);
        first.send(get("/", "")).await;
        let answer = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n");
        let (mut authenticated, _) = backend.answer(&answer).await;
        assert_eq!(first.head().await.status(), 401);
        second.send(get("/second", "")).await;
        let (mut other, asked) = backend.answer(OK).await;
        assert_eq!(asked.first(), "GET /second HTTP/1.1", "on its own connection");
        assert_eq!(second.head().await.status(), 200);
        for round in 0..3 {
            first.send(get("/first", &format!("Authorization: NTLM {round}\r\n"))).await;
            assert_eq!(authenticated.head().await.first(), "GET /first HTTP/1.1", "the same connection again");
            authenticated.send(OK).await;
            first.expect(&OK[..15]).await;
            first.head().await;
            first.expect("ok").await;
        }
        drop(first);
        assert_eq!(authenticated.rest().await, "", "it ends together with the client's");
        second.expect("ok").await;
        second.send(get("/again", "")).await;
        assert_eq!(other.head().await.first(), "GET /again HTTP/1.1", "other connections are still shared");
    }
}

#[tokio::test]
async fn an_authenticated_connection_keeps_its_client_at_its_endpoint() {
    let backends = [RawBackend::bind().await, RawBackend::bind().await];
    let harness = Harness::with_rule(rule(&backends.each_ref().map(RawBackend::own_endpoint)));
    let mut client = harness.client().await;
    client.send(get("/", "")).await;
    let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    let (mut peer, _) = tokio::select! {
        answered = backends[0].answer(answer) => answered,
        answered = backends[1].answer(answer) => answered,
    };
    assert_eq!(client.head().await.status(), 401);
    for _ in 0..4 {
        client.send(get("/", "")).await;
        peer.head().await;
        peer.send(OK).await;
        assert_eq!(client.head().await.status(), 200);
        client.expect("ok").await;
    }
}

#[tokio::test]
async fn characters_that_browsers_and_curl_do_not_escape_pass_unchanged() {
    let (backend, harness) = one_backend().await;
    for target in ["/ws?q=\"<>`|{}^", "/a\"b<c>`d?e", "/?<", "/?\"%22\"#"] {
        let target = target.trim_end_matches('#');
        for (request, answer) in [(get(target, "X: \"<\r\n"), OK.to_owned()), (handshake(target, ""), switching(""))] {
            for mut client in clients(&harness, &backend).await {
                client.send(&request).await;
                let (mut peer, asked) = backend.answer(&answer).await;
                assert_eq!(asked.first(), format!("GET {target} HTTP/1.1"));
                let status = client.head().await.status();
                assert_eq!(status, if answer == OK { 200 } else { 101 });
                if status == 200 {
                    client.expect("ok").await;
                    client.send(get("/next?%22", "")).await;
                    assert_eq!(peer.head().await.first(), "GET /next?%22 HTTP/1.1", "only the one sent like this");
                    peer.send(OK).await;
                    client.head().await;
                    client.expect("ok").await;
                }
            }
        }
    }
}

#[tokio::test]
async fn such_a_target_may_come_with_a_body_and_in_absolute_form() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    client.send(format!("POST http://{HOST}/a?\"b HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbo")).await;
    client.send("dy").await;
    let (mut peer, asked) = backend.answer(OK).await;
    assert_eq!(asked.first(), "POST /a?\"b HTTP/1.1");
    peer.expect("body").await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn old_health_checks_without_a_host_reach_routes_for_every_host_and_no_others() {
    let (backend, harness) = for_any_host().await;
    let mut client = harness.client().await;
    client.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    let (_peer, asked) = backend.answer(OK).await;
    assert_eq!((asked.field("host"), asked.field("x-forwarded-host")), (Some("chat.shop"), None));
    assert_eq!(client.head().await.status(), 200);
    let (_backend, named) = one_backend().await;
    assert_eq!(named.ask("GET /healthz HTTP/1.0\r\n\r\n").await.1.status(), 404);
    assert_eq!(named.ask("GET /healthz HTTP/1.1\r\n\r\n").await.1.status(), 400);
}

#[tokio::test]
async fn schemes_and_methods_that_are_not_ours_are_refused() {
    let (_backend, harness) = one_backend().await;
    let ftp = format!("GET ftp://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(harness.ask(&ftp).await.1.status(), 400);
    let (_client, head) = harness.ask(&get("/", "").replace("GET", "TRACE")).await;
    assert_eq!(head.status(), 405);
    assert!(head.field("allow").unwrap().contains("GET") && !head.field("allow").unwrap().contains("TRACE"));
}

#[tokio::test]
async fn a_body_that_is_malformed_from_the_start_is_a_502() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    for body in ["2;a=\"\n\r\nhi\r\n0\r\n\r\n", "zz\r\nhi\r\n", "-1\r\n\r\n", "fffffffffffffffff\r\n"] {
        client.send(get("/", "")).await;
        let (_peer, _) = backend.answer(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        let head = client.head().await;
        assert_eq!(head.status(), 502, "{body:?}");
        client.body(&head).await;
    }
}

#[tokio::test]
async fn a_response_with_an_ambiguous_coding_is_a_502_that_says_so() {
    let (backend, harness) = one_backend().await;
    let (mut client, twice) = (harness.client().await, "Transfer-Encoding: chunked\r\n".repeat(2));
    client.send(get("/", "")).await;
    let (_peer, _) = backend.answer(&format!("HTTP/1.1 200 OK\r\n{twice}\r\n0\r\n\r\n")).await;
    let head = client.head().await;
    assert_eq!(head.status(), 502);
    assert!(client.body(&head).await.contains("transfer coding"));
}

#[tokio::test]
async fn a_switch_in_an_older_version_is_a_502() {
    let (backend, harness) = one_backend().await;
    for mut client in clients(&harness, &backend).await {
        client.send(handshake("/ws", "")).await;
        let (_peer, _) = backend.answer(&switching("").replace("HTTP/1.1", "HTTP/1.0")).await;
        let head = client.head().await;
        assert_eq!(head.status(), 502);
        assert!(client.body(&head).await.contains("not HTTP/1.1"));
    }
}

#[tokio::test]
async fn connection_names_a_bounded_number_of_fields() {
    let (backend, harness) = one_backend().await;
    for mut client in clients(&harness, &backend).await {
        let names = vec!["z"; 64].join(",");
        client.send(handshake("/ws", "").replace("Connection: ", &format!("Connection: {names},"))).await;
        assert_eq!(client.head().await.status(), 400);
    }
}

#[tokio::test]
async fn other_upgrades_are_served_as_plain_requests_and_logged() {
    let log = Log::capture();
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    client.send(get("/exec", "Connection: Upgrade\r\nUpgrade: SPDY/3.1-peers-test\r\n")).await;
    let (_peer, asked) = backend.answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((asked.field("upgrade"), asked.field("connection")), (None, None));
    assert_eq!(client.head().await.status(), 400);
    assert!(log.text().lines().any(|line| line.contains("DEBUG") && line.contains("SPDY/3.1-peers-test")));
}

#[tokio::test]
async fn responses_of_the_proxy_name_no_service_route_or_namespace() {
    let unready = rule(&[]);
    let unreachable = rule(&[endpoint("none", refusing().await)]);
    let mut faulty = rule(&[]);
    faulty.fault = Some("the cookie x on shop belongs to chat".into());
    let mut unresolved = rule(&[]);
    unresolved.backends =
        Box::new([WeightedBackend { weight: 1, target: Err("there is no Service shop/chat".into()) }]);
    for rule in [unready, unreachable, faulty, unresolved] {
        let mut table = table(rule);
        table.claim_unreadable(&HostPattern::parse("b.example.com"), ObjectName::new("shop", "chat").into());
        let harness = Harness::with_table(table);
        for request in [get("/", ""), handshake("/", ""), get("/", "").replace(HOST, "b.example.com")] {
            let (mut client, head) = harness.ask(&request).await;
            let body = client.body(&head).await;
            assert_eq!(head.status(), 503);
            assert!(body.len() > 20 && !body.contains("shop") && !body.contains("chat"), "{body}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_fails_is_logged_with_its_endpoint_and_not_for_each_request() {
    let log = Log::capture();
    let harness = Harness::with_rule({
        let mut rule = rule(&[endpoint("dead-endpoint", refusing().await)]);
        rule.route = ObjectName::new("shop", "dead-route").into();
        rule
    });
    for request in [get("/", ""), handshake("/", "")].iter().cycle().take(10) {
        assert_eq!(harness.ask(request).await.1.status(), 503);
    }
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("WARN") && line.contains("dead-route")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("dead-endpoint"), "{lines:?}");
}

#[tokio::test]
async fn a_handshake_that_gets_no_response_is_logged_with_its_endpoint() {
    let log = Log::capture();
    let backend = RawBackend::bind().await;
    let mut rule = rule(&[backend.own_endpoint()]);
    rule.policy.timeouts.handshake = Some(Duration::from_millis(20));
    rule.route = ObjectName::new("shop", "silent-route").into();
    let harness = Harness::with_rule(rule);
    assert_eq!(harness.ask(&handshake("/ws", "")).await.1.status(), 504);
    let text = log.text();
    let line = text.lines().find(|line| line.contains("WARN") && line.contains("silent-route")).unwrap();
    assert!(line.contains(&backend.name), "{line}");
}

#[tokio::test]
async fn a_body_after_a_pipelined_head_is_never_read_as_a_head() {
    let (backend, harness) = one_backend().await;
    let mut client = harness.client().await;
    let post = format!("POST /2 HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 14\r\n\r\n");
    client.send(get("/1", "") + &post).await;
    let mut peer = backend.accept().await;
    assert_eq!(peer.head().await.first(), "GET /1 HTTP/1.1");
    client.send("x \" HTTP/1.1\n!").await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
    client.expect("ok").await;
    assert_eq!(peer.head().await.first(), "POST /2 HTTP/1.1");
    peer.expect("x \" HTTP/1.1\n!").await;
    client.send(get("/3", "")).await;
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
    client.expect("ok").await;
    assert_eq!(peer.head().await.first(), "GET /3 HTTP/1.1");
    peer.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}
